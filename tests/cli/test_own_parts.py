"""Examples of data, splits, partitions and metrics: trained, resumed, reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.cli import main
from tests.own_rule import no_kinds  # noqa: F401

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.usefixtures("no_kinds")


@pytest.fixture
def plugin(folder, write):
    """Copies an example, and returns flags that load it; a small config lies next."""
    write()

    def plugin(name):
        shutil.copy(EXAMPLES / f"{name}.py", folder)
        return "--plugin", f"{name}.py"

    return plugin


def read(path, name="result.json"):
    return json.loads((path / name).read_text())


def test_a_metric_selects_resumes_and_is_reported(plugin, folder, shows):
    flags = (*plugin("own_metric"), "--protocol.metric", "variety", "--quiet")
    select = ("--protocol.selection", "variety@3", "--protocol.metric.k", "3")
    assert main(["train", "small.py", *flags, *select, "--output", "run"]) == 0
    config = read(folder / "run", "config.json")["protocol"]["metric"]
    assert (config["type"], config["k"]) == ("Variety", 3)
    assert config["defined_in"]["file"] == "own_metric.py"
    assert main(["train", "--resume", "run", "--rounds", "3", "--quiet"]) == 0
    result = read(folder / "run")
    assert result["protocol"]["metric"]["names"] == ["variety@3"]
    events = map(json.loads, (folder / "run" / "metrics.jsonl").open())
    values = {e["round"]: e["val"]["variety@3"] for e in events if "val" in e}
    assert len(values) == 3
    assert result["metrics"]["val"]["variety@3"] == max(values.values())
    users = np.load(folder / "run" / "users.npz")
    mean = pytest.approx(users["variety@3"].mean(), abs=1e-6)
    assert result["metrics"]["test"]["variety@3"] == mean
    for ranker in result["baselines"].values():
        assert 0 < ranker["variety@3"] <= 3
    text = shows("report", "run")
    assert "variety@3" in text
    assert "the best validation variety@3" in text


def test_a_metric_is_swept_side_by_side_and_compared_in_pairs(plugin, folder, shows):
    flags = (*plugin("own_metric"), "--protocol.metric", "variety", "--quiet")
    grid = ("--grid", "protocol.metric.k=3,5", "--grid", "algorithm.client_lr=0.01,0.1")
    assert main(["sweep", "small.py", *flags, *grid, "--output", "swept"]) == 0
    runs = sorted(str(path.parent) for path in (folder / "swept").glob("*/result.json"))
    metrics = [read(Path(run))["metrics"]["test"] for run in runs]
    assert [{"variety@3", "variety@5"} & m.keys() for m in metrics] == [
        {"variety@3"},
        {"variety@3"},
        {"variety@5"},
        {"variety@5"},
    ]
    header = (folder / "swept" / "table.csv").read_text().splitlines()[0]
    assert "test.variety@3" in header
    assert "B - A, variety@3" in shows("report", "--paired", *runs[:2])
