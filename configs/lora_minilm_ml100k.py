"""LoRA on MiniLM with an ID residual for warm items, MovieLens 100K.

fedjax-rec train configs/lora_minilm_ml100k.py --data.dir ~/ml-100k
"""

from fedjax_rec import Execution, Experiment, FedFM, FileData


def get_config() -> Experiment:
    """All 943 users as clients, the clean protocol, as in `pfedrec_ml100k.py`."""
    return Experiment(
        name="lora_minilm_ml100k",
        data=FileData(source="movielens-100k"),
        algorithm=FedFM(
            adapter="lora",
            layers=1,
            rank=8,
            dim=64,
            id_residual=True,
            loss="softmax",
            negatives=16,
            shared_steps="once",
            query=0.3,
            user_lr=100.0,
            server_optimizer="adam",
            server_lr=5e-3,
            adapter_lr_scale=0.06,
        ),
        execution=Execution(max_buckets=3),
        rounds=60,
        eval_every=15,
    )
