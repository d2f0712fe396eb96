"""Settings of data: importing them is cheap, and they load what they name."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.data.settings import CsvData, FileData, SyntheticData
from fedjax_rec.data.synthetic import synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["settings", "splits", "partition"])
def test_importing_settings_loads_nothing_heavy(module):
    code = (
        "import sys\n"
        f"import fedjax_rec.data.{module}\n"
        "heavy = {'jax', 'numpy', 'tensorflow_datasets', 'optax', 'flax', 'tqdm'}\n"
        "print(sorted(heavy & {*sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"


def test_synthetic_data_follow_their_seed():
    sizes = {"num_users": 20, "num_items": 30, "num_interactions": 200}
    data = SyntheticData(**sizes, seed=3)
    assert np.array_equal(data.load().item, synthetic(3, **sizes).item)
    assert data.origin() != SyntheticData(**sizes, seed=4).origin()


def test_files_are_sliced_and_identified_by_their_content(tmp_path):
    rows = ["user_id:token\titem_id:token", "b\tx", "a\tx", "a\ty", "b\ty", "b\tz"]
    table = tmp_path / "t.inter"
    table.write_text("\n".join(rows) + "\n")
    cache = str(tmp_path / "cache")
    data = FileData(source="amazon", dir=str(table), cache=cache)
    assert len(data.load()) == 5
    top = FileData(source="amazon", dir=str(table), cache=cache, top_items=2)
    assert list(top.load().items.ids) == ["x", "y"]
    first = FileData(source="amazon", dir=str(table), cache=cache, first_users=1)
    assert list(first.load().users.ids) == ["a"]
    assert len({data.origin(), top.origin(), first.origin()}) == 3
    before = data.origin()
    table.write_text("\n".join([*rows, "c\tx"]) + "\n")
    assert data.origin() != before


def test_a_table_is_read_by_its_settings(tmp_path):
    (tmp_path / "t.csv").write_text("who;what;stars\nann;x;4\nann;y;1\nbob;x;5\n")
    data = CsvData(
        dir=str(tmp_path / "t.csv"),
        user="who",
        item="what",
        rating="stars",
        delimiter=";",
        min_rating=2.0,
        cache=str(tmp_path / "cache"),
    )
    assert data.load().rating.tolist() == [4, 5]
    assert data.load().notes["below_min_rating"] == 1
