"""Cohorts of those who are there: by hour and device, with dropouts on the way."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.fleet.costs import Fleet
from fedjax_rec.fleet.devices import DeviceClass
from fedjax_rec.fleet.distinct import (
    FAILURE,
    draws_or_whole,
    first_distinct,
    random_order,
)
from fedjax_rec.fleet.sampling import chances, check_size

HOURS = 24


@struct
class Presence:
    """What decides whether a client is there, and whether it finishes.

    Attributes:
        fleet: devices and costs.
        available: `[K, rounds of a day, zones]` uint32 thresholds, see `chances`.
        dropout: `[K]` uint32 thresholds.
        fits: `[K, P]` bool, whether a client of the profile can train on the device.
    """

    fleet: Fleet
    available: Array
    dropout: Array
    fits: Array

    def can(self, ids: Array) -> tuple[Array, Array, Array]:
        """Class, zone, and whether clients `[n]` can take part at all."""
        kind, zone = self.fleet.devices(ids)
        profile = self.fleet.profile.at[ids].get(mode="clip")
        return kind, zone, self.fits[kind, profile]


def diurnal(device: DeviceClass, hours: np.ndarray) -> np.ndarray:
    """`a(h) = trough + (peak - trough) (1 + cos(2 pi (h - peak_hour) / 24)) / 2`."""
    wave = (1 + np.cos(2 * np.pi * (hours - device.peak_hour) / HOURS)) / 2
    return device.trough + (device.peak - device.trough) * wave


def read_trace(
    path: str | Path, devices: Sequence[DeviceClass]
) -> dict[str, np.ndarray]:
    """Availability by hour from a CSV file with the header `device,hour,availability`.

    Args:
        path: of the file: for each class 24 lines, of hours 0 to 23 local time.
        devices: the classes it has to hold, and no others.

    Returns:
        Class name to `[24]`.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    wanted = ("device", "hour", "availability")
    names = {device.name for device in devices}
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cohort.trace={path}: cannot be read: {error}") from error
    lines = csv.DictReader(text.splitlines())
    header = tuple(lines.fieldnames or ())
    if header != wanted:
        raise ValueError(
            f"{path}: the header is {','.join(header) or 'missing'}, expected "
            f"{','.join(wanted)}"
        )
    for row in lines:
        place = f"{path}, line {lines.line_num}"
        name = row["device"]
        if name not in names:
            raise ValueError(
                f"{place}: no device class {name!r} in cohort.devices, which has "
                f"{', '.join(sorted(names))}"
            )
        try:
            hour, value = int(row["hour"]), float(row["availability"])
        except (TypeError, ValueError):
            raise ValueError(
                f"{place}: expected an hour and an availability, got "
                f"{row['hour']!r} and {row['availability']!r}"
            ) from None
        if not 0 <= hour < HOURS or not 0 <= value <= 1:
            raise ValueError(
                f"{place}: expected an hour of 0 to 23 and an availability in [0, 1], "
                f"got {hour} and {value}"
            )
        if hour in found[name]:
            raise ValueError(f"{place}: hour {hour} of {name} is there twice")
        found[name][hour] = value
    for name, hours in found.items():
        absent = [str(hour) for hour in range(HOURS) if hour not in hours]
        if absent:
            raise ValueError(f"{path}: {name} lacks hour {', '.join(absent)}")
    return {
        name: np.array([hours[hour] for hour in range(HOURS)])
        for name, hours in found.items()
    }


def availability(
    devices: Sequence[DeviceClass],
    rounds_per_day: int,
    zones: int,
    trace: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Probabilities `[K, rounds of a day, zones]`; round 0 is midnight in zone 0.

    Zone `z` is `z` hours ahead. Between the hours of a trace it is interpolated.

    Args:
        devices: classes.
        rounds_per_day: so many rounds are a day.
        zones: time zones.
        trace: `[24]` by class name, in place of the diurnal curves.
    """
    first = np.arange(rounds_per_day)[:, None] * (HOURS / rounds_per_day)
    local = (first + np.arange(zones)) % HOURS
    if trace is None:
        return np.stack([diurnal(device, local) for device in devices])
    knots = np.arange(HOURS)
    return np.stack(
        [
            np.interp(local, knots, trace[device.name], period=HOURS)
            for device in devices
        ]
    )


def make_presence(
    fleet: Fleet,
    memory: np.ndarray,
    devices: Sequence[DeviceClass],
    rounds_per_day: int,
    trace: Mapping[str, np.ndarray] | None = None,
) -> Presence:
    """Who can be there, and when.

    Args:
        fleet: devices and costs.
        memory: `[P]` bytes that training takes.
        devices: classes.
        rounds_per_day: so many rounds are a day.
        trace: see `availability`.
    """
    limits = np.array([device.memory_mb * 1e6 for device in devices])
    arrays: dict[str, Any] = {
        "available": chances(availability(devices, rounds_per_day, fleet.zones, trace)),
        "dropout": chances(np.array([device.dropout for device in devices])),
        # Who holds nothing has nothing to train, and does not come.
        "fits": (memory <= limits[:, None]) & (np.asarray(fleet.pairs) > 0),
    }
    return Presence(fleet=fleet, **arrays)


class Census:
    """How many clients there are of each kind, counted once.

    Attributes:
        clients: `[K]` of each class.
        able: `[K, zones]` of them, those with the memory and something to train.
        expected: `[rounds of a day]` how many are available.
    """

    def __init__(self, presence: Presence):
        n = presence.fleet.profile.shape[0]
        kinds, _, zones = presence.available.shape
        self.clients = np.zeros(kinds, np.int64)
        self.able = np.zeros((kinds, zones), np.int64)
        look = jax.jit(lambda presence, ids: presence.can(ids))
        block = min(n, 1 << 18)
        for first in range(0, n, block):
            ids = first + np.arange(block, dtype=np.int32)
            kind, zone, can = map(np.asarray, look(presence, ids))
            real = ids < n
            self.clients += np.bincount(kind[real], minlength=kinds)
            np.add.at(self.able, (kind[real], zone[real]), can[real])
        probability = np.asarray(presence.available) / 2.0**31
        self.expected = np.einsum("kz,krz->r", self.able, probability)


def available(
    presence: Presence,
    census: Census,
    cohort_size: int,
    over_selection: float = 1.0,
) -> Sampler:
    """Uniform over the clients that are available at the round's hour.

    Whether a client is available is drawn anew each round, and so is whether it
    drops out. With over-selection more are invited than wanted; the first
    `cohort_size` to arrive count, and the round ends with the last of them.

    Args:
        presence: who is there, and when.
        census: counts of it.
        cohort_size: `C`; where fewer are available, slots stay empty.
        over_selection: `ceil(over_selection C)` are invited.

    Returns:
        The sampler.

    Raises:
        ValueError: those invited are not in `[1, N]`, or `over_selection` is below 1.

    References:
        Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys
        2019: devices that come and go with the hour, drop out, and are over-selected.
    """
    n = presence.fleet.profile.shape[0]
    if not over_selection >= 1:
        raise ValueError(f"over_selection must be at least 1, got {over_selection}")
    check_size(n, cohort_size)
    size = min(n, math.ceil(round(over_selection * cohort_size, 6)))
    fewest = float(census.expected.min())
    # As many are there for sure: Chernoff's bound of a sum of independent chances.
    there = fewest - math.sqrt(2 * fewest * -math.log(FAILURE))
    repeated = 1 - (there - np.arange(size)) / n
    draws = draws_or_whole(np.maximum(repeated, 0), n)

    def sample(tables: Presence, key: Array, number: Array) -> Participation:
        order_key, key = jax.random.split(key)
        order = random_order(order_key, n, draws)
        # A client drawn twice gives the same answer twice.
        words = jax.vmap(lambda i: _words(key, i))(order)
        kind, zone, can = tables.can(order)
        slot = number % tables.available.shape[1]
        comes = can & (words[:, 0] < tables.available[kind, slot, zone])
        invited = first_distinct(jnp.where(comes, order, n), size, n)
        words = jax.vmap(lambda i: _words(key, i))(invited)
        kind, _ = tables.fleet.devices(invited)
        stays = (invited < n) & (words[:, 1] >= tables.dropout[kind])
        if size > cohort_size:
            seconds = jnp.where(stays, tables.fleet.of(invited)[2], jnp.inf)
            place = jnp.zeros(size, jnp.int32).at[jnp.argsort(seconds)]
            stays &= place.set(jnp.arange(size, dtype=jnp.int32)) < cohort_size
        ids = jnp.sort(jnp.where(stays, invited, n))[:cohort_size]
        return Participation(ids=ids, invited=invited, metrics={})

    return Sampler(sample, presence)


def _words(key: Array, client: Array) -> Tree:
    return jax.random.bits(jax.random.fold_in(key, client), (2,), jnp.uint32) >> 1
