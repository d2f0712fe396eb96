"""LoRA on MiniLM over a synthetic catalog.

fedjax-rec train configs/quickstart.py
"""

from fedjax_rec import BackboneConfig, Execution, Experiment, FedFM, SyntheticData


def get_config() -> Experiment:
    """A thousand people; each keeps its own vector and sends adapters."""
    return Experiment(
        name="quickstart",
        data=SyntheticData(),
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
        backbone=BackboneConfig(or_tiny=True),
        execution=Execution(max_buckets=2),  # quick to compile
        rounds=40,
        eval_every=5,
    )
