"""Systems that hold one part to be examined."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedfm_parts import Joint
from fedjax_rec.algorithms.implicit import FedNCF, PFedRec
from fedjax_rec.core.optimizers import SGD
from fedjax_rec.experiment.settings import Execution, Experiment
from fedjax_rec.models.adapters.in_layers import LoRA
from fedjax_rec.models.settings import MatrixFactorization
from fedjax_rec.testing.law import LawBroken
from fedjax_rec.testing.system import System

_SMALL: dict[str, Any] = {"batch_size": 8, "negatives": 2}
_RATE = SGD(lr=0.2)


def with_algorithm(algorithm: Any) -> System:
    """The system of an algorithm, with `dim=4` if the default does not fit."""
    try:
        return System(_experiment(algorithm))
    except ValueError:
        if not hasattr(algorithm, "dim"):
            raise
        system = System(_experiment(dataclasses.replace(algorithm, dim=4)))
        system.remark = "examined with dim=4, as the small data allow"
        return system


def with_model(model: Any) -> System:
    """FedAvg of a model."""
    return System(_experiment(FedAvg(model=model, **_SMALL)))


def with_client_optimizer(optimizer: Any) -> System:
    """FedAvg with an optimizer of the local steps."""
    return System(_experiment(_fedavg(client_optimizer=optimizer)))


def with_server_optimizer(optimizer: Any) -> System:
    """FedAvg with an optimizer of the server."""
    return System(_experiment(_fedavg(server_optimizer=optimizer)))


def with_adapter(adapter: Any) -> System:
    """FedFM with an adapter, on a narrow backbone."""
    return System(_experiment(_fedfm(adapter=adapter)))


def with_users(users: Any) -> System:
    """FedFM with another form of its users."""
    return System(_experiment(_fedfm(users=users)))


def with_training(training: Any) -> System:
    """FedFM with another form of local training."""
    fields = {"dim": 4, "negatives": 2, "adapter": LoRA(rank=2), "loss": "bce"}
    return System(_experiment(FedFM(**fields, training=training)))


def with_wrapper(wrapper: Any) -> System:
    """The first base system that a wrapper accepts."""
    return _first("wrapper", wrapper)


def with_attack(attack: Any) -> System:
    """The first base system that an attack accepts."""
    return _first("attack", attack)


def _first(slot: str, part: Any) -> System:
    refused = []
    for name, algorithm in _algorithms():
        try:
            system = System(_experiment(algorithm, **{slot: part}))
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        system.remark = f"examined on {name}"
        return system
    raise LawBroken("no base system is accepted:\n" + "\n".join(refused))


def _algorithms() -> Iterator[tuple[str, Any]]:
    rate = SGD(lr=0.1)
    yield "FedAvg of matrix factorization", _fedavg()
    yield "FedNCF", FedNCF(dim=4, client_optimizer=rate, **_SMALL)
    yield "PFedRec", PFedRec(dim=4, **_SMALL)
    yield "FedFM with LoRA", _fedfm(adapter=LoRA(rank=2))


def _fedavg(**fields: Any) -> FedAvg:
    return FedAvg(model=MatrixFactorization(dim=4), **_SMALL, **fields)


def _fedfm(**fields: Any) -> FedFM:
    """With a loss that all its parameters take part in."""
    fields = {"adapter": LoRA(rank=2), **fields}
    training = Joint(optimizer=_RATE)
    return FedFM(dim=4, loss="bce", user_lr=0.2, training=training, **_SMALL, **fields)


def _experiment(algorithm: Any, **parts: Any) -> Experiment:
    """An experiment in which every client encodes its own items."""
    execution = Execution(encode="per_client")
    return Experiment(name="laws", algorithm=algorithm, execution=execution, **parts)
