"""Adapter from `CohortConfig` to the settings of `fleet.cohorts`."""

import dataclasses
from typing import Any, Literal

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.fleet.cohorts import (
    AllClients,
    Available,
    Cohort,
    Poisson,
    Uniform,
    Weighted,
)
from fedjax_rec.fleet.cost_class import Holdings, Training
from fedjax_rec.fleet.devices import PHONES, DeviceClass, FleetConfig
from fedjax_rec.fleet.participants import Participants
from fedjax_rec.fleet.participants import make_participants as bind

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adagrad": 1, "adam": 2}
"""Numbers that a client's optimizer keeps for each one it trains."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """The clients of a round, and their devices.

    Attributes:
        sampling: `all`; `uniform` without replacement; `poisson`, each client
            independently; `weighted` without replacement, in proportion to a client's
            number of examples; or `available`, uniform over those available at the
            round's hour, with dropouts.
        size: clients of a round; the expected number under `poisson`; unused by `all`.
        over_selection: under `available`, `over_selection * size` clients are invited;
            the first `size` to arrive count, and the work of the others is lost.
        rounds_per_day: under `available`, rounds in a day, from midnight on.
        time_zones: number of time zones, over which clients are spread evenly.
        trace: under `available`, a CSV file with the header
            `device,hour,availability` (local hours 0 to 23 of every device class), in
            place of the classes' curves.
        devices: classes of devices with their speed, bandwidth and memory, from which
            every run derives its bytes and its simulated time.
        device_seed: seed of each client's device and time zone.
    """

    sampling: Literal["all", "uniform", "poisson", "weighted", "available"] = "all"
    size: int = 256
    over_selection: float = 1.0
    rounds_per_day: int = 96
    time_zones: int = 3
    trace: str | None = None
    devices: tuple[DeviceClass, ...] = PHONES
    device_seed: int = 0

    def cohort(self) -> Cohort:
        """The cohort these settings stand for."""
        available = Available(
            size=self.size,
            over_selection=self.over_selection,
            rounds_per_day=self.rounds_per_day,
            trace=self.trace,
        )
        return {
            "all": AllClients(),
            "uniform": Uniform(size=self.size),
            "poisson": Poisson(size=self.size),
            "weighted": Weighted(size=self.size),
            "available": available,
        }[self.sampling]

    def fleet(self) -> FleetConfig:
        """The assumed devices."""
        return FleetConfig(
            devices=self.devices, time_zones=self.time_zones, seed=self.device_seed
        )


def check_cohort(config: CohortConfig) -> None:
    """Raises a ValueError for settings that no population allows."""
    if config.sampling != "available":
        for name, unused in (("over_selection", 1.0), ("trace", None)):
            if getattr(config, name) != unused:
                raise ValueError(
                    f"cohort.{name} is read under cohort.sampling='available' only, "
                    f"and it is {config.sampling!r}"
                )
    try:
        config.cohort().check(config.fleet())
    except ValueError as error:
        raise ValueError(f"cohort.{error}") from error


def cohort_size(config: CohortConfig, num_clients: int) -> int:
    """`C`: slots of a round, some of which may stay empty."""
    return config.cohort().slots(num_clients)


def make_participants(
    config: CohortConfig,
    recipe: Recipe,
    held: Holdings,
    *,
    room: int,
    algorithm: Any,
    backbone: dict[str, Any] | None = None,
) -> Participants:
    """Binds a cohort's config to a population, see `fleet.participants`."""
    epochs = getattr(algorithm, "local_epochs", 1)
    facts = backbone or {"weight_bytes": 0, "pair_flops": 0.0}
    optimizer = getattr(algorithm, "client_optimizer", "sgd")
    training = Training(
        epochs=epochs,
        optimizer_states=OPTIMIZER_STATES.get(optimizer, 0),
        # Federated reconstruction encodes its texts once, for all steps of the user.
        encodings=1 if getattr(algorithm, "shared_steps", "") == "once" else epochs,
        negatives=recipe.negatives,
        weight_bytes=facts["weight_bytes"],
        pair_flops=facts["pair_flops"],
    )
    return bind(config.cohort(), config.fleet(), recipe, held, room, training)
