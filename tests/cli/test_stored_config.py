"""An experiment comes back from `config.json`."""

import dataclasses
import json
from pathlib import Path

import pytest

from fedjax_rec.algorithms import FedFM
from fedjax_rec.cli.config_file import load_configs
from fedjax_rec.cli.stored_config import stored_experiment
from fedjax_rec.data.settings import CsvData
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.experiment.build import Experiment
from fedjax_rec.runs.folder import plain
from fedjax_rec.storage.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


def through_json(experiment):
    return json.loads(json.dumps(plain(experiment)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_comes_back(path):
    for experiment in load_configs(str(path)).experiments:
        assert stored_experiment(through_json(experiment), "run") == experiment


def test_optional_and_nested_values_come_back():
    experiment = Experiment(
        name="x",
        data=CsvData(dir="a/b", min_rating=3.5),
        algorithm=FedFM(personal=("lora_b", "head"), client_lr=0.1 + 0.2),
        protocol=Protocol(cutoffs=(3, 10)),
    )
    found = stored_experiment(through_json(experiment), "run")
    assert found == experiment
    assert isinstance(found.protocol.cutoffs, tuple)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"speed": 3}, "it has no field speed"),
        ({"data": {"type": "MyData"}}, "data is a MyData, expected one of Synth"),
        ({"split": {"type": "SplitConfig", "tie": 1}}, "split has no field tie"),
    ],
)
def test_what_only_another_program_knows_is_told(change, expected):
    config = {**through_json(Experiment(name="x")), **change}
    with pytest.raises(UserError, match=expected) as told:
        stored_experiment(config, "runs/x")
    assert "fedjax-rec train CONFIG --resume runs/x" in str(told.value)


def test_a_field_of_a_later_version_is_told():
    config = through_json(Experiment(name="x"))
    del config["seed"]
    with pytest.raises(UserError, match=r"seed: \(absent\) there, 0 now"):
        stored_experiment(config, "run")


def test_every_field_of_an_experiment_is_stored():
    names = {field.name for field in dataclasses.fields(Experiment)}
    assert through_json(Experiment(name="x")).keys() == names | {"type"}
