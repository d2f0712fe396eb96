"""CoLR against top-k and SVD at equal bytes, MovieLens 100K, items of 64 numbers.

fedjax-rec sweep configs/colr_ml100k.py --data.dir ~/ml-100k

Expect HR@10 .104 without a codec and from SVD and top-k at every size; from CoLR .100,
.093 and .070 at a 4th, a 16th and a 64th (docs/codecs.md). About 15 minutes on 2 cores.
"""

import dataclasses

from fedjax_rec import (
    SGD,
    SVD,
    CoLR,
    Execution,
    Experiment,
    FedAvg,
    FileData,
    MatrixFactorization,
    Mean,
    TopK,
)

PARTS = {
    # The 1,682 x 64 numbers that published systems send, divided by 4, 16 and 64. A
    # client touches about 400 rows, and at a 4th an SVD would send more than those.
    "colr_4": {"wrapper": CoLR(rank=16)},
    "top_k_4": {"codec": TopK(fraction=0.95)},
    "colr_16": {"wrapper": CoLR(rank=4)},
    "svd_16": {"codec": SVD(rank=13)},
    "top_k_16": {"codec": TopK(fraction=0.22)},
    "colr_64": {"wrapper": CoLR(rank=1)},
    "svd_64": {"codec": SVD(rank=3)},
    "top_k_64": {"codec": TopK(fraction=0.051)},
}


def get_config() -> tuple[Experiment, ...]:
    """Matrix factorization, several local steps, with and without codecs."""
    whole = Experiment(
        name="none",
        data=FileData(source="movielens-100k"),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=64),
            client_optimizer=SGD(lr=20.0),
            batch_size=128,
            local_epochs=2,
        ),
        aggregation=Mean(per_row=True),
        execution=Execution(max_buckets=3),
        rounds=60,
        eval_every=20,
    )
    return whole, *(
        dataclasses.replace(whole, name=name, **part) for name, part in PARTS.items()
    )


def get_grid() -> tuple[str, ...]:
    """Four seeds."""
    return ("seed=0:4",)
