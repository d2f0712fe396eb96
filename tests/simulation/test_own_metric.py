"""A metric of one's own sees the rankings of the protocol's metrics."""

import dataclasses

import numpy as np
import pytest

import fedjax_rec as fr


@dataclasses.dataclass(frozen=True)
class Hits:
    """The number of positives among the first three."""

    names = ("hits@3",)
    lower_is_better = ("hits@3",)

    def build(self, train):
        return lambda ranking: {"hits@3": ranking.top(3).hits.sum()}


def experiment(evaluated, algorithm, **changes):
    protocol = fr.Protocol(
        evaluated=evaluated, cutoffs=(3,), metric=Hits(), selection="hits@3"
    )
    return fr.Experiment(
        name="x",
        data=fr.SyntheticData(num_users=24, num_items=30, num_interactions=240),
        algorithm=algorithm,
        protocol=protocol,
        execution=fr.Execution(max_buckets=2),
        mesh=fr.MeshConfig(devices=1),
        rounds=2,
        eval_every=1,
        **changes,
    )


PFEDREC = fr.PFedRec(dim=4, negatives=1, item_lr_scale=1.0)


@pytest.mark.parametrize(
    "experiment",
    [
        experiment(
            "tuned",
            PFEDREC,
            split=fr.ColdUsers(val=0.3, test=0.3),
            store=fr.StoreConfig(location="host"),
        ),
        experiment("reconstructed", fr.FCF(dim=4)),
    ],
    ids=["tuned newcomers on the host", "reconstructed"],
)
def test_hits_are_the_precision_of_every_user(experiment):
    sim = fr.build(experiment)
    result = sim.run()
    users = sim.users()
    assert users is not None
    hits, precision = users.metrics["hits@3"], users.metrics["precision@3"]
    assert hits.sum() > 0
    np.testing.assert_allclose(hits, 3 * precision, atol=1e-6)
    assert result["metrics"]["test"]["hits@3"] == pytest.approx(hits.mean(), abs=1e-6)
    # Low values are good, as the settings say: the round with the fewest hits.
    values = {e["round"]: e["val"]["hits@3"] for e in result["history"] if "val" in e}
    assert values[result["selected"]] == min(values.values())
    popular = result["baselines"]["popularity"]
    assert popular["hits@3"] == pytest.approx(3 * popular["precision@3"], abs=1e-6)
