"""Kinds of parts load, have defaults and flags, and come back from files."""

import copy
import dataclasses
import json
import typing

import pytest

import fedjax_rec
from fedjax_rec import Execution, Experiment, FedAvg, FedFM, Protocol, StoreConfig
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import fields_of, read_kind
from fedjax_rec.experiment.stored import stored_experiment
from fedjax_rec.runs.plain import plain

KINDS = [(slot, kind) for slot, kinds in registry.SLOTS.items() for kind in kinds]
OWNERS = {
    "model": FedAvg(),
    "client_optimizer": FedAvg(),
    "server_optimizer": FedAvg(),
    "adapter": FedFM(),
    "users": FedFM(),
    "training": FedFM(),
}
"""An algorithm with each slot that is no part of an experiment."""


FIRST = {"wrapper.then": "flexlora", "aggregation.then": "nnm", "codec.then": "top_k"}
"""A kind that another one may follow."""


def placed(slot, part):
    """An experiment with a part in its slot, and the part's dotted name."""
    if "." in slot:
        owner, field = slot.split(".")
        first = registry.load(owner, FIRST[slot])()
        part = dataclasses.replace(first, **{field: part})
        return Experiment(name="x", **{owner: part}), slot
    if slot == "optimizer":
        training = dataclasses.replace(FedFM().training, optimizer=part)
        algorithm = dataclasses.replace(FedFM(), training=training)
        return Experiment(name="x", algorithm=algorithm), "algorithm.training.optimizer"
    if slot == "metric":
        return Experiment(name="x", protocol=Protocol(metric=part)), "protocol.metric"
    if slot in OWNERS:
        algorithm = dataclasses.replace(OWNERS[slot], **{slot: part})
        return Experiment(name="x", algorithm=algorithm), f"algorithm.{slot}"
    return Experiment(name="x", **{slot: part}), slot


@pytest.mark.parametrize(("slot", "kind"), KINDS)
def test_every_kind_has_defaults_a_description_and_flags(slot, kind):
    cls = registry.load(slot, kind)
    part = cls()
    assert dataclasses.is_dataclass(part)
    assert hash(part) == hash(cls())
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")
    assert registry.name_of(part).partition("+")[0] == kind
    assert registry.load(slot, cls.__name__) is cls
    assert getattr(fedjax_rec, cls.__name__) is cls
    experiment, path = placed(slot, part)
    fields = fields_of(experiment)
    assert fields[path].slot == slot
    for field in dataclasses.fields(part):
        inner = f"{path}.{field.name}"
        assert inner in fields or any(name.startswith(f"{inner}.") for name in fields)
    assert read_kind(path, fields[path], kind) == part
    assert read_kind(path, fields[path], kind.replace("_", "-").upper()) == part


@pytest.mark.parametrize(("slot", "kind"), KINDS)
def test_every_kind_comes_back_from_a_file(slot, kind):
    experiment, _ = placed(slot, registry.load(slot, kind)())
    config = json.loads(json.dumps(plain(experiment)))
    assert stored_experiment(config, "run") == experiment


def test_a_class_has_one_name_and_a_name_one_class():
    """`config.json` has the names of classes, tables the names of kinds."""
    for mapping in (registry.kinds(), registry.locations()):
        assert len(set(mapping.values())) == len(mapping)
    for slot, kinds in registry.SLOTS.items():
        assert len(set(kinds.values())) == len(kinds), slot


def test_slots_by_field():
    assert registry.slot_of("codec") == "codec"
    assert registry.slot_of("algorithm.training.optimizer") == "optimizer"
    assert registry.slot_of("wrapper.then") == "wrapper.then"
    assert registry.slot_of("wrapper.then.then") == "wrapper.then"
    assert registry.slot_of("rounds") is None
    assert registry.slot_of("then") is None
    assert registry.slot_of("algorithm.then") is None


def test_an_unknown_kind():
    with pytest.raises(KeyError, match="nope"):
        registry.load("algorithm", "nope")


@dataclasses.dataclass(frozen=True)
class Own:
    """A part that is not in the registry."""

    then: object = None


def test_names_of_parts():
    assert registry.name_of(None) == "none"
    assert registry.name_of(Own()) == "Own"
    assert registry.name_of(Own(then=Own(then=FedAvg()))) == "Own+Own+fedavg"


def test_public_names_load_on_first_use():
    names = dir(fedjax_rec)
    assert {"Experiment", "build", "FedAvg", "FedAdam", "Uniform"} <= set(names)
    for name in names:
        assert getattr(fedjax_rec, name) is not None
    assert not hasattr(fedjax_rec, "Nope")
    assert not hasattr(fedjax_rec, "_private")


def test_every_field_of_a_literal_type_is_checked_where_a_part_is_made():
    checked = 0
    kinds = {registry.load(slot, kind) for slot, kind in KINDS}
    for cls in kinds | {Execution, Protocol, StoreConfig}:
        for field, hint in typing.get_type_hints(cls).items():
            if typing.get_origin(hint) is typing.Literal:
                with pytest.raises(ValueError, match="bogus"):
                    cls(**{field: "bogus"})
                checked += 1
    assert checked > 50


def test_values_of_another_type_are_refused_by_an_experiment():
    checked = 0
    for slot, kinds in registry.SLOTS.items():
        if "." in slot or slot not in {f.name for f in dataclasses.fields(Experiment)}:
            continue
        for part in (registry.load_class(location)() for location in kinds.values()):
            for field, hint in typing.get_type_hints(type(part)).items():
                wrong = {int: (8.5, "8"), float: ("0.1",), bool: ("no",)}.get(hint, ())
                for value in wrong:
                    changed = copy.copy(part)  # around the checks of its own class
                    object.__setattr__(changed, field, value)
                    with pytest.raises(TypeError, match=rf"{slot}.{field}=.*expected"):
                        Experiment(name="x", **{slot: changed})
                    checked += 1
    assert checked > 150
