"""A tenth of the clients attack PFedRec on MovieLens 100K: rules against attacks.

fedjax-rec sweep configs/poisoned_ml100k.py --data.dir ~/ml-100k

Expect, for the mean, NDCG@10 .054 of honest clients, .021 under flipped signs, .045
under noise, and the pushed item in the top 10 of about half the users; for the median
among a row's voters .037 to .040 and never (docs/robust.md). About half an hour on
2 cores.
"""

import dataclasses

from fedjax_rec import (
    AggregationConfig,
    AttackConfig,
    CohortConfig,
    Execution,
    Experiment,
    FileData,
    PFedRec,
    Protocol,
)


def get_config() -> tuple[Experiment, ...]:
    """Honest clients; flipped and noisy deltas; one unpopular item pushed."""
    honest = Experiment(
        name="honest",
        data=FileData(source="movielens-100k"),
        algorithm=PFedRec(),
        # Rules assume twice as many as there are: a sample has more than its share.
        aggregation=AggregationConfig(share=0.2),
        cohort=CohortConfig(sampling="uniform", size=200),
        protocol=Protocol(exposed_item=WATCHED),
        execution=Execution(max_buckets=2),
        rounds=60,
        eval_every=20,
    )

    def attacked(kind) -> Experiment:
        attack = AttackConfig(kind=kind, share=0.1, scale=10.0, item=WATCHED)
        return dataclasses.replace(honest, name=kind, attack=attack)

    return (honest, attacked("sign_flip"), attacked("noise"), attacked("boost"))


WATCHED = 1664
"""An item that one user rated."""


def get_grid() -> tuple[str, ...]:
    """The algorithm's own mean, then rules that stand attackers; two seeds."""
    return (
        "aggregation.rule=algorithm,median_diluted,trimmed_mean_diluted,"
        "geometric_median_diluted,multi_krum,bulyan,centered_clipping,norm_bound,krum,"
        "mixed_median_diluted,multi_krum_diluted,bulyan_diluted,"
        "centered_clipping_diluted,norm_bound_diluted",
        "seed=0:2",
    )
