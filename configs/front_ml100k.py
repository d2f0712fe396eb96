"""Quality against bytes on MovieLens 100K: two systems under eight codecs and without.

fedjax-rec sweep configs/front_ml100k.py --data.dir ~/ml-100k
"""

from fedjax_rec import (
    CohortConfig,
    Execution,
    Experiment,
    FedFM,
    FileData,
    PFedRec,
    Protocol,
    SplitConfig,
)


def get_config() -> tuple[Experiment, ...]:
    """An ID-based system on warm items, and LoRA on MiniLM on cold ones."""
    data = FileData(source="movielens-100k")
    return (
        Experiment(
            name="pfedrec",
            data=data,
            algorithm=PFedRec(),
            execution=Execution(max_buckets=3),
            rounds=60,
            eval_every=10,
        ),
        Experiment(
            name="lora",
            data=data,
            split=SplitConfig(kind="cold_items", test=0.2, val=0.0),
            algorithm=FedFM(
                adapter="lora",
                layers=1,
                rank=8,
                # Clients share the way to these maps, and go back no further.
                targets=("ffn/down",),
                dim=64,
                loss="softmax",
                negatives=32,
                shared_steps="once",
                query=0.3,
                user_lr=10.0,
                fixed=("head",),
                server_optimizer="adam",
                server_lr=1e-2,
                adapter_lr_scale=0.06,
            ),
            protocol=Protocol(
                candidates="cold", evaluated="reconstructed", selection="last"
            ),
            cohort=CohortConfig(sampling="uniform", size=32),
            execution=Execution(max_buckets=2, encode="per_client"),
            rounds=48,
            eval_every=48,
        ),
    )


def get_grid() -> tuple[str, ...]:
    """Eight codecs beside none; five seeds."""
    return (
        "codec.name=none,bf16,int8,qsgd,drive,sign,top_k,top_k_qsgd,power_sgd",
        "seed=0:5",
    )
