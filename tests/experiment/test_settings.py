"""An experiment checks its own values."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    Execution,
    Experiment,
    FedAdam,
    FedAvg,
    FedFM,
    Krum,
    MeshConfig,
    PFedRec,
    StoreConfig,
    SyntheticData,
    Uniform,
)
from fedjax_rec.backbones.settings import BackboneConfig


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (Experiment, {"rounds": 0}, "rounds must be at least 1, got 0"),
        (Experiment, {"eval_every": -2}, "eval_every must be at least 1, got -2"),
        (Experiment, {"seed": -1}, r"seed must lie in \[0, 2\*\*32\), got -1"),
        (Experiment, {"seed": 2**32}, r"seed must lie in \[0, 2\*\*32\)"),
        (Execution, {"encode": "never"}, "encode='never', expected one of auto, once"),
        (Execution, {"dtype": "int8"}, "dtype='int8', expected one of float32, float"),
        (Execution, {"max_buckets": 0}, "max_buckets must be at least 1, got 0"),
        (Execution, {"examples_per_chunk": -1}, "examples_per_chunk"),
        (MeshConfig, {"model": 0}, "model must be at least 1, got 0"),
        (MeshConfig, {"devices": -1}, "devices"),
        (MeshConfig, {"model": 2, "items": 2}, "either the backbone or the item tab"),
        (StoreConfig, {"location": "tape"}, "location='tape', expected one of auto"),
        (BackboneConfig, {"dtype": "int4"}, "dtype='int4', expected one of float32"),
        (BackboneConfig, {"max_tokens": -1}, "max_tokens"),
    ],
)
def test_absurd_values_are_refused(cls, fields, message):
    named = {"name": "x"} if cls is Experiment else {}
    with pytest.raises(ValueError, match=message):
        cls(**named, **fields)


def test_whole_numbers():
    with pytest.raises(TypeError, match=r"rounds=1000\.0: expected a whole number"):
        Experiment(name="x", rounds=1e3)  # pyright: ignore[reportArgumentType]
    rounds = np.int64(3)
    assert Experiment(name="x", rounds=rounds).rounds == 3  # pyright: ignore[reportArgumentType]


class Plain:
    """It has the method, but no fields."""

    def build(self, context):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NoMethod:
    """It has fields, but no method."""

    size: int = 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": FedAvg}, r"algorithm=FedAvg is a class: call FedAvg\(\)"),
        ({"algorithm": "fedavg"}, r"='fedavg': expected a dataclass .* such as FedAvg"),
        ({"split": "leave-last"}, r"split='leave-last': .* such as LeaveLast\(\)"),
        ({"split": "first"}, "split='first': .* such as LeaveOneOut, LeaveLast, Ratio"),
        (
            {"codec": Krum()},
            r"codec=Krum\(...\) is a kind of aggregation; expected one of float32",
        ),
        ({"aggregation": SGD()}, r"aggregation=SGD\(...\) is a kind of"),
        (
            {"algorithm": FedAvg(client_optimizer=FedAdam())},
            r"algorithm.client_optimizer=FedAdam\(...\) is a kind of server_optimizer",
        ),
        ({"cohort": 12}, "cohort=12: expected a dataclass of settings"),
        ({"data": None}, "data=None: expected a dataclass .* SyntheticData, FileData"),
        ({"algorithm": Plain()}, "algorithm=.*Plain.*: expected a dataclass"),
        ({"algorithm": NoMethod()}, r"NoMethod\(...\) has no method build"),
        ({"cohort": NoMethod()}, "no method slots, build, check, describe; expected"),
        ({"data": NoMethod()}, "has no method load; expected load"),
        (
            {"algorithm": FedAvg(client_optimizer="adam")},
            r"algorithm.client_optimizer='adam': .* such as Adam\(\)",
        ),
        (
            {"algorithm": FedFM(adapter="prefix_tuning")},
            r"algorithm.adapter='prefix_tuning': .* such as PrefixTuning\(\)",
        ),
    ],
)
def test_parts_that_are_no_settings_are_refused(fields, message):
    with pytest.raises(TypeError, match=message):
        Experiment(name="x", **fields)


def test_parts_that_may_be_absent():
    parts = dict.fromkeys(("wrapper", "aggregation", "codec", "attack"))
    assert Experiment(name="x", **parts) == Experiment(name="x")
    assert Experiment(name="x", algorithm=FedFM(adapter=None)).algorithm


def test_an_algorithm_of_ones_own_is_a_part():
    @dataclasses.dataclass(frozen=True)
    class Own:
        users: str = "anything"  # a slot's name with a plain value

        def build(self, context):
            raise NotImplementedError

    assert Experiment(name="x", algorithm=Own()).algorithm == Own()


def test_experiments_are_values():
    one = Experiment(name="x", cohort=Uniform(size=3))
    other = dataclasses.replace(Experiment(name="x"), cohort=Uniform(size=3))
    assert one == other
    assert hash(one) == hash(other)
    assert Experiment(name="x").data == SyntheticData()
    assert Experiment(name="x").algorithm == PFedRec()


def test_settings_load_nothing_heavy():
    code = "import sys; from fedjax_rec import Experiment, FedFM, TopK, Krum; "
    code += "print(*{'jax', 'optax', 'flax', 'tensorflow_datasets'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
