"""A million clients on one machine: 64 floats of state each, 100 M interactions.

fedjax-rec train configs/million.py

The population lies in memory maps (`--population.folder` says where; they take 2 GB);
every round brings 1,000 clients to the devices, and 2,000 users are evaluated. Making
the interactions takes most of the time, and 16 GB of memory at its peak; `--data.num-
users 100000 --data.num-interactions 10000000` is a tenth of it.
"""

from fedjax_rec import (
    CohortConfig,
    Experiment,
    FedAvg,
    PopulationConfig,
    Protocol,
    SyntheticData,
)


def get_config() -> Experiment:
    """Matrix factorization, 1,000 clients a round."""
    return Experiment(
        name="million",
        data=SyntheticData(
            num_users=1_000_000, num_items=20_000, num_interactions=100_000_000
        ),
        algorithm=FedAvg(dim=64, client_lr=5.0),
        cohort=CohortConfig(sampling="uniform", size=1_000),
        population=PopulationConfig(store="disk"),
        protocol=Protocol(max_users=2_000),
        rounds=100,
        eval_every=50,
    )
