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
        assert 0 < ranker["variety@3"] <= 1
    text = shows("report", "run")
    assert "variety@3" in text
    assert "the best validation variety@3" in text


def test_a_metric_is_swept_side_by_side_and_compared_in_pairs(plugin, folder, shows):
    flags = (*plugin("own_metric"), "--grid", "protocol.metric=variety", "--quiet")
    grid = ("--grid", "protocol.metric.k=3", "--grid", "algorithm.client_lr=0.01,0.1")
    assert main(["sweep", "small.py", *flags, *grid, "--output", "swept"]) == 0
    runs = sorted(str(path.parent) for path in folder.glob("swept/*/result.json"))
    assert len(runs) == 2
    metrics = [read(Path(run))["metrics"]["test"] for run in runs]
    assert all(0 < values["variety@3"] <= 1 for values in metrics)
    header = (folder / "swept" / "table.csv").read_text().splitlines()[0]
    assert "test.variety@3" in header
    assert "B - A, variety@3" in shows("report", "--paired", *runs)


def test_a_partition_trains_resumes_and_is_reported(plugin, folder, shows, fails):
    flags = (*plugin("own_partition"), "--partition", "weekday", "--quiet")
    text = fails("train", "small.py", *flags)
    assert "the clients of the partition hold several users. Use" in text
    table = ("--algorithm", "fedavg", "--algorithm.model.users", "table")
    run = ("--algorithm.model.dim", "4", "--output", "run")
    assert main(["train", "small.py", *flags, *table, *run]) == 0
    partition = read(folder / "run", "config.json")["partition"]
    assert (partition["type"], partition["unit"]) == ("Weekday", "s")
    assert main(["train", "--resume", "run", "--rounds", "3", "--quiet"]) == 0
    result = read(folder / "run")
    assert (result["rounds"], result["data"]["clients"]) == (3, 7)
    assert "FedAvg" in shows("report", "run")
    assert "clients 7" in shows("data", "describe", "small.py", *flags[:-1])


def test_data_and_a_split_are_named_in_grids(plugin, folder, write, shows):
    split, data = plugin("own_split"), plugin("own_data")
    flags = (*split, *data, "--data", "diaries", "--data.readers", "30", "--quiet")
    grid = ("--grid", "split=random_one", "--rounds", "1")
    assert main(["sweep", "small.py", *flags, *grid, "--output", "swept"]) == 0
    results = [read(p.parent) for p in sorted(folder.glob("swept/*/result.json"))]
    assert {r["data"]["name"] for r in results} == {"diaries"}
    splits = [r["protocol"]["split"].partition("(")[0] for r in results]
    assert splits == ["random_one"]
    assert not any("untimed" in r["data"] for r in results)
    assert "random_one" in (folder / "swept" / "table.md").read_text()
