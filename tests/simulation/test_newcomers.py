"""Users without training data, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import (
    FCF,
    IID,
    ColdUsers,
    Experiment,
    FedAvg,
    FedMF,
    GlobalTime,
    MatrixFactorization,
    Protocol,
    StoreConfig,
    SyntheticData,
)
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.evaluation.chance import chance_level
from fedjax_rec.simulation.baselines import _owners
from fedjax_rec.simulation.personal import initial_personal

USERS, ITEMS = 60, 40


def two_tastes():
    """Even users have even items, odd users odd ones, in random order."""
    rng = np.random.default_rng(0)
    item = [2 * rng.permutation(ITEMS // 2)[:12] + user % 2 for user in range(USERS)]
    return make_interactions(
        user=np.repeat(np.arange(USERS), 12),
        item=np.concatenate(item),
        timestamp=np.arange(12 * USERS),
        users=Entities(ids=[str(u) for u in range(USERS)]),
        items=Entities(ids=[str(i) for i in range(ITEMS)]),
    )


DATA = two_tastes()


def experiment(algorithm, **changes):
    fields = {
        "name": "x",
        "data": SyntheticData(),
        "split": ColdUsers(val=0.1, test=0.3, query=0.5),
        "algorithm": algorithm,
        "store": StoreConfig(cache=False),
        "rounds": 30,
        "eval_every": 30,
        **changes,
    }
    return Experiment(**fields)


def area(scores, positives, known):
    """Pessimistic AUC of one user among all items but the known."""
    negative = np.setdiff1d(np.arange(ITEMS), np.union1d(positives, known))
    return np.mean([(scores[negative] < scores[p]).mean() for p in positives])


def test_a_users_vector_is_solved_for_on_its_query():
    protocol = Protocol(evaluated="reconstructed", selection="auc")
    alpha, l2 = 3.0, 0.5
    simulation = fedjax_rec.build(
        experiment(FCF(dim=4, alpha=alpha, l2=l2), protocol=protocol), data=DATA
    )
    simulation.advance(30)
    items = np.asarray(simulation.state.shared["item"], np.float64)
    query, test = simulation.split.info["query"], simulation.split.test
    areas = []
    for user in np.unique(test.user):
        shown = query.item[query.user == user]
        assert len(shown) == 6
        confidence = np.ones(ITEMS)
        confidence[shown] += alpha
        gram = items.T @ (confidence[:, None] * items) + l2 * np.eye(4)
        vector = np.linalg.solve(gram, (1 + alpha) * items[shown].sum(0))
        areas.append(area(items @ vector, test.item[test.user == user], shown))
    result = simulation.evaluate("test")
    assert result["auc"] == pytest.approx(np.mean(areas), abs=2e-3)
    # The other taste's items rank below: of the negatives, 20 of 28.
    chance = chance_level(simulation.targets["test"], (10,))
    assert result["auc"] > chance["auc/chance"] + 5 * chance["auc/error"]
    assert any("fitted on what the split shows" in line for line in simulation.why)


def test_tuning_on_the_query_beats_chance():
    protocol = Protocol(evaluated="tuned", selection="auc")
    algorithm = FedMF(dim=4, local_epochs=20, client_lr=2.0)
    simulation = fedjax_rec.build(experiment(algorithm, protocol=protocol), data=DATA)
    simulation.advance(30)
    chance = chance_level(simulation.targets["test"], (10,))
    assert simulation.evaluate("test")["auc"] > 0.5 + 4 * chance["auc/error"]


@pytest.mark.parametrize(
    "algorithm",
    [
        FedMF(dim=2),
        FCF(dim=2),
        FedAvg(model=MatrixFactorization(dim=2)),
        FedAvg(
            model=MatrixFactorization(dim=2, users="table"),
        ),
    ],
)
def test_vectors_that_were_never_fitted_are_refused(algorithm):
    with pytest.raises(ValueError, match=r"18|24 users who take part in no round"):
        fedjax_rec.build(experiment(algorithm), data=DATA)


@pytest.mark.parametrize("partition", [None, IID(num_clients=1)])
def test_newcomers_start_as_clients_do(partition):
    train = GlobalTime(val=0.2, test=0.2).split(DATA).train
    clients = len(np.unique(train.user))
    assert clients < USERS  # times go user by user: the last ones are newcomers
    changes = {"split": GlobalTime(val=0.2, test=0.2), "rounds": 2, "eval_every": 2}
    if partition is not None:
        changes["partition"] = dataclasses.replace(partition, num_clients=clients)
    simulation = fedjax_rec.build(
        experiment(FedMF(dim=3, client_lr=0.3), **changes), data=DATA
    )
    simulation.advance(2)
    newcomers = simulation.newcomers
    assert newcomers is not None
    split, test = simulation.split, simulation.split.test
    absent = np.setdiff1d(np.unique(test.user), train.user)
    assert set(absent) <= set(newcomers.user.tolist())
    ids = jnp.asarray(newcomers.ids)
    start = initial_personal(simulation.recipe, simulation.key, ids)
    start = np.asarray(start["user"], np.float64)
    vectors = np.asarray(simulation.personal["user"], np.float64)
    # Under IID they have no client, so ids from N on.
    if partition is not None:
        assert newcomers.ids.min() == len(vectors) == clients
    items = np.asarray(simulation.state.shared["item"].values, np.float64)
    areas = []
    for user in np.unique(test.user):
        known = np.concatenate(
            [part.item[part.user == user] for part in (split.train, split.val)]
        )
        if user in newcomers.user:
            vector = start[newcomers.user == user][0]
        else:
            vector = vectors[simulation.client_of_user[user]]
        areas.append(area(items @ vector, test.item[test.user == user], known))
    assert simulation.evaluate("test")["auc"] == pytest.approx(np.mean(areas), abs=2e-3)
    assert any(
        "without" in line or "no training data" in line for line in simulation.why
    )


def test_newcomers_of_clients_with_several_users_count_apart():
    changes = {"split": GlobalTime(val=0.2, test=0.2), "rounds": 1, "eval_every": 1}
    table = FedAvg(
        model=MatrixFactorization(dim=2, users="table"),
    )
    simulation = fedjax_rec.build(
        experiment(table, partition=IID(num_clients=5), **changes), data=DATA
    )
    assert simulation.newcomers is not None
    assert (simulation.newcomers.ids >= 5).all()
    simulation.advance(1)
    assert jax.tree.leaves(simulation.evaluate("test"))
    ranked = simulation.baselines()["random"]
    assert ranked is not None
    # In each mean over clients, users without a client are clients of their own.
    owners = _owners(simulation, simulation.targets["test"])
    assert owners is not None
    user = np.asarray(simulation.targets["test"].user)
    apart = np.isin(user, simulation.newcomers.user)
    assert apart.any()
    assert len(np.unique(owners[apart])) == apart.sum()
    assert (owners[~apart] < 5).all()
