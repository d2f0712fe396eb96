"""An experiment comes back from `config.json`."""

import dataclasses
import json
from pathlib import Path

import pytest

from fedjax_rec import (
    CsvData,
    Experiment,
    FedAdam,
    FedAvg,
    FedFM,
    FlexLoRA,
    Joint,
    Protocol,
    Scaffold,
)
from fedjax_rec.cli.config_file import load_configs
from fedjax_rec.core.optimizers import SGD
from fedjax_rec.experiment.stored import stored_experiment
from fedjax_rec.fleet.devices import PHONES, FleetConfig
from fedjax_rec.runs.plain import plain
from fedjax_rec.storage.errors import UserError

PHONE = dataclasses.replace(PHONES[0], share=1.0)
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


def through_json(experiment):
    return json.loads(json.dumps(plain(experiment)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_comes_back(path):
    for experiment in load_configs(str(path)).experiments:
        assert stored_experiment(through_json(experiment), "run") == experiment


@pytest.mark.parametrize(
    "changes",
    [
        {"data": CsvData(dir="a/b", min_rating=3.5)},
        {"protocol": Protocol(cutoffs=(3, 10))},
        {"algorithm": FedAvg(server_optimizer=FedAdam(lr=0.1 + 0.2))},
        {
            "algorithm": FedFM(
                personal=("lora_b", "head"), training=Joint(optimizer=SGD(lr=0.3))
            )
        },
        {"algorithm": FedFM(adapter=None)},
        {"wrapper": FlexLoRA(ranks=(2, 4), then=Scaffold(tables=False))},
        {"fleet": FleetConfig(devices=(PHONE,))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_optional_and_nested_values_come_back(changes):
    experiment = Experiment(name="x", **changes)
    result = stored_experiment(through_json(experiment), "run")
    assert result == experiment
    assert repr(result) == repr(experiment)  # tuples are no lists


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"speed": 3}, "it has no field speed"),
        ({"data": {"type": "MyData"}}, "data is a MyData, which is no kind of a part"),
        ({"split": {"type": "LeaveOneOut", "tie": 1}}, "split has no field tie"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"codec": "top_k"}, "codec='top_k': expected a dataclass of settings"),
    ],
)
def test_values_of_another_program_are_refused(change, expected):
    config = {**through_json(Experiment(name="x")), **change}
    with pytest.raises(UserError, match=expected) as caught:
        stored_experiment(config, "runs/x")
    assert "fedjax-rec train CONFIG --resume runs/x" in str(caught.value)


def test_a_field_that_is_missing_is_named():
    config = through_json(Experiment(name="x"))
    del config["seed"]
    with pytest.raises(UserError, match=r"seed: \(absent\) there, 0 now"):
        stored_experiment(config, "run")


def test_every_field_of_an_experiment_is_stored():
    names = {field.name for field in dataclasses.fields(Experiment)}
    assert through_json(Experiment(name="x")).keys() == names | {"type"}
