"""The notebooks run from top to bottom, and are committed without outputs."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
SMALL = {
    "01_quickstart": """
backbone, adapter, layers, shuffle_texts = "tiny", "lora", 1, False
num_users, num_items, num_interactions, rounds, seed = 40, 60, 600, 2, 0
""",
    "02_write_your_own_system": """
num_users, num_items, num_interactions, rounds, seed = 30, 30, 400, 5, 0
""",
    "03_scaling_and_sweeps": """
num_users, num_items, num_interactions, rounds = 40, 30, 500, 6
rates, seeds, devices = "log:2:8:2", "0:2", 2
""",
}
"""In place of the form."""
SHOWN = {
    "01_quickstart": ("path suffix: lora", "FedFM", "popularity", "Backbone tiny"),
    "02_write_your_own_system": (
        "ok       Masked pairs change neither the loss nor the gradient",
        "BROKEN   A batch without pairs has loss 0 and gradient 0: the loss",
        "ok       Clients fold in any grouping and order",
        "ok       The serialized message has as many bits as are counted",
        "popularity 0.",
        "Recommendation(item=",
    ),
    "03_scaling_and_sweeps": (
        "4 points as one program, in blocks of 2 device(s) x 1 seed(s) x 2 setting(s)",
        "| best |",
        "| 2 | 0.",
        "largest difference of an item vector: ",
        "clients of a chunk: {",
        "devices busy: ",
    ),
}
"""Parts of the outputs."""
TEXTS = ("text/plain", "text/markdown")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_they_are_there():
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL) == sorted(SHOWN)


def test_it_is_committed_without_outputs_and_is_clean_python(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    for check in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *check, "--no-cache", str(path)]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr


def test_it_runs_and_ends_in_a_table_and_a_plot(path, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    forms = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    assert len(forms) == 1
    assert "@param" in forms[0].source
    forms[0].source = SMALL[path.stem]
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "error"]
    text = "\n".join(
        str(o.get("text", ""))
        + "\n".join(str(o.get("data", {}).get(kind, "")) for kind in TEXTS)
        for o in outputs
    )
    for shown in SHOWN[path.stem]:
        assert shown in text
    assert "image/png" in outputs[-1].data
