"""Cold items on MovieLens 100K."""

from fedjax_rec import (
    BackboneConfig,
    Execution,
    Experiment,
    FedFM,
    FileData,
    Protocol,
    SplitConfig,
)


def get_config() -> Experiment:
    """20 % of the items are held out of all training, and then ranked."""
    return Experiment(
        name="lora_minilm_ml100k_cold",
        data=FileData(source="movielens-100k"),
        split=SplitConfig(kind="cold_items", test=0.2, val=0.1),
        algorithm=FedFM(
            adapter="lora",
            layers=1,
            dim=32,
            loss="softmax",
            shared_steps="once",
            local_epochs=5,
            batch_size=1_000_000,
            server_optimizer="adam",
            server_lr=1e-3,
        ),
        backbone=BackboneConfig(),
        protocol=Protocol(candidates="cold", selection="ndcg@20"),
        execution=Execution(max_buckets=3),
        rounds=40,
        eval_every=5,
    )
