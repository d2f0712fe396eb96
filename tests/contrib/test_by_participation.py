"""FedAU, in the symbols of the paper."""

import numpy as np
import pytest

from fedjax_rec.contrib.weights import ByParticipation
from tests.aggregators.cohorts import C, close, context, mean, run, sent


def test_clients_that_take_part_rarely_count_for_more():
    rule = ByParticipation(longest=5).build(context(num_clients=4))
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]])
    omega, count, since, state = np.ones(4), np.zeros(4), np.zeros(4), None
    for t, row in enumerate(present):
        weights = np.zeros(C, np.float32)
        weights[[0, 1, 3]] = 2 * row  # clients 0, 1 and 3; 2 never takes part
        delta, state, _ = run(
            rule, sent(t), weights=weights, ids=[0, 1, -1, 3, -1], state=state
        )
        cohort = np.array([row[0], row[1], 0, row[2]], bool)
        part = np.zeros(C)
        part[[0, 1, 3]] = (omega * cohort)[[0, 1, 3]] / 4
        close(delta, mean(part, sent(t)))
        since += 1  # algorithm 2 of the paper
        for client in range(4):
            if cohort[client] or since[client] == 5:
                total = count[client] * omega[client] + since[client]
                omega[client] = total / (count[client] + 1)
                count[client] += 1
                since[client] = 0
    assert state is not None
    np.testing.assert_allclose(state.weight, omega, rtol=1e-6)
    assert omega.tolist() == [1, 1.5, 5, 5]


def test_full_participation_is_the_uniform_mean():
    ones, state = np.ones(C, np.float32), None
    for t in range(3):
        delta, state, _ = run(ByParticipation(), sent(t), weights=ones, state=state)
        close(delta, mean(ones / C, sent(t)))


def test_it_is_linear_and_refuses_empty_intervals():
    assert ByParticipation().build(context()).linear
    with pytest.raises(ValueError, match="longest=0"):
        ByParticipation(longest=0)
