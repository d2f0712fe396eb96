"""The content of `result.json`, and the names of runs."""

import dataclasses
import json
import types

import numpy as np
import pytest

from fedjax_rec import CsvData, Experiment, FedMF, FileData, SyntheticData
from fedjax_rec.experiment.record import record, run_name


@pytest.mark.parametrize(
    ("experiment", "name"),
    [
        (Experiment(name="a"), "a-pfedrec-synthetic-s0"),
        (
            Experiment(name="b", algorithm=FedMF(), data=FileData(), seed=3),
            "b-fedmf-movielens-100k-s3",
        ),
        (Experiment(name="c", data=CsvData(dir="x/sales.csv")), "c-pfedrec-sales-s0"),
        (Experiment(name="d", data=CsvData()), "d-pfedrec-csv-s0"),
    ],
)
def test_names_of_runs(experiment, name):
    assert run_name(experiment) == name


def rounds(*losses):
    return [
        {"event": "round", "round": number, "loss": loss}
        for number, loss in enumerate(losses, 1)
    ]


def test_the_record_has_plain_values_only():
    data = SyntheticData(num_users=9, num_items=12, num_interactions=60).load()
    split = types.SimpleNamespace(train=data, val=data.take(np.arange(2)), test=data)
    targets = types.SimpleNamespace(
        user=np.arange(3),
        positives=np.ones((3, 1)),
        exclude_items=np.zeros(0),
        exclude_size=np.zeros(3),
        candidates=None,
        pool=None,
    )
    simulation = types.SimpleNamespace(
        split=split,
        targets={"test": targets},
        data=types.SimpleNamespace(num_clients=9),
        notes={"devices": {"classes": {}}},
        multi_user=False,
    )
    costs = dict.fromkeys(("up_bytes", "down_bytes", "simulated_seconds"), 1.0)
    costs |= dict.fromkeys(("invited", "arrived", "clients"), 3.0)
    history = [{**event, **costs} for event in rounds(1.0, float("inf"))]
    result = {
        "protocol": {"split_info": {"ties": "random", "query": data}, "preset": "x"},
        "history": history,
        "metrics": {},
        "selected": 1,
        "diverged_in_round": 2,
        "baselines": {},
        "rounds": 2,
    }
    content = record(Experiment(name="a", seed=4), simulation, result)  # pyright: ignore
    assert json.loads(json.dumps(content)) == content
    assert content["protocol"] == {"split_info": {"ties": "random"}, "preset": "x"}
    assert content["data"]["users"] == 9
    assert content["data"]["val"] == 2
    assert content["data"]["clients"] == 9
    assert content["devices"] == {"classes": {}}
    assert content["diverged_in_round"] == 2
    assert content["costs"]["up_bytes"] == 2.0
    assert (content["algorithm"], content["seed"]) == ("PFedRec", 4)
    result = {**result, "history": history[:1], "diverged_in_round": None}
    content = record(Experiment(name="a"), simulation, result)  # pyright: ignore
    assert "diverged_in_round" not in content
    assert "untimed" not in content["data"]
    assert "dispersion_over" not in content
    simulation.multi_user = True
    content = record(Experiment(name="a"), simulation, result)  # pyright: ignore
    assert content["dispersion_over"] == "clients"
    split.train = dataclasses.replace(data, notes={"timestamps_missing": 60})
    split.by_time, split.name = True, "leave_one_out"
    content = record(Experiment(name="a"), simulation, result)  # pyright: ignore
    assert "60 interactions of 'synthetic' have no" in content["data"]["untimed"]
