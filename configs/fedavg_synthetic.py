"""Matrix factorization on synthetic data: tastes are learnt and never seen.

fedjax-rec train configs/fedavg_synthetic.py

Expect HR@10 = .153 and NDCG@10 = .080 on the test, ranked among all items (popularity:
.053 and .027; random: .007 and .004), from round 30 of 40, for seed 0 (the learning
rate was tried out on that seed). On two CPU cores it takes about 30 s, and 11 s once
the compiled programs are cached.
"""

from fedjax_rec import SGD, Execution, Experiment, FedAvg, Mean, SyntheticData


def get_config() -> Experiment:
    """A thousand people, each one a client that keeps its own vector."""
    return Experiment(
        name="fedavg_synthetic",
        data=SyntheticData(),
        algorithm=FedAvg(client_optimizer=SGD(lr=20.0)),
        aggregation=Mean(per_row=True),
        execution=Execution(max_buckets=2),  # quick to compile
        rounds=40,
        eval_every=5,
    )
