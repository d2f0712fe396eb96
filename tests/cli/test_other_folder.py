"""A run whose data have a relative path, read from another folder."""

import json

import pytest

import fedjax_rec as fr
from fedjax_rec.cli import main
from fedjax_rec.experiment.stored import located
from fedjax_rec.runs.folder import read_run
from fedjax_rec.storage.errors import UserError

CONFIG = """
from fedjax_rec import CsvData, Execution, Experiment, PFedRec

def get_config():
    return Experiment(
        name="small",
        data=CsvData(),
        algorithm=PFedRec(dim=2, negatives=1),
        execution=Execution(max_buckets=1),
        rounds=2,
        eval_every=1,
    )
"""


@pytest.fixture
def away(tmp_path, monkeypatch):
    """Trains in one folder, and works in another."""
    start, other = tmp_path / "start", tmp_path / "other"
    start.mkdir()
    other.mkdir()
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    lines = [f"u{u},i{(u * 3 + i) % 9},{i}" for u in range(6) for i in range(5)]
    (start / "log.csv").write_text("user,item,timestamp\n" + "\n".join(lines))
    (start / "small.py").write_text(CONFIG)
    monkeypatch.chdir(start)
    flags = ["--data.dir", "log.csv", "--output", "run", "--quiet"]
    assert main(["train", "small.py", *flags, "--checkpoint.every", "1"]) == 0
    monkeypatch.chdir(other)
    return start


def test_a_run_is_read_and_continued_from_another_folder(away, capsys):
    run = away / "run"
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["dir"] == "log.csv"
    model = fr.load(run)
    assert model.experiment.data.dir == "log.csv"
    assert main(["recommend", str(run), "--user", "u1", "-k", "3"]) == 0
    more = ["--rounds", "3", "--quiet"]
    assert main(["train", "--resume", str(run), *more]) == 0
    assert read_run(run).part()["rounds"] == 3
    assert read_run(run).config["data"] == config["data"]
    capsys.readouterr()
    (away / "log.csv").rename(away / "gone.csv")
    assert main(["recommend", str(run), "--user", "u1"]) == 2
    said = capsys.readouterr().err
    assert str(away) in said
    assert "--data.dir" not in said
    with pytest.raises(UserError, match="data="):
        fr.load(run)


def test_only_paths_that_exist_there_are_replaced(tmp_path, away):
    (away / "tiny").mkdir()
    experiment = fr.Experiment(
        name="a",
        data=fr.CsvData(dir="log.csv", items_file="absent.csv"),
        backbone=fr.BackboneConfig(name="tiny", path="tiny"),
        algorithm=fr.FedAvg(model=fr.MatrixFactorization(users="table")),
    )
    (away / "table").mkdir()
    run = read_run(away / "run")
    found = located(experiment, run)
    assert found.data.dir == str(away / "log.csv")
    assert found.data.items_file == "absent.csv"
    assert found.backbone.path == str(away / "tiny")
    assert found.algorithm is experiment.algorithm
    assert located(experiment, None) is experiment
