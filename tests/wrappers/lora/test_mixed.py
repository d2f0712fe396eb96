"""Different ranks against NumPy, client by client; equal ranks against plain means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators import means
from fedjax_rec.core.contracts import ClientResult, Params, Senders
from fedjax_rec.wrappers.lora.factors import COLUMNS, NORM, draw_ranks, with_ranks
from fedjax_rec.wrappers.lora.rules import FedEx, FedIT, FlexLoRA, FLoRA, HetLoRA

IN, OUT, R, C = 6, 5, 3, 5
N = np.array([2.0, 1, 3, 1, 4], np.float32)
RANKS = np.array([1, 3, 2, 3, 1])
MASK = (np.arange(R) < RANKS[:, None]).astype(np.float32)


def world(seed=0, mask=MASK):
    """What was sent out, and what clients with these columns end with."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(IN, R)), rng.normal(size=(R, OUT))
    own_a = (a + rng.normal(size=(C, IN, R))) * mask[:, None]
    own_b = (b + rng.normal(size=(C, R, OUT))) * mask[:, :, None]
    norms = np.linalg.norm(own_a @ own_b, axis=(1, 2))
    shared = {"lora_a": {"q": a[None]}, "lora_b": {"q": b[None]}}
    # Deltas are from what a client received: its columns of A and rows of B.
    deltas = {
        "lora_a": {"q": (own_a - a * mask[:, None])[:, None]},
        "lora_b": {"q": (own_b - b * mask[:, :, None])[:, None]},
    }
    extras = {COLUMNS: mask, NORM: norms}
    shared, deltas, extras = jax.tree.map(jnp.float32, (shared, deltas, extras))
    return shared, deltas, extras, own_a, own_b, norms


def run(rule, shared, deltas, extras=None):
    slots = jnp.arange(C)
    senders = Senders(slots=slots, ids=slots, loss=slots * 0.1, extras=extras or {})
    acc = rule.update(rule.init(shared, C), deltas, jnp.asarray(N), senders)
    delta, _, info = rule.finish(acc, rule.start(shared), shared)
    new = jax.tree.map(jnp.add, shared, delta)
    return np.asarray(new["lora_a"]["q"][0]), np.asarray(new["lora_b"]["q"][0]), info


@pytest.mark.parametrize("norm_weights", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_hetlora_averages_padded_factors(uniform, norm_weights):
    shared, deltas, extras, own_a, own_b, norms = world()
    settings = HetLoRA if norm_weights else FedIT
    weights = "uniform" if uniform else "examples"
    rule = settings(ranks=(1, 2, 3), weights=weights).aggregator(means.weighted_mean())
    a, b, info = run(rule, shared, deltas, extras)
    s = (np.ones(C) if uniform else N) * (norms if norm_weights else 1)
    s = s / s.sum()
    np.testing.assert_allclose(a, np.tensordot(s, own_a, 1), atol=1e-5)
    np.testing.assert_allclose(b, np.tensordot(s, own_b, 1), atol=1e-5)
    product = np.tensordot(s, own_a @ own_b, 1)
    gap = np.linalg.norm(product - a @ b) / np.linalg.norm(product)
    assert float(info["lora_gap"]) == pytest.approx(gap, rel=1e-4)


def test_equal_ranks_without_norms_are_fedavg():
    shared, deltas, extras, *_ = world(mask=np.ones((C, R), np.float32))
    inner = means.weighted_mean()
    for ranks in ((), (3,)):
        rule = FedIT(ranks=ranks).aggregator(inner)
        got = run(rule, shared, deltas, extras if ranks else None)
        acc = inner.init(shared, C)
        at = jnp.arange(C)
        senders = Senders(slots=at, ids=at, loss=at * 0.1)
        delta, _, _ = inner.finish(
            inner.update(acc, deltas, jnp.asarray(N), senders), (), shared
        )
        for x, group in zip(got[:2], ("lora_a", "lora_b"), strict=True):
            expected = shared[group]["q"][0] + delta[group]["q"][0]
            np.testing.assert_allclose(x, expected, atol=1e-6)


def test_flexlora_is_the_best_approximation_at_every_rank():
    shared, deltas, extras, own_a, own_b, _ = world()
    rule = FlexLoRA(ranks=(1, 2, 3)).aggregator(means.weighted_mean())
    a, b, _ = run(rule, shared, deltas, extras)
    product = np.tensordot(N / N.sum(), own_a @ own_b, 1)
    singular = np.linalg.svd(product, compute_uv=False)
    for k in range(1, R + 1):
        # Eckart-Young: what is left is the tail of the singular values.
        left = np.linalg.norm(product - a[:, :k] @ b[:k])
        assert left == pytest.approx(np.sqrt((singular[k:] ** 2).sum()), rel=1e-4)
    np.testing.assert_allclose(a.T @ a, np.eye(R), atol=1e-5)


def test_flexlora_takes_a_rank_above_that_of_the_matrix():
    rng = np.random.default_rng(0)
    shared = {
        "lora_a": {"q": jnp.asarray(rng.normal(size=(1, 4, 7)), jnp.float32)},
        "lora_b": {"q": jnp.asarray(rng.normal(size=(1, 7, 3)), jnp.float32)},
    }
    deltas = jax.tree.map(lambda x: jnp.zeros((C, *x.shape)), shared)
    a, b, _ = run(FlexLoRA().aggregator(means.weighted_mean()), shared, deltas)
    expected = shared["lora_a"]["q"][0] @ shared["lora_b"]["q"][0]
    np.testing.assert_allclose(a @ b, expected, atol=1e-5)


@pytest.mark.parametrize("exact", [FedEx, FLoRA])
def test_exact_rules_are_exact_with_mixed_ranks(exact):
    shared, deltas, extras, own_a, own_b, _ = world()
    shared = {**shared, "lora_base": {"q": jnp.zeros((1, IN, OUT))}}
    rule = exact(ranks=(1, 2, 3)).aggregator(means.weighted_mean())
    slots = jnp.arange(C)
    senders = Senders(slots=slots, ids=slots, loss=slots * 0.1, extras=extras or {})
    acc = rule.update(rule.init(shared, C), deltas, jnp.asarray(N), senders)
    delta, _, _ = rule.finish(acc, rule.start(shared), shared)
    new = jax.tree.map(lambda x, d: np.asarray(x + d)[0], shared, delta)
    whole = new["lora_base"]["q"] + new["lora_a"]["q"] @ new["lora_b"]["q"]
    product = np.tensordot(N / N.sum(), own_a @ own_b, 1)
    np.testing.assert_allclose(whole, product, atol=1e-5)


def test_clients_train_their_own_columns_and_send_their_norm():
    shared, *_ = world()
    seen = {}

    def update(params, frozen, examples, hparams, key):
        del frozen, examples, hparams, key
        seen.update(params.shared)
        grow = jax.tree.map(lambda x: 2 * x, params.shared)
        nothing = jnp.zeros(())
        return ClientResult(delta=grow, personal={}, weight=nothing, metrics={})

    examples = {"user": jnp.asarray([7, 7])}
    params = Params(shared=shared, personal={})
    ranked = with_ranks(update, lambda user: jnp.where(user == 7, 2, 1))
    result = ranked(params, (), examples, {}, jax.random.key(0))
    a, b = np.asarray(shared["lora_a"]["q"][0]), np.asarray(shared["lora_b"]["q"][0])
    np.testing.assert_array_equal(seen["lora_a"]["q"][0][:, :2], a[:, :2])
    np.testing.assert_array_equal(seen["lora_b"]["q"][0][:2], b[:2])
    assert not np.asarray(seen["lora_a"]["q"])[..., 2:].any()
    assert not np.asarray(seen["lora_b"]["q"])[:, 2:].any()
    norm = 9 * np.linalg.norm(a[:, :2] @ b[:2])  # both factors trebled
    np.testing.assert_array_equal(result.extras[COLUMNS], [1, 1, 0])
    np.testing.assert_allclose(result.extras[NORM], norm, rtol=1e-5)


def test_ranks_are_drawn_by_share_and_stay():
    rank_of = jax.jit(jax.vmap(draw_ranks((2, 4, 8), (0.5, 0.3, 0.2))))
    ids = jnp.arange(4000)
    ranks = np.asarray(rank_of(ids))
    np.testing.assert_array_equal(ranks[::-1], rank_of(ids[::-1]))
    counts = np.array([(ranks == k).sum() for k in (2, 4, 8)])
    assert counts.sum() == 4000
    # Within four standard deviations of a binomial count.
    share = np.array([0.5, 0.3, 0.2])
    sd = np.sqrt(4000 * share * (1 - share))
    assert (np.abs(counts - 4000 * share) < 4 * sd).all()
    settings: Any
    for settings in (
        {"rank_shares": (1.0,)},
        {"ranks": (0, 1)},
        {"ranks": (1, 2), "rank_shares": (0.5,)},
        {"ranks": (1, 2), "rank_shares": (2, -1)},
    ):
        with pytest.raises(ValueError, match="expected"):
            FedIT(**settings)
