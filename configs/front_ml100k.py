"""Quality against bytes on MovieLens 100K: two systems under ten codecs.

fedjax-rec sweep configs/front_ml100k.py --data.dir ~/ml-100k

Expect for `pfedrec` test NDCG@10 .063 as float32 for 3,108 MB and .061 with drive
for 118 MB (10 minutes on 2 cores); for `lora` .0455 for 410 MB, .0459 with drive for
14.5 and .0415 with sign for 12.9 (45 minutes). docs/codecs.md has the tables.
"""

from fedjax_rec import (
    QSGD,
    BackboneConfig,
    Execution,
    Experiment,
    FedAdam,
    FedFM,
    FileData,
    LoRA,
    PFedRec,
    Protocol,
    Reconstruction,
    TopK,
    Uniform,
)


def get_config() -> tuple[Experiment, ...]:
    """An ID-based system, and one that sends LoRA factors and a projection."""
    data = FileData(source="movielens-100k")
    # The grid replaces it; `top_k+qsgd` is of its kinds and keeps its values.
    codec = TopK(then=QSGD())
    return (
        Experiment(
            name="pfedrec",
            data=data,
            codec=codec,
            algorithm=PFedRec(),
            execution=Execution(max_buckets=3),
            rounds=60,
            eval_every=10,
        ),
        Experiment(
            name="lora",
            data=data,
            codec=codec,
            algorithm=FedFM(
                # Clients share the states before this map, and go back no further.
                adapter=LoRA(layers=1, rank=8, targets=("ffn/down",)),
                dim=64,
                loss="softmax",
                negatives=16,
                training=Reconstruction(query=0.3),
                user_lr=100.0,
                server_optimizer=FedAdam(lr=0.01, tau=1e-8),
                adapter_lr_scale=0.2,
            ),
            backbone=BackboneConfig(template="{title}"),
            protocol=Protocol(evaluated="reconstructed"),
            cohort=Uniform(size=64),
            execution=Execution(
                max_buckets=1, encode="per_client", examples_per_chunk=1500
            ),
            rounds=40,
            eval_every=10,
        ),
    )


def get_grid() -> tuple[str, ...]:
    """Ten codecs, `float32` as the base; four seeds.

    Codecs of 4 bits: `codec=block_int,qsgd,rotated_qsgd` with `codec.bits=4`.
    """
    return (
        "codec=float32,bf16,block_int,qsgd,rotated_qsgd,drive,sign,top_k,top_k+qsgd,"
        "power_sgd",
        "seed=0:4",
    )
