"""FedMF on the slice of ml-latest-small of its authors' published trace.

    JAX_ENABLE_X64=1 fedjax-rec train configs/fedmf_golden.py \
        --data.dir path/to/ml-latest-small

109 training and 21 test ratings of 7 users, 175 iterations in float64. Expect a
training mean squared error (`rmse_train` squared) of 16.2649 after the first iteration
and 0.7330 after the last, and a test RMSE of 1.3965: the published log,
which rounds by encryption, to 3e-4. `tests/algorithms/test_fedmf.py` compares every
iteration.
"""

from fedjax_rec import (
    Execution,
    Experiment,
    FedMF,
    FileData,
    LeaveLast,
    Protocol,
)


def get_config() -> Experiment:
    """The published setting."""
    return Experiment(
        name="fedmf_golden",
        data=FileData(
            source="movielens-latest-small",
            top_items=40,
            first_users=10,
            min_interactions=5,
        ),
        split=LeaveLast(count=3),
        algorithm=FedMF(
            feedback="explicit",
            dim=100,
            client_lr=0.001,
            item_lr_scale=1.0,
            user_l2=1e-4,
            item_l2=1e-4,
            init="constant",
            init_scale=0.01,
        ),
        protocol=Protocol(selection="last"),
        execution=Execution(dtype="float64"),
        rounds=175,
        eval_every=1,
    )
