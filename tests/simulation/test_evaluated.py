"""The parameters that each evaluated mode scores users by, derived in NumPy."""

import numpy as np
import pytest

from fedjax_rec import FCF, SGD, PFedRec, Protocol
from tests import by_hand
from tests.by_hand import CLIENTS, ITEMS, World

RATE = 0.5
ROW_RATE = RATE * ITEMS * 4.0
PERSONAL = PFedRec(
    dim=3, client_lr=RATE, item_lr_scale=4.0, negatives=2, init_scale=0.5
)
SOLVED = FCF(dim=3, alpha=3.0, l2=0.5, init_scale=1.0, server_optimizer=SGD(lr=0.1))


def played(algorithm, evaluated):
    """A world after a round."""
    protocol = Protocol(evaluated=evaluated, cutoffs=(5,), selection="ndcg@5")
    world = World(algorithm, protocol=protocol)
    world.simulation.advance(1)
    return world


def expect(world, scores, others):
    """Compares the metrics, which have to differ from those of `others`."""
    for part in ("val", "test"):
        got = world.simulation.evaluate(part)
        wanted = by_hand.mean_metrics(world.simulation, part, scores)
        assert {name: got[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    for unlike in others:
        assert by_hand.mean_metrics(world.simulation, "test", unlike) != pytest.approx(
            wanted, abs=1e-3
        )


def scores_of(tables, scorers):
    return [
        table @ w + b
        for table, w, b in zip(tables, scorers["w"], scorers["b"], strict=True)
    ]


@pytest.mark.parametrize("evaluated", ["aggregated", "tuned"])
def test_a_personal_scorer_scores_the_mean_table_or_the_clients_own(evaluated):
    world = played(PERSONAL, evaluated)
    table, scorers = world.shared["item"].values, world.personal["scorer"]
    stored = scores_of([table] * len(CLIENTS), scorers)
    tables, own = [], {"w": scorers["w"].copy(), "b": scorers["b"].copy()}
    for client in CLIENTS:  # what local training of the next round makes of them
        (batch,) = world.batches(1, client)
        one = by_hand.of_client(scorers, client)
        gradient = by_hand.scorer(table, one, batch)[1]
        one = {name: one[name] - RATE * gradient[name] for name in one}
        tables.append(table - ROW_RATE * by_hand.scorer(table, one, batch)[0])
        own["w"][client], own["b"][client] = one["w"], one["b"]
    tuned = scores_of(tables, own)
    modes = {"aggregated": stored, "tuned": tuned}
    expect(world, modes.pop(evaluated), modes.values())


@pytest.mark.parametrize("evaluated", ["aggregated", "reconstructed"])
def test_a_user_of_fcf_is_the_stored_vector_or_solved_for_the_new_items(evaluated):
    world = played(SOLVED, evaluated)
    y, train = world.shared["item"], world.simulation.split.train
    solved = []
    for client in CLIENTS:
        p = np.isin(np.arange(ITEMS), train.item[train.user == client]).astype(float)
        c = np.diag(1 + 3.0 * p)
        x = np.linalg.inv(y.T @ c @ y + 0.5 * np.eye(3)) @ y.T @ c @ p
        solved.append(y @ x)
    modes = {
        "aggregated": list(world.personal["user"] @ y.T),
        "reconstructed": solved,
    }
    expect(world, modes.pop(evaluated), modes.values())
