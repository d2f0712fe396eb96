"""FM-guided aggregation against its controls, clients skewed by genre, MovieLens 100K.

fedjax-rec sweep configs/guided_ml100k.py --data.dir ~/ml-100k

Expect NDCG@10 of .157 to .160 from all five, and worst deciles of .073 to .077
with intervals that all meet (docs/aggregation.md). About 4 minutes on 2 cores.
"""

import dataclasses

from fedjax_rec import (
    SGD,
    ClientProfile,
    Dirichlet,
    Execution,
    Experiment,
    FedAvg,
    FileData,
    Guided,
    MatrixFactorization,
    Mean,
    Ratio,
)


def get_config() -> tuple[Experiment, ...]:
    """A mean by examples; guided by profiles, by false ones, and by deltas."""
    mean = Experiment(
        name="mean",
        data=FileData(source="movielens-100k"),
        # Several test items a user, or the worst clients' NDCG is zero everywhere.
        split=Ratio(test=0.2, val=0.1),
        partition=Dirichlet(num_clients=100, alpha=0.1),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=32, users="table"),
            client_optimizer=SGD(lr=100.0),
        ),
        aggregation=Mean(),
        execution=Execution(max_buckets=2),
        rounds=100,
        eval_every=10,
    )

    def guided(name: str, wrapper: Guided) -> Experiment:
        return dataclasses.replace(mean, name=name, aggregation=None, wrapper=wrapper)

    sources = ("text", "shuffled", "random")
    by_profile = (
        guided(source, Guided(profile=ClientProfile(source=source)))
        for source in sources
    )
    return (mean, *by_profile, guided("update", Guided(likeness="update")))


def get_grid() -> tuple[str, ...]:
    """Six seeds."""
    return ("seed=0:6",)
