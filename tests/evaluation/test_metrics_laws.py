"""What must change nothing: jit, vmap, padding, item order, monotone transforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.evaluation.metrics import full_metrics, user_metrics
from fedjax_rec.evaluation.protocol import Ties

ITEMS, EXCLUDED = 60, 12
WIDTHS = (1, 12, 40)
TIES = ("pessimistic", "optimistic", "random")


@functools.partial(jax.jit, static_argnames="ties")
def full(scores, positives, exclude, key, ties: Ties = "pessimistic"):
    return full_metrics(scores, positives, exclude, cutoffs=(5, 10), ties=ties, key=key)


def user(seed, width, levels=8):
    rng = np.random.default_rng(seed)
    items = rng.permutation(ITEMS)
    size = rng.integers(1, width + 1)
    positives = np.where(np.arange(width) < size, items[:width], ITEMS)
    scores = rng.integers(0, levels, ITEMS).astype(np.float32)
    return scores, positives, items[width : width + EXCLUDED], jax.random.key(seed)


def assert_same(got, expected, rtol=1e-6):
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("width", "ties"), [(1, "pessimistic"), (12, "random"), (40, "optimistic")]
)
def test_jit_equals_eager(width, ties):
    scores, positives, exclude, key = map(jnp.asarray, user(3, width))
    eager = full_metrics(
        scores, positives, exclude, cutoffs=(5, 10), ties=ties, key=key
    )
    assert_same(full(scores, positives, exclude, key, ties), eager)


@pytest.mark.parametrize(
    ("width", "ties"), [(1, "random"), (12, "pessimistic"), (40, "random")]
)
def test_vmap_equals_loop(width, ties):
    users = [user(seed, width) for seed in range(6)]
    stacked = [jnp.stack([jnp.asarray(u[i]) for u in users]) for i in range(4)]
    batched = jax.vmap(functools.partial(full, ties=ties))(*stacked)
    for i, one in enumerate(users):
        alone = full(*map(jnp.asarray, one), ties=ties)
        assert_same({name: value[i] for name, value in batched.items()}, alone)


@given(seed=st.integers(0, 2**31), width=st.sampled_from(WIDTHS))
@settings(max_examples=40, deadline=None)
def test_invariances(seed, width):
    scores, positives, exclude, key = user(seed, width)
    expected = full(scores, positives, exclude, key)
    # Small integers: these transforms are exact in float32, so ties stay ties.
    for other in (scores + 1024, scores * 4 - 7, scores**3, scores - 2.0**20):
        assert_same(full(other.astype(np.float32), positives, exclude, key), expected)
    # Names of items do not matter: item i becomes new[i].
    new = np.random.default_rng(seed).permutation(ITEMS)
    renamed = np.append(new, ITEMS)
    moved = np.zeros(ITEMS, np.float32)
    moved[new] = scores
    shuffled = np.random.default_rng(seed).permutation(renamed[positives])
    assert_same(full(moved, shuffled, renamed[exclude], key), expected)
    # What is excluded may score anything.
    wild = scores.copy()
    wild[exclude] = np.resize([np.nan, np.inf, -np.inf, 1e9], EXCLUDED)
    assert_same(full(wild, positives, exclude, key), expected)
    # Optimistic and pessimistic enclose every drawn ordering.
    best = full(scores, positives, exclude, key, "optimistic")
    drawn = full(scores, positives, exclude, key, "random")
    for name, value in drawn.items():
        assert expected[name] - 1e-6 <= value <= best[name] + 1e-6, name
        assert 0 <= value <= 1 + 1e-6, name


@pytest.mark.parametrize(
    ("width", "ties"), [(1, "pessimistic"), (12, "random"), (40, "random")]
)
def test_no_positive_is_zero_everywhere(width, ties):
    scores, _, exclude, key = user(0, width)
    got = full(scores, np.full(width, ITEMS), exclude, key, ties)
    assert all(float(value) == 0 for value in got.values())


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16, jnp.float16])
def test_any_score_type(dtype):
    scores, positives, exclude, key = user(1, 3)
    expected = full(scores, positives, exclude, key)
    got = full(jnp.asarray(scores, dtype), positives, exclude, key)
    assert_same(got, expected)
    assert all(value.dtype == jnp.float32 for value in got.values())


def test_strict_promotion():
    arrays = jnp.zeros(9), jnp.ones(9, bool), jax.random.key(0)

    def trace(ties, width, scores, mask, key):
        one, has = scores[:width], mask[:width]
        return user_metrics(one, has, scores, mask, ties=ties, key=key)

    with jax.numpy_dtype_promotion("strict"):
        for ties in TIES:
            for width in (1, 9):
                jax.eval_shape(functools.partial(trace, ties, width), *arrays)
