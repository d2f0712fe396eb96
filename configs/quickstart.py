"""Synthetic data, nothing to download: a recommender that learns tastes it never sees.

fedjax-rec train configs/quickstart.py

(measured figures: see below)
"""

from fedjax_rec import Experiment, FedAvg, SyntheticData


def get_config() -> Experiment:
    """A thousand people, each one a client that keeps its own vector."""
    return Experiment(
        name="quickstart",
        data=SyntheticData(),
        algorithm=FedAvg(model="mf", aggregation="per_row", client_lr=20.0),
        rounds=40,
        eval_every=5,
    )
