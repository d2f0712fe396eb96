"""What a run trained is used with every kind of part: lists, `load`, `start`."""

from typing import Any

import jax
import numpy as np
import pytest

import fedjax_rec as fr

MF = fr.FedAvg(
    model=fr.MatrixFactorization(dim=4), client_optimizer=fr.SGD(lr=5.0), batch_size=16
)
FOUNDATION = fr.FedFM(dim=4, negatives=1)
CASES: dict[str, dict[str, Any]] = {
    "several models": {"algorithm": MF, "wrapper": fr.IFCA()},
    "a backbone for all clients at once": {
        "algorithm": FOUNDATION,
        "execution": fr.Execution(max_buckets=1, encode="once"),
    },
    "reconstructed users": {
        "algorithm": fr.FedFM(dim=4, negatives=1, training=fr.Reconstruction()),
        "protocol": fr.Protocol(evaluated="reconstructed"),
        "split": fr.ColdUsers(val=0.2, test=0.2),
    },
    "closed form": {"algorithm": fr.FCF(dim=4)},
    "memory of a codec": {"algorithm": MF, "codec": fr.TopK(feedback="ef")},
    "users of one client": {
        "algorithm": fr.FedAvg(model=fr.MatrixFactorization(dim=4, users="table")),
        "partition": fr.IID(num_clients=6),
    },
    "host": {"algorithm": MF, "store": fr.StoreConfig(location="host")},
}


def hit_rate(sim: Any, user_lists: Any) -> float:
    """HR@10 counted from lists of the test users."""
    test, ids = sim.split.test, np.array(sim.split.train.items.ids)
    hits = []
    for user, row in user_lists.items():
        wanted = set(ids[test.item[test.user == user]].tolist())
        hits.append(bool(wanted & {x.item for x in row}))
    return float(np.mean(hits))


@pytest.mark.parametrize("name", CASES)
def test_lists_have_the_reported_hit_rate_here_and_from_the_folder(name, tmp_path):
    fields = {
        "data": fr.SyntheticData(num_users=24, num_items=30, num_interactions=300),
        "backbone": fr.BackboneConfig(name="tiny"),
        "execution": fr.Execution(max_buckets=1),
        **CASES[name],
    }
    experiment = fr.Experiment(name="used", rounds=2, eval_every=1, **fields)
    result, sim = fr.train(experiment, tmp_path / "run")
    users = np.unique(sim.split.test.user)
    names = np.array(sim.split.train.users.ids)[users].tolist()
    lists = sim.recommend(names)
    reported = result["metrics"]["test"]["hr@10"]
    by_user = dict(zip(users.tolist(), lists, strict=True))
    assert hit_rate(sim, by_user) == pytest.approx(reported)

    loaded = fr.load(tmp_path / "run")
    assert loaded.recommend(names) == lists
    assert loaded.simulation.evaluate("test")["hr@10"] == pytest.approx(reported)
    assert loaded.simulation.programs is sim.programs

    started = fr.build(experiment, start=tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal, started.shared, loaded.simulation.shared
    )
    assert len(started.step()) >= 2
