"""Films to video games."""

from fedjax_rec import (
    BackboneConfig,
    CohortConfig,
    Execution,
    Experiment,
    FedFM,
    FileData,
)


def get_config() -> Experiment:
    """The source: MovieLens latest-small, histories alone, everything shared."""
    return Experiment(
        name="ml_to_games",
        data=FileData(source="movielens-latest-small"),
        algorithm=FedFM(
            adapter="lora",
            layers=1,
            users="history",
            history_heads=1,
            dim=128,
            loss="softmax",
            aggregation="uniform",
            batch_size=1_000_000,
            server_optimizer="adam",
            server_lr=1e-4,
        ),
        backbone=BackboneConfig(),
        cohort=CohortConfig(sampling="uniform", size=200),
        execution=Execution(max_buckets=3),
        rounds=6,
        eval_every=2,
    )
