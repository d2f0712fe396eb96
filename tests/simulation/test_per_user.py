"""Metrics of each user, wherever the population lies and however experiments run."""

import dataclasses
import functools

import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.evaluation import per_user
from fedjax_rec.sweep.run_points import Listener, run_points
from fedjax_rec.sweep.store import Point

SMALL = fr.Experiment(
    name="small",
    data=fr.SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=fr.PFedRec(dim=4, negatives=1),
    protocol=fr.Protocol(evaluated="tuned"),  # users in the order of their buckets
    execution=fr.Execution(max_buckets=3),
    mesh=fr.MeshConfig(devices=1),
    rounds=2,
    eval_every=1,
)


@functools.cache
def data():
    return SMALL.data.load()


def on(location):
    store = dataclasses.replace(SMALL.store, location=location)
    return dataclasses.replace(SMALL, store=store)


def users_of(simulation):
    users = simulation.users()
    assert users is not None
    return users


@functools.cache
def reference():
    simulation = fr.build(on("device"), data=data())
    assert simulation.users() is None
    result = simulation.run()
    return simulation, result, users_of(simulation)


def equal(a, b):
    assert a.round == b.round
    np.testing.assert_array_equal(a.user, b.user)
    assert a.metrics.keys() == b.metrics.keys()
    for name, column in a.metrics.items():
        np.testing.assert_allclose(column, b.metrics[name], atol=1e-6)


def test_their_mean_is_the_result_at_the_selected_round():
    simulation, result, users = reference()
    assert users.round == result["selected"]
    ids = simulation.split.test.users.ids
    assert users.user.tolist() == [ids[u] for u in simulation.targets["test"].user]
    for name in ("ndcg@10", "hr@5", "auc"):
        expected = pytest.approx(result["metrics"]["test"][name], abs=1e-6)
        assert users.metrics[name].mean() == expected
    assert users.metrics["auc"].std() > 0.05


def test_a_hosted_population_has_the_same():
    simulation = fr.build(on("host"), data=data())
    simulation.run()
    equal(users_of(simulation), reference()[2])


def test_points_of_a_sweep_write_the_same(tmp_path):
    points = [
        Point(name=f"s{seed}", experiment=dataclasses.replace(on("device"), seed=seed))
        for seed in (1, 0)
    ]
    run_points(points, tmp_path, Listener())
    equal(per_user.read(tmp_path / "s0" / "users.npz"), reference()[2])
    other = per_user.read(tmp_path / "s1" / "users.npz")
    assert not np.array_equal(other.metrics["auc"], reference()[2].metrics["auc"])
