"""A million clients on one machine: 64 floats of state each, 100 M interactions.

fedjax-rec train configs/million.py

The population lies in memory maps: personal state in a temporary folder
(`--store.folder` sets it), the data in the cache, 4.2 GB of it. Every round
brings 1,000 clients to the devices, and 2,000 users are evaluated.

Measured on 2 cores with other jobs: 17 minutes and 15.4 GB at the peak, most of both
for making the interactions; 100 rounds took 73 s, with the devices waiting 0 %. The
next run finds the data in the cache: 37 s and 3.7 GB for 20 rounds. A hundred rounds of
a thousandth of the clients learn little: HR@10 .0020, popularity .0270. `--data.num-
users 100000 --data.num-interactions 10000000` is a tenth of it.
"""

from fedjax_rec import (
    SGD,
    Experiment,
    FedAvg,
    MatrixFactorization,
    Mean,
    Protocol,
    StoreConfig,
    SyntheticData,
    Uniform,
)


def get_config() -> Experiment:
    """Matrix factorization, 1,000 clients a round."""
    return Experiment(
        name="million",
        data=SyntheticData(
            num_users=1_000_000, num_items=20_000, num_interactions=100_000_000
        ),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=64), client_optimizer=SGD(lr=5.0)
        ),
        aggregation=Mean(per_row=True),
        cohort=Uniform(size=1_000),
        store=StoreConfig(location="disk"),
        protocol=Protocol(max_users=2_000),
        rounds=100,
        eval_every=50,
    )
