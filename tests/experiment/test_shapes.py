"""Wrong results of one's own parts are named before anything compiles."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fedjax_rec as fr
from fedjax_rec.codecs import leaves, wire
from fedjax_rec.codecs.feedback import Codec

SMALL: dict[str, Any] = {
    "name": "own",
    "data": fr.SyntheticData(num_users=12, num_items=20, num_interactions=100),
    "algorithm": fr.FedAvg(model=fr.MatrixFactorization(dim=4)),
    "execution": fr.Execution(max_buckets=1),
}
SLOTS = ("algorithm", "aggregation", "codec", "wrapper", "attack")


@dataclasses.dataclass(frozen=True)
class Empty:
    value: Any = None

    def build(self, context):
        return self.value


def build(**parts):
    return fr.build(fr.Experiment(**{**SMALL, **parts}))


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize(("value", "words"), [(None, "None"), (3, "an int")])
def test_a_build_without_a_part_is_not_replaced(slot, value, words):
    with pytest.raises(ValueError, match=rf"Empty.build\(context\) returned {words}"):
        build(**{slot: Empty(value)})


@dataclasses.dataclass(frozen=True)
class Bare:
    def build(self):
        return None


def test_a_build_with_other_arguments_is_named():
    message = r"Bare.build cannot be called .* expected def build\(self, context\)"
    with pytest.raises(ValueError, match=message):
        build(codec=Bare())


def test_a_model_that_builds_none_is_named():
    with pytest.raises(ValueError, match=r"Empty.build\(context\) returned None"):
        build(algorithm=fr.FedAvg(model=Empty()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product(fr.ModelSettings):
    fault: str = ""
    weight: float = 1.0

    def parameters(self):
        return {"q": fr.table(3), "p": fr.dense(3, personal=True)}

    def score(self, p):
        if self.fault == "wide":
            return p.q
        if self.fault == "scalar":
            return p.p.sum()
        return p.q @ p.p

    def loss(self, p, batch):
        if self.fault == "name":
            return batch.bcee(self.score(p))
        if self.fault == "vector":
            return self.score(p)
        if self.fault == "branch" and self.weight > 0:
            return 0.0
        return batch.bce(self.score(p)) * self.weight


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wide", r"Product.score returns \[20, 3\] for 20 items, expected one"),
        ("scalar", r"Product.score returns \[\] for 20 items"),
        ("name", r"no attribute 'bcee' \(test_shapes.py, line \d+\)"),
        ("vector", r"Product.loss returns \[\d+\], expected a scalar"),
        ("branch", "name the field in the class attribute `static`; traced: weight"),
    ],
)
def test_faults_of_a_model_are_named(fault, message):
    with pytest.raises(ValueError, match=message):
        build(algorithm=fr.FedAvg(model=Product(fault=fault)))


@dataclasses.dataclass(frozen=True)
class Scores:
    """FedAvg with other scores."""

    count: int = 0

    def build(self, context):
        recipe = fr.FedAvg().build(context)
        score = lambda *_: jnp.zeros((self.count,) if self.count else ())  # noqa: E731
        return recipe._replace(model=recipe.model._replace(score=score))


@pytest.mark.parametrize(("count", "shape"), [(0, r"\[\]"), (7, r"\[7\]")])
def test_scores_of_another_shape_are_named(count, shape):
    message = rf"Scores: score of all items returns {shape}, expected \[20\]"
    with pytest.raises(ValueError, match=message):
        build(algorithm=Scores(count))


@dataclasses.dataclass(frozen=True)
class Narrow:
    """A mean that forgets the width of items."""

    def build(self, context):
        rule = fr.Mean().build(context)

        def finish(acc, state, shared):
            delta, state, info = rule.finish(acc, state, shared)
            return jax.tree.map(lambda x: x[:, :1], delta), state, info

        return rule._replace(finish=finish)


def test_an_aggregate_of_another_shape_is_named():
    message = r"Narrow: the aggregate .* has \[20, 1\] in item; expected \[20, 4\]"
    with pytest.raises(ValueError, match=message):
        build(aggregation=Narrow())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Short(Codec):
    """Loses the last number."""

    def link(self):
        def encode(values, count, key, place):
            return {"x": wire.floats(values, count)}

        def decode(sent, n, count):
            return leaves.clear(sent["x"].values, count)[:-1]

        return leaves.Link(encode, decode)


def test_a_codec_that_loses_numbers_is_named():
    with pytest.raises(ValueError, match="Short: encoding and decoding a delta fails"):
        build(codec=Short())


def test_lists_are_refused():
    with pytest.raises(TypeError, match=r"codec.value=\[1\] is a list, .* use a tuple"):
        fr.Experiment(name="x", codec=Empty([1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounded(Codec):
    """Float32, as a codec of one's own."""

    def link(self):
        def encode(values, count, key, place):
            return {"x": wire.floats(values, count)}

        def decode(sent, n, count):
            return leaves.clear(sent["x"].values, count)

        return leaves.Link(encode, decode)


@pytest.mark.parametrize(
    "parts",
    [
        {"aggregation": fr.Bulyan(share=0.1)},
        {"aggregation": fr.Krum()},
        {"wrapper": fr.FetchSGD()},
        {"wrapper": fr.IFCA()},
        {"wrapper": fr.IFCA(), "codec": Rounded()},
        {"wrapper": fr.Scaffold(), "codec": Rounded(feedback="ef")},
        {"attack": fr.SignFlip(), "codec": Rounded()},
    ],
    ids=str,
)
def test_parts_of_the_package_go_with_parts_of_ones_own(parts):
    """The check refuses no combination that builds without it."""
    algorithm = fr.FedAvg(model=Product())
    assert build(algorithm=algorithm, **parts).recipe is not None
