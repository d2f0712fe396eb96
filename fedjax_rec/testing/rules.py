"""Laws of aggregation rules."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators import fold
from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Aggregator, Senders
from fedjax_rec.models.settings import MatrixFactorization
from fedjax_rec.testing import world
from fedjax_rec.testing.compare import (
    check_close,
    check_finite,
    check_same,
    check_shapes,
    require,
)
from fedjax_rec.testing.law import NotApplicable

SHARED = {"item": rows.Table(values=jnp.zeros((6, 2))), "w": jnp.zeros(3)}
CLIENTS, COHORT, LARGER = 6, 10, 16
WEIGHTS = jnp.asarray([1.0, 0.0, 3.0, 2.0, 0.0, 1.0])
NEAR = {"atol": 1e-6, "rtol": 1e-7}


@functools.cache
def facts() -> Context:
    """Ten clients, for rules that read facts about the experiment."""
    algorithm = FedAvg(model=MatrixFactorization(dim=4), batch_size=8, negatives=2)
    return Context(
        num_items=6,
        num_users=10,
        num_clients=10,
        cohort_size=COHORT,
        dtype=jnp.dtype("float32"),
        examples=np.arange(1, 11),
        recipe=algorithm.build(world.context()),
    )


def deltas(seed: int, clients: int = CLIENTS) -> dict[str, Any]:
    """Deltas of some clients: a table's rows with repeats and padding, and an array."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 7, (clients, 5))
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids), values=jnp.asarray(rng.normal(size=(clients, 5, 2)))
        ),
        "w": jnp.asarray(rng.normal(size=(clients, 3))),
    }


def aggregate(aggregator: Aggregator, groups: Any, cohort: int = COHORT) -> Any:
    """The delta of groups of clients that are folded one after the other."""
    acc = aggregator.begin(aggregator.init(SHARED, cohort), aggregator.start(SHARED))
    for delta, weights, senders in groups:
        acc = aggregator.update(acc, delta, weights, senders)
    return aggregator.finish(acc, aggregator.start(SHARED), SHARED)[0]


def pick(delta: Any, at: Any, weights: Any = WEIGHTS, slots: Any = None) -> Any:
    """A group of the clients at some positions, and in `slots`, by default the same."""
    at = np.asarray(at)
    ids, slots = jnp.asarray(at), jnp.asarray(at if slots is None else slots)
    senders = Senders(slots=slots, ids=ids, loss=ids * 0.1)
    return jax.tree.map(lambda x: x[at], delta), weights[at], senders


def everyone(delta: Any, weights: Any = WEIGHTS) -> Any:
    """One group of all clients."""
    return [pick(delta, np.arange(len(weights)), weights)]


class Rule:
    """The aggregator of some settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.aggregator: Aggregator = settings.build(facts())

    @functools.cached_property
    def whole(self) -> Any:
        """The delta of all clients at once."""
        return aggregate(self.aggregator, everyone(deltas(0)))

    @functools.cached_property
    def compiled(self) -> Any:
        """`aggregate` of groups of clients under `jax.jit`."""
        return jax.jit(lambda groups: aggregate(self.aggregator, groups))

    def together(self, delta: Any, weights: Any = WEIGHTS) -> Any:
        """The delta of all clients at once."""
        return self.compiled(everyone(delta, weights))


def builds(rule: Rule) -> None:
    """`build(context)` returns an Aggregator"""
    require(
        isinstance(rule.aggregator, Aggregator),
        f"it returned a {type(rule.aggregator).__name__}; expected a "
        "fedjax_rec.core.contracts.Aggregator",
    )


def the_delta_is_like_the_shared_parameters(rule: Rule) -> None:
    """`finish` returns a finite delta with the shapes of the shared parameters"""
    check_shapes(rule.whole, SHARED, "the delta of six clients")
    check_finite(rule.whole, "the delta of six clients")


@functools.lru_cache(maxsize=1)
def any_grouping(rule: Rule) -> None:
    """Clients fold in any grouping and order, and in any slots"""
    delta = deltas(0)
    parts = [pick(delta, at) for at in ([4, 2], [0], [5, 3, 1])]
    check_close(
        aggregate(rule.aggregator, parts),
        rule.whole,
        "the delta of six clients in three groups, and in one",
        **NEAR,
    )
    order = np.asarray([4, 2, 0, 5, 3, 1])
    for slots, clients in ((order, np.arange(CLIENTS)), (np.arange(CLIENTS), order)):
        check_close(
            rule.compiled([pick(delta, clients, WEIGHTS, slots)]),
            rule.whole,
            f"the delta of clients {clients.tolist()} in slots {slots.tolist()} of the "
            "cohort, and in order (does a client's weight depend on its slot or its "
            "place in the chunk?)",
            **NEAR,
        )


@functools.lru_cache(maxsize=1)
def weight_zero_is_absent(rule: Rule) -> None:
    """A client of weight 0 is absent, whatever its message holds"""
    weights, delta = jnp.arange(1.0, 1 + COHORT), deltas(2, COHORT)
    full = aggregate(rule.aggregator, everyone(delta, weights))
    # Absent clients have the slot after the last one.
    slots = np.asarray([0, 16, 2, 3, 16, 5, 6, 16, 8, 9, 16, 11, 12, 16, 14, 16])
    absent = slots == LARGER
    at = np.where(absent, 0, np.cumsum(~absent) - 1)
    larger, weights, senders = pick(delta, at, weights, slots)
    weights = jnp.where(absent, 0, weights)
    senders = dataclasses.replace(senders, ids=jnp.where(absent, COHORT, senders.ids))
    larger = rows.map_values(lambda x: jnp.where(fold.wide(absent, x), 0, x), larger)
    check_close(
        aggregate(rule.aggregator, [(larger, weights, senders)], LARGER),
        full,
        "the delta of ten clients and six absent ones (weight 0, delta 0), and of the "
        "ten in a cohort of ten (are absent clients counted, or their zeros used?)",
        **NEAR,
    )
    delta = deltas(0)
    check_close(
        aggregate(rule.aggregator, [pick(delta, [0, 2, 3, 5])]),
        rule.whole,
        "the delta without the clients of weight 0, and with them",
        **NEAR,
    )
    absent = np.asarray(WEIGHTS) == 0

    def large(x: Any) -> Any:
        return jnp.where(absent.reshape(-1, *[1] * (x.ndim - 1)), 1e9, x)

    check_close(
        rule.together(rows.map_values(large, delta)),
        rule.whole,
        "the delta if clients of weight 0 send 1e9, and as they were",
        **NEAR,
    )


def nobody_gives_zeros(rule: Rule) -> None:
    """Without any client the delta is zero"""
    nobody = rule.together(deltas(0), jnp.zeros(CLIENTS))
    check_close(
        nobody,
        jax.tree.map(jnp.zeros_like, nobody),
        "the delta of a round in which all clients have weight 0, and zero",
    )


def jit_equals_eager(rule: Rule) -> None:
    """Compiled and eager computation agree"""
    check_close(
        rule.together(deltas(0)),
        rule.whole,
        "the delta under jax.jit, and without",
        **NEAR,
    )


def builds_the_same_twice(rule: Rule) -> None:
    """Building twice gives the same rule"""
    again = aggregate(rule.settings.build(facts()), everyone(deltas(0)))
    check_same(again, rule.whole, "the delta of a rule built again, and of the first")


def linear_is_true(rule: Rule) -> None:
    """`linear` is declared only if the delta is linear in the clients' deltas"""
    if not rule.aggregator.linear:
        raise NotApplicable("linear=False is declared")
    one, other = deltas(0), deltas(1)
    other["item"] = rows.Rows(ids=one["item"].ids, values=other["item"].values)
    mixed = rows.map_values(lambda a, b: 3 * a - 2 * b, one, other)
    parts = [rule.together(d) for d in (one, other, mixed)]
    check_close(
        parts[2],
        jax.tree.map(lambda a, b: 3 * a - 2 * b, parts[0], parts[1]),
        "linear=True is declared; the delta of 3 a - 2 b, and three times that of a "
        "minus twice that of b",
        atol=1e-5,
        rtol=1e-5,
    )


def coordinatewise_is_true(rule: Rule) -> None:
    """`coordinatewise` is declared if each number is decided from its own values"""
    for law in (any_grouping, weight_zero_is_absent):
        try:
            law(rule)
        except Exception as error:
            raise NotApplicable("another law of the deltas is broken") from error
    delta = deltas(0)
    changed = {**delta, "w": delta["w"].at[:, 0].multiply(-4.0)}
    after = rule.together(changed)
    rest = [(t["item"].values, t["w"][1:]) for t in (after, rule.whole)]
    apart = all(np.allclose(a, b, atol=1e-6) for a, b in zip(*rest, strict=True))
    if rule.aggregator.coordinatewise:
        require(
            apart,
            "coordinatewise=True is declared, and other numbers of the delta change "
            "when the clients' values of one number do",
        )
        return
    sparse = {**delta, "w": delta["w"].at[1:, 0].set(0.0)}
    require(
        not apart or float(rule.together(sparse)["w"][0]) != 0,
        "each number of the delta depends on the clients' values of that number only, "
        "and is 0 if three of four clients send 0: declare coordinatewise=True, so "
        "that codecs that send zeros in place of numbers are refused",
    )


LAWS = (
    builds,
    the_delta_is_like_the_shared_parameters,
    any_grouping,
    weight_zero_is_absent,
    nobody_gives_zeros,
    jit_equals_eager,
    builds_the_same_twice,
    linear_is_true,
    coordinatewise_is_true,
)
