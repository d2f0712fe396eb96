"""Synthetic data, nothing to download: a recommender that learns tastes it never sees.

fedjax-rec train configs/quickstart.py

Expect HR@10 = .150 and NDCG@10 = .078 on the test, ranked among all items (popularity:
.053 and .027; random: .007 and .004), from round 35 of 40. On two CPU cores training
takes about 10 s once compiled, which the first run does and the later ones do not.
"""

from fedjax_rec import Execution, Experiment, FedAvg, SyntheticData


def get_config() -> Experiment:
    """A thousand people, each one a client that keeps its own vector."""
    return Experiment(
        name="quickstart",
        data=SyntheticData(),
        algorithm=FedAvg(model="mf", aggregation="per_row", client_lr=20.0),
        execution=Execution(max_buckets=2),  # quick to compile
        rounds=40,
        eval_every=5,
    )
