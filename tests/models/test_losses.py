"""Ranking losses: by hand, in the limit, and with what masks must hide."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.models.losses import bpr, sampled_softmax


def test_bpr_by_hand():
    scores = jnp.array([[2.0, 1.0, 3.0], [0.0, 0.0, 9.0]])
    mask = jnp.array([[True, True, True], [True, True, False]])
    # Three real pairs, with differences 1, -1 and 0.
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1)) + math.log(2)) / 3
    np.testing.assert_allclose(bpr(scores, mask), expected, rtol=1e-6)
    # d/dx of -log s(x) is -s(-x), over three pairs.
    s = 1 / (1 + math.exp(1))
    gradient = jax.grad(bpr)(scores, mask)
    np.testing.assert_allclose(
        gradient,
        np.array([[-1, s, 1 - s], [-0.5, 0.5, 0]]) / 3,
        rtol=1e-5,
        atol=1e-7,
    )


def test_sampled_softmax_by_hand():
    scores = jnp.array([[1.0, 2.0, 0.0], [0.5, 0.0, 7.0]])
    log_q = jnp.log(jnp.array([[9.0, 2.0, 0.5], [9.0, 1.0, 3.0]]))
    mask = jnp.array([[True, True, True], [True, True, False]])
    e = math.exp
    first = math.log(e(1) + e(2) / 2 + e(0) / 0.5) - 1
    second = math.log(e(0.5) + 1) - 0.5
    found = sampled_softmax(scores, log_q, mask)
    np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-6)


def full_softmax(scores, positives):
    return -jax.nn.log_softmax(scores)[np.arange(len(positives)), positives].mean()


def test_with_every_negative_once_it_is_the_full_softmax():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(3 * rng.normal(size=(6, 20)), jnp.float32)
    positives = rng.integers(0, 20, 6)
    others = np.array([np.delete(np.arange(20), p) for p in positives])
    columns = np.concatenate([positives[:, None], others], 1)

    def sampled(scores):
        picked = jnp.take_along_axis(scores, columns, 1)
        return sampled_softmax(picked, jnp.zeros((6, 20)), jnp.ones((6, 20), bool))

    found = jax.value_and_grad(sampled)(scores)
    expected = jax.value_and_grad(full_softmax)(scores, positives)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_popular_negatives_tend_to_the_full_softmax_only_if_corrected():
    rng = np.random.default_rng(1)
    items, rows = 50, 400
    scores = rng.normal(size=items)
    popularity = np.arange(1, items + 1.0) ** -1
    # The correction matters for scores that grow with popularity.
    scores += np.log(popularity)
    positive = 3
    proposal = popularity * (np.arange(items) != positive)
    proposal /= proposal.sum()
    full = float(full_softmax(jnp.asarray(scores)[None], np.array([positive])))
    errors, biased = [], []
    for n in (10, 100, 1000):
        negatives = rng.choice(items, (rows, n), p=proposal)
        columns = np.concatenate([np.full((rows, 1), positive), negatives], 1)
        picked = jnp.asarray(scores[columns], jnp.float32)
        with np.errstate(divide="ignore"):
            log_q = jnp.asarray(np.log(n * proposal)[columns], jnp.float32)
        mask = jnp.ones(picked.shape, bool)
        # The mean of single losses, so that the bias of the log shows.
        errors.append(float(sampled_softmax(picked, log_q, mask)) - full)
        uniform = jnp.full_like(log_q, math.log(n / (items - 1)))
        biased.append(float(sampled_softmax(picked, uniform, mask)) - full)
    assert abs(errors[2]) < 0.01
    assert abs(errors[2]) < abs(errors[0])
    assert errors[0] < 0  # the log of an unbiased estimate lies too low
    # As if negatives had been uniform, the loss stays off, however many there are.
    assert all(error > 0.3 for error in biased)


@pytest.mark.parametrize("hidden", [-math.inf, math.inf, math.nan, 1e30])
def test_what_is_masked_counts_for_nothing(hidden):
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(4, 5)).astype(np.float32)
    log_q = rng.normal(size=(4, 5)).astype(np.float32)
    mask = np.ones((4, 5), bool)
    mask[0, 2:] = False  # fewer negatives
    mask[1, :] = False  # no row
    mask[2, 0] = False  # no positive
    mask[3, 1:] = False  # no negatives
    shown, hid = (np.where(mask, scores, fill) for fill in (0, hidden))
    q, hid_q = (np.where(mask, log_q, fill) for fill in (0, hidden))
    hid_q[:, 0] = hidden  # the positive's is never read
    real = jnp.asarray(mask)
    for loss, kept, masked in (
        (lambda s: bpr(s, real), shown, hid),
        (lambda s: sampled_softmax(s, jnp.asarray(q), real), shown, shown),
        (lambda s: sampled_softmax(s, jnp.asarray(hid_q), real), shown, hid),
    ):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(masked))
        same, expected = jax.value_and_grad(loss)(jnp.asarray(kept))
        np.testing.assert_array_equal(value, same)
        np.testing.assert_array_equal(gradient, expected)
        assert np.isfinite(gradient).all()
        # A row needs a positive and a negative for any gradient at all.
        np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)
        np.testing.assert_array_equal(np.asarray(gradient)[1:], 0)
        assert np.abs(gradient[0, :2]).min() > 0
    # Rows 0 and 3 have a positive; row 3 has no negative.
    value = sampled_softmax(jnp.asarray(hid), jnp.asarray(hid_q), real)
    alone = sampled_softmax(jnp.asarray(hid[:1]), jnp.asarray(hid_q[:1]), real[:1])
    np.testing.assert_allclose(value, alone / 2, rtol=1e-6)
    assert float(bpr(jnp.asarray(hid), real)) == float(
        bpr(jnp.asarray(hid[:1]), real[:1])
    )


def test_an_empty_batch_costs_nothing():
    scores, none = jnp.full((3, 4), -jnp.inf), jnp.zeros((3, 4), bool)
    for loss in (
        lambda s: bpr(s, none),
        lambda s: sampled_softmax(s, scores, none),
    ):
        value, gradient = jax.value_and_grad(loss)(scores)
        assert float(value) == 0
        np.testing.assert_array_equal(gradient, 0)


def test_large_scores_stay_finite():
    scores, mask = jnp.array([[500.0, -500.0], [-500.0, 500.0]]), jnp.ones((2, 2), bool)
    np.testing.assert_allclose(bpr(scores, mask), 500)
    np.testing.assert_allclose(sampled_softmax(scores, 0 * scores, mask), 500)
