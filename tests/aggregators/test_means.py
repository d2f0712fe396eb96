"""Means and the sum of deltas by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean, Sum
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders
from tests.aggregators.cohorts import built

# Four items; client 0 sent row 2 twice, client 2 only padding (the id 4).
SHARED = {"item": rows.Table(values=jnp.zeros((4, 2))), "bias": jnp.zeros(3)}
IDS = [[2, 0, 2], [0, 4, 1], [4, 4, 4]]
VALUES = [
    [[1, 2], [10, 20], [3, 4]],
    [[30, 40], [999, 999], [5, 6]],
    [[999, 999], [999, 999], [999, 999]],
]
BIAS = [[1, 2, 3], [3, 0, 0], [8, 8, 8]]
WEIGHTS = [1, 3, 4]


def finished(settings, clients=(0, 1, 2)):
    chosen, aggregator = np.asarray(clients), built(settings)
    deltas = {
        "item": rows.Rows(
            ids=jnp.asarray(IDS)[chosen],
            values=jnp.asarray(VALUES, jnp.float32)[chosen],
        ),
        "bias": jnp.asarray(BIAS, jnp.float32)[chosen],
    }
    acc = aggregator.init(SHARED, len(chosen))
    weights = jnp.asarray(WEIGHTS, jnp.float32)[chosen]
    slots = jnp.arange(len(chosen))
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(len(chosen)))
    acc = aggregator.update(acc, deltas, weights, senders)
    delta, state, info = aggregator.finish(acc, aggregator.start(SHARED), SHARED)
    assert aggregator.linear
    assert state == ()
    assert info == {}
    assert delta["item"].space == "item"
    return np.asarray(delta["item"].values), np.asarray(delta["bias"])


# Sums over clients: row 0 is 1 (10, 20) + 3 (30, 40), row 1 is 3 (5, 6), row 2 is
# 1 (1 + 3, 2 + 4); row 3 is untouched.
@pytest.mark.parametrize(
    ("settings", "item", "bias"),
    [
        (
            Mean(),
            [[100 / 8, 140 / 8], [15 / 8, 18 / 8], [4 / 8, 6 / 8], [0, 0]],
            [(1 + 9 + 32) / 8, (2 + 32) / 8, (3 + 32) / 8],
        ),
        (
            Mean(weights="uniform"),
            [[40 / 3, 60 / 3], [5 / 3, 6 / 3], [4 / 3, 6 / 3], [0, 0]],
            [12 / 3, 10 / 3, 11 / 3],
        ),
        (
            # Row 0 was touched by both (weights 1 and 3), row 1 by client 1, row 2
            # twice by client 0, which is still one client.
            Mean(per_row=True),
            [[100 / 4, 140 / 4], [15 / 3, 18 / 3], [4 / 1, 6 / 1], [0, 0]],
            [(1 + 9 + 32) / 8, (2 + 32) / 8, (3 + 32) / 8],
        ),
        (
            Mean(weights="uniform", per_row=True),
            [[40 / 2, 60 / 2], [5, 6], [4, 6], [0, 0]],
            [12 / 3, 10 / 3, 11 / 3],
        ),
        (Sum(), [[40, 60], [5, 6], [4, 6], [0, 0]], [12, 10, 11]),
    ],
    ids=["weighted", "uniform", "per row", "per row uniform", "sum"],
)
def test_by_hand(settings, item, bias):
    got_item, got_bias = finished(settings)
    np.testing.assert_allclose(got_item, item, rtol=1e-6)
    np.testing.assert_allclose(got_bias, bias, rtol=1e-6)


def test_a_single_client_is_its_own_mean():
    for settings in (Mean(), Mean(per_row=True)):
        item, bias = finished(settings, clients=(1,))
        np.testing.assert_allclose(item, [[30, 40], [5, 6], [0, 0], [0, 0]], rtol=1e-6)
        np.testing.assert_allclose(bias, BIAS[1], rtol=1e-6)


def test_padding_has_no_weight_per_row_but_its_client_counts_elsewhere():
    # Client 2 sent only padding: it dilutes the plain mean and no row of the other.
    per_row = Mean(per_row=True)
    with_it, without = (finished(per_row, c) for c in ((0, 1, 2), (0, 1)))
    np.testing.assert_array_equal(with_it[0], without[0])
    diluted, plain = (finished(Mean(), c) for c in ((0, 1, 2), (0, 1)))
    np.testing.assert_allclose(diluted[0], plain[0] / 2, rtol=1e-6)
    assert plain[0].max() > 0


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="weights='rows', expected examples or"):
        Mean(weights="rows")  # pyright: ignore[reportArgumentType]
