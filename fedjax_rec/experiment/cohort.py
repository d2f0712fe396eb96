"""Who takes part in an experiment, on what devices, and what a round costs them."""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler
from fedjax_rec.fleet import sampling
from fedjax_rec.fleet.availability import (
    HOURS,
    Census,
    Presence,
    available,
    make_presence,
    read_trace,
)
from fedjax_rec.fleet.costs import (
    Holdings,
    Profiles,
    encoded_bytes,
    group_profiles,
    make_fleet,
    make_profiles,
    message_bytes,
    touched_items,
    with_costs,
)
from fedjax_rec.fleet.devices import PHONES, DeviceClass, check_devices

OPTIMIZER_STATES = {"sgd": 0, "momentum": 1, "adagrad": 1, "adam": 2}
"""Numbers that a client's optimizer keeps for each one it trains."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """Who takes part in a round, and on what devices.

    Attributes:
        sampling: `all`; `uniform` without replacement; `poisson`, each client on its
            own; `weighted` without replacement, in proportion to a client's number of
            examples; or `available`, uniform over those that are there at the round's
            hour, some of whom drop out on the way.
        size: clients of a round; the expected number under `poisson`; unused by `all`.
        over_selection: under `available`, invite so many times `size`; the first
            `size` to arrive count, the others have worked for nothing.
        rounds_per_day: under `available`, so many rounds are a day, from midnight on.
        time_zones: under `available`, clients are spread evenly over so many hours.
        trace: under `available`, a CSV file with the header
            `device,hour,availability` (local hours 0 to 23 of every device class), in
            place of the classes' curves.
        devices: classes of devices with their speed, bandwidth and memory, of which
            every run derives its bytes and its simulated time.
        device_seed: of each client's device and time zone.
    """

    sampling: Literal["all", "uniform", "poisson", "weighted", "available"] = "all"
    size: int = 256
    over_selection: float = 1.0
    rounds_per_day: int = 96
    time_zones: int = 3
    trace: str | None = None
    devices: tuple[DeviceClass, ...] = PHONES
    device_seed: int = 0


class Participants(NamedTuple):
    """A cohort's sampler, with what a report says of it.

    Attributes:
        sampler: tells every round's costs.
        size: `C`.
        notes: facts for the result.
        why: sentences for the opening.
    """

    sampler: Sampler
    size: int
    notes: dict[str, Any]
    why: tuple[str, ...]


def check_cohort(config: CohortConfig) -> None:
    """Raises a ValueError for a cohort that no population could bring."""
    for name in ("size", "rounds_per_day", "time_zones"):
        if getattr(config, name) < 1:
            raise ValueError(
                f"cohort.{name} must be at least 1, got {getattr(config, name)}"
            )
    if config.time_zones > HOURS:
        raise ValueError(
            f"cohort.time_zones must be at most {HOURS}, got {config.time_zones}"
        )
    if not 0 <= config.device_seed < 2**32:
        raise ValueError(
            f"cohort.device_seed must lie in [0, 2**32), got {config.device_seed}"
        )
    if not (config.over_selection >= 1 and np.isfinite(config.over_selection)):
        raise ValueError(
            f"cohort.over_selection must be at least 1, got {config.over_selection}"
        )
    if config.sampling != "available":
        for name, unused in (("over_selection", 1.0), ("trace", None)):
            if getattr(config, name) != unused:
                raise ValueError(
                    f"cohort.{name} is read under cohort.sampling='available' alone, "
                    f"and it is {config.sampling!r}"
                )
    check_devices(config.devices)
    if config.trace is not None:
        read_trace(config.trace, config.devices)


def cohort_size(config: CohortConfig, num_clients: int) -> int:
    """`C`: slots of a round, of which some may stay empty."""
    if config.sampling == "all":
        return num_clients
    if config.sampling == "poisson":
        return min(num_clients, int(np.ceil(config.size + 4 * config.size**0.5)))
    return config.size


def make_participants(
    config: CohortConfig,
    recipe: Recipe,
    held: Holdings,
    *,
    room: int,
    algorithm: Any,
    backbone: dict[str, Any] | None = None,
) -> Participants:
    """Binds a cohort's config to a population.

    Args:
        config: who takes part.
        recipe: the system, for the size of its messages.
        held: what each client holds.
        room: items that training may see.
        algorithm: the system's config.
        backbone: facts about it: `weight_bytes` and `pair_flops`.

    Raises:
        ValueError: the population cannot bring such cohorts.
    """
    n = len(held.examples)
    profile, holdings = group_profiles(held)
    epochs = getattr(algorithm, "local_epochs", 1)
    # Federated reconstruction encodes its texts once, for all steps of the user's part.
    encoded = 1 if getattr(algorithm, "shared_steps", "") == "once" else epochs
    facts = backbone or {"weight_bytes": 0, "pair_flops": 0.0}
    stack = recipe.stack
    profiles = make_profiles(
        recipe.model if stack is None else stack.model,
        holdings,
        fixed=recipe.fixed,
        sent=None if recipe.codec is None else partial(encoded_bytes, recipe),
        negatives=recipe.negatives,
        room=room,
        epochs=epochs,
        optimizer_states=OPTIMIZER_STATES.get(
            getattr(algorithm, "client_optimizer", "sgd"), 0
        ),
        frozen_bytes=facts["weight_bytes"],
        received=1 if stack is None else stack.received,
    )
    fleet = make_fleet(
        profile,
        profiles,
        config.devices,
        pair_flops=facts["pair_flops"] * encoded / epochs,
        zones=config.time_zones,
        seed=config.device_seed,
    )
    trace = None
    if config.trace is not None:
        trace = read_trace(config.trace, config.devices)
    presence = make_presence(
        fleet, profiles.memory, config.devices, config.rounds_per_day, trace
    )
    census = Census(presence)
    sampler = make_sampler(config, n, held.examples, presence, census)
    return Participants(
        sampler=with_costs(sampler, fleet),
        size=cohort_size(config, n),
        notes={"devices": _notes(config, census, profiles, profile)},
        why=_why(config, census, n),
    )


def make_sampler(
    config: CohortConfig,
    num_clients: int,
    examples: np.ndarray,
    presence: Presence,
    census: Census,
) -> Sampler:
    """The sampler a config names, without costs."""
    size = cohort_size(config, num_clients)
    if config.sampling == "all":
        return sampling.everyone(num_clients)
    if config.sampling == "uniform":
        return sampling.uniform(num_clients, size)
    if config.sampling == "poisson":
        return sampling.poisson(num_clients, config.size, size)
    if config.sampling == "weighted":
        return sampling.weighted(examples, size)
    sampling.check_size(num_clients, size)
    if not census.expected.max() > 0:
        raise ValueError(
            "cohort.sampling='available': no client is ever available. Of "
            f"{num_clients} clients {int(census.able.sum())} have something to train "
            "and a device with the memory for it; raise memory_mb or peak of "
            "cohort.devices"
        )
    return available(presence, census, size, config.over_selection)


def group_bits(recipe: Recipe, held: Holdings, room: int) -> dict[str, int]:
    """Bits of what a client trains, by group, in the mean over all clients."""
    profile, holdings = group_profiles(held)
    touched = {
        "item": touched_items(holdings, recipe.negatives, room),
        "user": holdings.users.astype(np.float64),
    }
    groups = message_bytes(recipe.model, touched)
    return {
        name: round(8 * float(size[profile].mean()))
        for name, size in groups.items()
        if name not in recipe.fixed
    }


def _notes(
    config: CohortConfig, census: Census, profiles: Profiles, profile: np.ndarray
) -> dict[str, Any]:
    """For the result: classes, and who can never train."""
    memory = profiles.memory[profile]
    has_some = int((profiles.pairs[profile] > 0).sum())
    notes: dict[str, Any] = {
        "classes": {
            device.name: int(count)
            for device, count in zip(config.devices, census.clients, strict=True)
        },
        "memory_mb_needed": float(memory.max() / 1e6),
        "with_examples": has_some,
        "short_of_memory": has_some - int(census.able.sum()),
    }
    if config.sampling == "available":
        notes["available_least"] = float(census.expected.min())
        notes["available_most"] = float(census.expected.max())
    return notes


def _why(config: CohortConfig, census: Census, num_clients: int) -> tuple[str, ...]:
    if config.sampling != "available":
        return ()
    least, most = census.expected.min(), census.expected.max()
    able = int(census.able.sum())
    lines = [
        f"of {num_clients:,} clients {able:,} can train on their device; {least:,.0f} "
        f"to {most:,.0f} of them are expected to be available, by the hour"
    ]
    invited = config.size * config.over_selection
    if least < invited:
        lines.append(
            f"at the quietest hour that is fewer than the {invited:,.0f} invited: some "
            "slots stay empty then"
        )
    return tuple(lines)
