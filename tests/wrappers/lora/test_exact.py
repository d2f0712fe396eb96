"""Exact aggregation against the dense average of the clients' weights, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators import means
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders
from fedjax_rec.wrappers.lora.rules import FedEx, FedIT, FLoRA

LAYERS, IN, OUT, R, C = 2, 7, 5, 3, 6
SITES = ("query", "value")
WEIGHTS = np.array([1.0, 3, 2, 0, 5, 4], np.float32)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def received(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "head": normal(rng, 4),
        "item": rows.Table(values=normal(rng, 6, 2)),
        "lora_a": {s: normal(rng, LAYERS, IN, R) for s in SITES},
        "lora_b": {s: normal(rng, LAYERS, R, OUT) for s in SITES},
        "lora_base": {s: normal(rng, LAYERS, IN, OUT) for s in SITES},
    }


def sent(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "head": normal(rng, C, 4),
        "item": rows.Rows(
            ids=jnp.asarray(rng.integers(0, 7, (C, 5))), values=normal(rng, C, 5, 2)
        ),
        "lora_a": {s: normal(rng, C, LAYERS, IN, R) for s in SITES},
        "lora_b": {s: normal(rng, C, LAYERS, R, OUT) for s in SITES},
        # Nobody may read what a client says of the base.
        "lora_base": {s: jnp.full((C, LAYERS, IN, OUT), jnp.nan) for s in SITES},
    }


def run(rule, shared, deltas, weights=WEIGHTS, chunk=2, state=None):
    """Folds in chunks; the shared parameters after a step of 1, state and info."""
    acc = rule.init(shared, C)
    for first in range(0, C, chunk):
        at = slice(first, first + chunk)
        slots = jnp.arange(C)[at]
        senders = Senders(slots=slots, ids=slots, loss=slots * 0.1)
        some = jax.tree.map(lambda x, at=at: x[at], deltas)
        acc = rule.update(acc, some, jnp.asarray(weights)[at], senders)
    state = rule.start(shared) if state is None else state
    delta, state, info = rule.finish(acc, state, shared)
    assert jax.tree.structure(delta) == jax.tree.structure(shared)
    return jax.tree.map(jnp.add, shared, delta), state, info


def effective(shared, site):
    """What stands beside the frozen weights: `C + A B`."""
    a, b, c = (
        np.asarray(shared[f"lora_{g}"][site], np.float64) for g in ("a", "b", "base")
    )
    return c + a @ b


def dense_average(shared, deltas, site, weights=WEIGHTS):
    mean = 0
    for i, n in enumerate(np.asarray(weights) / np.sum(weights)):
        own = {
            **shared,
            "lora_a": {site: shared["lora_a"][site] + deltas["lora_a"][site][i]},
            "lora_b": {site: shared["lora_b"][site] + deltas["lora_b"][site][i]},
        }
        mean = mean + n * effective(own, site)
    return mean


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("exact", [FedEx, FLoRA])
def test_the_model_is_the_dense_average_of_the_clients_models(exact, uniform):
    inner = means.per_row_mean(uniform=uniform)
    rule = exact(weights="uniform" if uniform else "examples").aggregator(inner)
    shared, deltas = received(), sent()
    weights = (WEIGHTS > 0).astype(np.float32) if uniform else WEIGHTS
    new, state, info = run(rule, shared, deltas)
    for site in SITES:
        expected = dense_average(shared, deltas, site, weights)
        np.testing.assert_allclose(effective(new, site), expected, atol=1e-5)
    # The gap is what plain means of the factors would be off by.
    p = weights / weights.sum()
    missed = whole = 0.0
    for site in SITES:
        own_a, own_b = (
            np.asarray(shared[g][site] + deltas[g][site]) for g in ("lora_a", "lora_b")
        )
        mean = np.einsum("v,vlir,vlro->lio", p, own_a, own_b)
        of_means = np.tensordot(p, own_a, 1) @ np.tensordot(p, own_b, 1)
        missed += ((mean - of_means) ** 2).sum()
        whole += (mean**2).sum()
    assert float(info["lora_gap"]) == pytest.approx((missed / whole) ** 0.5, rel=1e-5)
    assert missed > 0
    # All other groups go by the inner rule.
    plain, _, _ = run(inner, {k: shared[k] for k in ("head", "item")}, pick(deltas))
    for name in ("head", "item"):
        same(new[name], plain[name])
    # A second round goes on from there, exactly.
    again, _, _ = run(rule, new, sent(2), state=state)
    for site in SITES:
        expected = dense_average(new, sent(2), site, weights)
        np.testing.assert_allclose(effective(again, site), expected, atol=3e-5)


def pick(deltas):
    return {k: deltas[k] for k in ("head", "item")}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_corrected_factors_are_the_plain_means():
    shared, deltas = received(), sent()
    new, _, _ = run(FedEx().aggregator(means.weighted_mean()), shared, deltas)
    del shared["lora_base"], deltas["lora_base"]
    plain, _, _ = run(means.weighted_mean(), shared, deltas)
    for group in ("lora_a", "lora_b"):
        for site in SITES:
            np.testing.assert_allclose(new[group][site], plain[group][site], atol=2e-6)


def test_stacked_restarts_from_a_fresh_a_and_a_zero_b():
    rule = FLoRA().aggregator(means.weighted_mean())
    shared = received()
    one, state, _ = run(rule, shared, sent())
    two, _, _ = run(rule, one, sent(2), state=state)
    other, _, _ = run(rule, received(5), sent())
    for site in SITES:
        assert not np.asarray(one["lora_b"][site]).any()
        bound = IN**-0.5
        for new in (one, two, other):
            assert np.abs(new["lora_a"][site]).max() <= bound
        assert np.abs(one["lora_a"][site] - two["lora_a"][site]).max() > 0.01
        assert np.abs(one["lora_a"][site] - other["lora_a"][site]).max() > 0.01
    assert np.abs(one["lora_a"]["query"] - one["lora_a"]["value"]).max() > 0.01
    same(one, run(rule, shared, sent())[0])


@pytest.mark.parametrize("exact", [FedEx, FLoRA])
def test_a_round_without_clients_moves_nothing(exact):
    rule = exact().aggregator(means.weighted_mean())
    shared = received()
    new, state, info = run(rule, shared, sent(), weights=np.zeros(C, np.float32))
    same(new, shared)
    same(state, rule.start(shared))
    assert float(info["lora_gap"]) == 0


def test_clients_that_agree_leave_no_gap_and_the_gap_grows_with_their_difference():
    shared, rule = received(), FedIT().aggregator(means.weighted_mean())
    del shared["lora_base"]
    found = []
    for spread in (0.0, 0.1, 1.0):
        deltas = {
            **sent(),
            **{
                g: jax.tree.map(lambda x, s=spread: x[:1] + s * (x - x[:1]), sent()[g])
                for g in ("lora_a", "lora_b")
            },
        }
        del deltas["lora_base"]
        _, _, info = run(rule, shared, deltas)
        found.append(float(info["lora_gap"]))
    assert found[0] < 1e-6
    assert found[0] < found[1] < found[2]


def test_missing_groups_are_named():
    shared = received()
    for group in ("lora_a", "lora_b", "lora_base"):
        less = {k: v for k, v in shared.items() if k != group}
        with pytest.raises(ValueError, match=group):
            FedEx().aggregator(means.weighted_mean()).init(less, C)
