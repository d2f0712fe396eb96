"""Fields of an experiment by their dotted name."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from fedjax_rec import (
    NNM,
    Experiment,
    FedAvg,
    FedFM,
    FedMF,
    FlexLoRA,
    Krum,
    MatrixFactorization,
    Momentum,
    PerUser,
    Scaffold,
)
from fedjax_rec.experiment.fields import (
    Field,
    fields_of,
    read_kind,
    read_value,
    shown,
    text_of,
    value_of,
    with_values,
)
from fedjax_rec.runs.plain import plain
from fedjax_rec.storage.errors import UserError

if TYPE_CHECKING:
    from nowhere import Missing  # pyright: ignore[reportMissingImports]

BASE = Experiment(name="x", algorithm=FedAvg(model=MatrixFactorization(dim=8)))


def test_fields_have_their_type_value_and_slot():
    fields = fields_of(BASE)
    assert fields["rounds"] == Field(int, 100, None)
    assert fields["algorithm"] == Field(Any, BASE.algorithm, "algorithm")
    assert fields["algorithm.model.dim"] == Field(int, 8, None)
    assert fields["codec"] == Field(Any, None, "codec")
    # two words, not FedFM's parts
    assert fields["algorithm.model.users"].slot is None
    assert fields_of(FedFM(), "algorithm.")["algorithm.users"].slot == "users"
    assert "fleet" not in fields  # of one kind only
    assert fields["fleet.seed"].hint is int


def test_a_type_that_cannot_be_resolved_is_that_of_the_value():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        missing: "Missing" = 3

    assert fields_of(Odd())["missing"] == Field(int, 3, None)


@pytest.mark.parametrize(
    ("hint", "texts", "expected"),
    [
        (int, ["-3"], -3),
        (float, ["1e-3"], 1e-3),
        (str, [""], ""),
        (Path, ["a/b"], Path("a/b")),
        (bool, [], True),
        (bool, ["False"], False),
        (str | None, ["none"], None),
        (float | None, ["2"], 2.0),
        (tuple[int, ...], ["1", "2"], (1, 2)),
        (tuple[float, ...], ["1,2", "3"], (1.0, 2.0, 3.0)),
        (tuple[str, ...], ["a,b", "c"], ("a,b", "c")),
        (tuple[str, ...], [], ()),
        (Literal["a", "b"], ["b"], "b"),
    ],
)
def test_values_are_read(hint, texts, expected):
    assert read_value("f", hint, texts) == expected


@pytest.mark.parametrize(
    ("hint", "texts", "message"),
    [
        (int, ["x"], "--a.b-c x: expected a whole number"),
        (float, ["1,2"], "--a.b-c 1,2: expected a number"),
        (bool, ["yes"], "--a.b-c yes: expected True or False"),
        (int, [], "--a.b-c: expected one value, got 0"),
        (tuple[int, ...], ["1", "x"], "--a.b-c x: expected a whole number"),
        (Literal["alpha", "b"], ["alhpa"], "one of alpha, b. Did you mean alpha?"),
        (dict, ["x"], "--a.b-c cannot be set by a flag; use a config file"),
    ],
)
def test_wrong_values_are_refused(hint, texts, message):
    with pytest.raises(UserError) as caught:
        read_value("a.b_c", hint, texts)
    assert message in str(caught.value)


def test_kinds_may_follow_one_another():
    field = Field(Any, None, "wrapper")
    assert read_kind("wrapper", field, "none") is None
    assert read_kind("wrapper", field, "flexlora") == FlexLoRA()
    both = read_kind("wrapper", field, "flexlora+scaffold")
    assert both == FlexLoRA(then=Scaffold())
    # What is of the same kind already keeps its values, link by link.
    field = Field(Any, FlexLoRA(ranks=(2, 4), then=Scaffold(tables=False)), "wrapper")
    assert read_kind("wrapper", field, "FlexLoRA+scaffold") == field.value
    assert read_kind("wrapper", field, "flexlora") == FlexLoRA(ranks=(2, 4))
    field = Field(Any, FlexLoRA(ranks=(2, 4)), "wrapper")
    both = read_kind("wrapper", field, "flexlora+scaffold")
    assert both == FlexLoRA(ranks=(2, 4), then=Scaffold())
    # Without one that follows, it is the default.
    field = Field(Any, None, "aggregation")
    assert read_kind("aggregation", field, "nnm") == NNM()
    assert read_kind("aggregation", field, "nnm+krum") == NNM(then=Krum())
    field = Field(Any, NNM(share=0.2, then=Krum()), "aggregation")
    assert read_kind("aggregation", field, "nnm") == NNM(share=0.2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wrapper", "scafold", "expected one of scaffold, ifca"),
        ("wrapper", "scafold", "Did you mean scaffold?"),
        ("wrapper", "flexlora+ifca", "--wrapper.then ifca: expected one of scaffold"),
        ("wrapper", "ifca+scaffold", "ifca is not followed by a kind"),
        ("wrapper", "flexlora+", "--wrapper.then : expected one of scaffold"),
        ("aggregation", "nnm+none", "--aggregation.then none: expected one of median"),
        ("algorithm", "none", "--algorithm none: expected one of "),
    ],
)
def test_wrong_kinds_are_refused(name, text, message):
    with pytest.raises(UserError) as caught:
        read_kind(name, fields_of(BASE)[name], text)
    assert message in str(caught.value)


def test_values_are_put_in():
    assert with_values(BASE, {}) == BASE
    changed = with_values(
        BASE, {"algorithm.model.dim": 4, "seed": 3, "wrapper": "scaffold"}
    )
    assert changed == Experiment(
        name="x",
        algorithm=FedAvg(model=MatrixFactorization(dim=4)),
        wrapper=Scaffold(),
        seed=3,
    )
    # Kinds come before their fields, whatever the order.
    values = {"algorithm.server_optimizer.lr": 0.5, "algorithm": "fedmf"}
    assert not hasattr(FedMF(), "server_optimizer")
    with pytest.raises(UserError, match="FedMF has no field 'server_optimizer'"):
        with_values(BASE, values)
    values = {"algorithm.client_optimizer.lr": 2.0}
    values |= {"algorithm.client_optimizer": "momentum"}
    algorithm = with_values(BASE, values).algorithm
    assert algorithm == FedAvg(
        model=MatrixFactorization(dim=8), client_optimizer=Momentum(lr=2.0)
    )
    # A part itself is as good as its name, and a word may be a plain value.
    assert with_values(BASE, {"partition": PerUser()}) == BASE
    changed = with_values(BASE, {"algorithm.model.users": "table"})
    assert changed.algorithm.model.users == "table"


def test_fields_of_one_part_change_at_once():
    base = dataclasses.replace(BASE, algorithm=FedMF(feedback="explicit", user_l2=0.5))
    values = {"algorithm.feedback": "implicit", "algorithm.user_l2": 1e-4}
    assert with_values(base, values).algorithm == FedMF()
    with pytest.raises(UserError, match=r"algorithm\.feedback=implicit: user_l2=0\.5"):
        with_values(base, {"algorithm.feedback": "implicit"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"algorithm.proximal": -1.0},
            "algorithm.proximal=-1: proximal must be finite",
        ),
        ({"algorithm.item_lr_scale": float("nan")}, "item_lr_scale must be finite"),
        ({"rounds": 0}, "rounds=0: rounds must be at least 1, got 0"),
        ({"mesh.model": 2, "mesh.items": 2}, "mesh.model=2, mesh.items=2: mesh.model"),
        ({"codec.bits": 3}, "codec is none, so it has no bits"),
        ({"wrapper": "nope"}, "--wrapper nope: expected one of"),
    ],
)
def test_values_that_a_part_refuses(values, message):
    with pytest.raises(UserError) as caught:
        with_values(BASE, values)
    assert message in str(caught.value)


def test_fields_are_read_back_from_a_config():
    wrapper = FlexLoRA(then=Scaffold())
    config = json.loads(json.dumps(plain(dataclasses.replace(BASE, wrapper=wrapper))))
    assert value_of(config, "rounds") == 100
    assert value_of(config, "algorithm.model.dim") == 8
    assert value_of(config, "algorithm.client_optimizer.lr") == 0.5
    assert value_of(config, "algorithm") == "fedavg"
    assert value_of(config, "wrapper") == "flexlora+scaffold"
    assert value_of(config, "wrapper.then") == "scaffold"
    assert value_of(config, "codec") is None
    assert value_of(config, "algorithm.rank") is None
    assert value_of(config, "nowhere.at_all") is None
    own = {"algorithm": {"type": "Own", "dim": 3}}
    assert value_of(own, "algorithm") == "Own"


def test_words_of_the_command_line():
    assert shown("algorithm.client_optimizer.lr") == "algorithm.client-optimizer.lr"
    assert text_of(0.1 + 0.2) == "0.3"
    assert text_of(float("inf")) == "inf"
    assert text_of((1, 2)) == "1 2"
    assert text_of(None) == "none"
    assert text_of(FlexLoRA(then=Scaffold())) == "flexlora+scaffold"
    assert text_of(BASE.fleet.devices) == "low mid high"
    assert text_of(True) == "True"
