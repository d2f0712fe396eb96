"""Rules that weigh clients by how they fare, what they hold and when they come."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators import fair
from fedjax_rec.aggregators.attention import attentive
from fedjax_rec.aggregators.fednova import fednova
from fedjax_rec.algorithms import FedFM, FedMF
from fedjax_rec.clients.steps import Steps, local_steps
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.contracts import Aggregator

WEIGHING = (
    "q_fedavg",
    "tilted",
    "agnostic",
    "by_size",
    "by_effective_number",
    "by_magnitude",
    "by_participation",
    "by_trend",
    "fednova",
    "attentive",
)


class Circumstances(NamedTuple):
    """What a rule may depend on beside its own settings.

    Attributes:
        examples: `[N]`, of each client.
        algorithm: whose local training it follows.
    """

    examples: np.ndarray
    algorithm: Any


def weighing_rule(config: Any, about: Circumstances) -> Aggregator:
    """The rule of `WEIGHING` that an `AggregationConfig` names.

    Args:
        config: names the rule and its settings; `None` is the rule's own default.
        about: clients and algorithm.

    Raises:
        ValueError: a setting is out of range, or the rule does not fit the algorithm.
    """
    n = len(about.examples)

    def given(name: str) -> dict[str, Any]:
        value = getattr(config, name)
        return {} if value is None else {name: value}

    made: dict[str, Callable[[], Aggregator]] = {
        "q_fedavg": lambda: fair.q_fedavg(config.q, lipschitz(config, about.algorithm)),
        "tilted": lambda: fair.tilted(config.tilt),
        "agnostic": lambda: fair.agnostic(
            by_quantile(about.examples, config.groups), config.groups, config.group_rate
        ),
        "by_size": lambda: fair.by_size(**given("power")),
        "by_effective_number": lambda: fair.by_effective_number(config.beta),
        "by_magnitude": lambda: fair.by_magnitude(**given("power")),
        "by_participation": lambda: fair.by_participation(n, config.longest),
        "by_trend": lambda: fair.by_trend(n, **given("temperature")),
        "fednova": lambda: fednova(*steps_and_momentum(about.algorithm)),
        "attentive": lambda: attentive(**given("temperature")),
    }
    return made[config.rule]()


def check_weights(config: Any, algorithm: Any) -> None:
    """Raises a ValueError for settings that no clients could do with."""
    for name in ("q", "lipschitz", "tilt", "power", "beta", "temperature"):
        value = getattr(config, name)
        if value is not None and not np.isfinite(value):
            raise ValueError(f"aggregation.{name} must be finite, got {value}")
    if config.rule in WEIGHING:
        nobody = np.zeros(max(config.groups, 1))
        try:
            weighing_rule(config, Circumstances(nobody, algorithm))
        except ValueError as error:
            raise ValueError(f"aggregation.rule={config.rule!r}: {error}") from error


def lipschitz(config: Any, algorithm: Any) -> float:
    """`L` of q-FedAvg: by default the paper's, 1 over the rate of the local steps.

    Raises:
        ValueError: that rate is 0.
    """
    if config.lipschitz is not None:
        return config.lipschitz
    if not algorithm.client_lr > 0:
        raise ValueError(
            f"algorithm.client_lr={algorithm.client_lr} has no inverse: set "
            "aggregation.lipschitz"
        )
    return 1 / algorithm.client_lr


def by_quantile(examples: np.ndarray, groups: int) -> Callable[[Array], Array]:
    """Groups of clients by how much they hold, each as large as ties allow.

    Args:
        examples: `[N]`; clients of equally many are in one group.
        groups: `G`, from those who hold least to those who hold most.

    Returns:
        `(client ids [V]) -> [V]` int32.

    Raises:
        ValueError: fewer than one group, or more than clients.

    >>> print(by_quantile(np.array([9, 1, 2, 30]), 2)(jnp.array([0, 1, 2, 3])))
    [1 0 0 1]
    """
    if not 1 <= groups <= len(examples):
        raise ValueError(
            f"aggregation.groups={groups} of {len(examples)} clients: expected from 1 "
            "to that many"
        )
    ends = np.quantile(examples, np.arange(1, groups) / groups)
    group = jnp.asarray(np.searchsorted(ends, examples), jnp.int32)
    return lambda ids: group.at[ids].get(mode="clip")


def steps_and_momentum(algorithm: Any) -> tuple[Steps, float]:
    """How many local steps a client takes on so many examples, and their momentum.

    Raises:
        ValueError: the local steps are not those of SGD.
    """
    optimizer = getattr(algorithm, "client_optimizer", "sgd")
    proximal = getattr(algorithm, "proximal", 0)
    if optimizer not in ("sgd", "momentum") or proximal:
        raise ValueError(
            "FedNova counts steps of SGD, with momentum or without: "
            f"algorithm.client_optimizer={optimizer!r} and algorithm.proximal="
            f"{proximal} go otherwise"
        )
    if isinstance(algorithm, FedMF) and algorithm.feedback == "explicit":
        return lambda examples: examples, 0.0  # a step for each rating
    if getattr(algorithm, "shared_steps", "every") == "once":
        return lambda examples: (examples > 0).astype(examples.dtype), 0.0
    pairs = 1 + algorithm.negatives
    group = pairs if isinstance(algorithm, FedFM) else 1
    steps = local_steps(algorithm.batch_size, algorithm.local_epochs, pairs, group)
    return steps, 0.9 if optimizer == "momentum" else 0.0
