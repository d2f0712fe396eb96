"""Weights by the trend of losses, by hand."""

import numpy as np
import pytest

from fedjax_rec.contrib.weights import ByTrend
from tests.aggregators.cohorts import FEDAVG, LOSS, N, close, context, mean, run, sent


@pytest.mark.parametrize(
    "temperature", [1e9, 2.0], ids=["no effect", "the first round has no trend"]
)
def test_a_rule_without_its_effect_is_a_mean(temperature):
    close(run(ByTrend(temperature=temperature))[0], mean(FEDAVG), atol=1e-5)


def test_a_loss_that_falls_slowly_weighs_more():
    rule = ByTrend(temperature=0.5).build(context(num_clients=7))
    ids = [6, 1, 2, 3, 0]
    _, state, _ = run(rule, ids=ids)
    assert np.asarray(state).tolist() == pytest.approx([0.1, 2, 0, 1, 0, 0, 0.5])
    loss = LOSS * np.array([0.5, 0.9, 1, 1.2, 0.1], np.float32)
    # Client 5 takes part for the first time, in place of client 0.
    delta, new, _ = run(rule, sent(1), loss=loss, ids=[6, 1, 2, 3, 5], state=state)
    ratio = np.array([0.5, 0.9, 1, 1.2, 1])
    part = N * np.exp(ratio / 0.5)
    close(delta, mean(part / part.sum(), sent(1)))
    losses = [0.1, 1.8, 0, 1.2, 0, 0.01, 0.25]
    assert np.asarray(new).tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_is_positive_and_finite(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*, expected .* \(0, inf\)"):
        ByTrend(temperature=temperature)
