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
            id_residual=True,  # titles tell a taste, not what is popular within it
            shared_steps="once",
            local_epochs=5,
            query=0.3,
            batch_size=1_000_000,
            server_optimizer="adam",
            server_lr=0.1,  # of the rows
            adapter_lr_scale=0.01,
        ),
        backbone=BackboneConfig(or_tiny=True),
        execution=Execution(max_buckets=2),  # quick to compile
        rounds=9,
        eval_every=3,
    )
