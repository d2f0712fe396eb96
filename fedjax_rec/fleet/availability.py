"""Cohorts of the clients available at the hour, with dropouts."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, struct
from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.fleet import sampling
from fedjax_rec.fleet.costs import Fleet, FleetCosts
from fedjax_rec.fleet.devices import HOURS, DeviceClass

HEADER = ("device", "hour", "availability")


@struct
class Presence:
    """Probabilities that decide which clients are available, and which finish.

    Attributes:
        costs: devices and costs of every client.
        available: `[K, rounds of a day, zones]` uint32, see `thresholds`.
        dropout: `[K]` uint32, see `thresholds`.
    """

    costs: FleetCosts
    available: Array
    dropout: Array

    def expected(self, able: np.ndarray) -> np.ndarray:
        """Expected number of available clients `[rounds of a day]`.

        Args:
            able: `[K, zones]` clients that can train.
        """
        return np.einsum("kz,krz->r", able, np.asarray(self.available) / 2.0**31)


def diurnal(device: DeviceClass, hours: np.ndarray) -> np.ndarray:
    """`a(h) = trough + (peak - trough) (1 + cos(2 pi (h - peak_hour) / 24)) / 2`."""
    wave = (1 + np.cos(2 * np.pi * (hours - device.peak_hour) / HOURS)) / 2
    return device.trough + (device.peak - device.trough) * wave


def read_trace(
    path: str | Path, devices: Sequence[DeviceClass]
) -> dict[str, np.ndarray]:
    """Availability by hour from a CSV file with the header `device,hour,availability`.

    Args:
        path: CSV file with 24 lines for each class, hours 0 to 23 in local time.
        devices: the classes it has to hold, and no others.

    Returns:
        Class name to `[24]`.

    Raises:
        ValueError: the file cannot be read, or does not hold such a table.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"trace={path}: cannot be read: {error}") from error
    lines = csv.DictReader(text.splitlines())
    header = ",".join(lines.fieldnames or ())
    if header != ",".join(HEADER):
        raise ValueError(
            f"{path}: the header is {header or 'missing'}, expected {','.join(HEADER)}"
        )
    table = {device.name: np.full(HOURS, np.nan) for device in devices}
    for row in lines:
        try:
            _read_row(table, row["device"], row["hour"], row["availability"])
        except ValueError as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    for name, values in table.items():
        absent = ", ".join(map(str, np.flatnonzero(np.isnan(values))))
        if absent:
            raise ValueError(f"{path}: {name} lacks hour {absent}")
    return table


def _read_row(
    table: dict[str, np.ndarray], name: str, hour_text: str, value_text: str
) -> None:
    """Enters one line of a trace; NaN marks hours not yet read."""
    if name not in table:
        raise ValueError(
            f"unknown device class {name!r}, expected one of {', '.join(sorted(table))}"
        )
    try:
        hour, value = int(hour_text), float(value_text)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected an hour and an availability, got {hour_text!r} and "
            f"{value_text!r}"
        ) from None
    if not 0 <= hour < HOURS or not 0 <= value <= 1:
        raise ValueError(
            "expected an hour from 0 to 23 and an availability in [0, 1], got "
            f"{hour} and {value}"
        )
    if not np.isnan(table[name][hour]):
        raise ValueError(f"hour {hour} of {name} appears twice")
    table[name][hour] = value


def availability(
    devices: Sequence[DeviceClass],
    rounds_per_day: int,
    zones: int,
    trace: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Probabilities `[K, rounds of a day, zones]`; round 0 is midnight in zone 0.

    Zone `z` is `z` hours ahead. Between the hours of a trace it is interpolated.

    Args:
        devices: the classes of devices.
        rounds_per_day: number of rounds in a day.
        zones: number of time zones.
        trace: class name to `[24]`, in place of the diurnal curves.
    """
    first = np.arange(rounds_per_day)[:, None] * (HOURS / rounds_per_day)
    local = (first + np.arange(zones)) % HOURS
    if trace is None:
        return np.stack([diurnal(device, local) for device in devices])
    knots = np.arange(HOURS)
    curves = [trace[device.name] for device in devices]
    return np.stack([np.interp(local, knots, curve, period=HOURS) for curve in curves])


def make_presence(
    fleet: Fleet, rounds_per_day: int, trace: str | Path | None = None
) -> Presence:
    """The probabilities of a population.

    Args:
        fleet: the population on its devices.
        rounds_per_day: number of rounds in a day.
        trace: CSV file for `read_trace`.
    """
    devices, zones = fleet.devices, fleet.costs.zones
    curves = None if trace is None else read_trace(trace, devices)
    chance = availability(devices, rounds_per_day, zones, curves)
    dropout = np.array([device.dropout for device in devices])
    arrays: dict[str, Any] = {
        "available": sampling.thresholds(chance),
        "dropout": sampling.thresholds(dropout),
    }
    return Presence(costs=fleet.costs, **arrays)


def available(
    presence: Presence, able: np.ndarray, cohort_size: int, over_selection: float = 1.0
) -> Sampler:
    """Uniform over the clients that are available at the round's hour.

    Whether a client is available is drawn anew each round, and so is whether it
    drops out. With over-selection more clients are invited than wanted; the first
    `cohort_size` to arrive count, and the round ends with the last of them.

    Args:
        presence: probabilities of the population.
        able: `[K, zones]` clients that can train.
        cohort_size: `C`; slots stay empty if fewer clients are available.
        over_selection: `ceil(over_selection C)` clients are invited.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`, or `over_selection` is below 1.

    References:
        Bonawitz et al., Towards Federated Learning at Scale: System Design, MLSys
        2019: devices that come and go with the hour, drop out, and are over-selected.
    """
    n = presence.costs.cost_class.shape[0]
    if not over_selection >= 1:
        raise ValueError(f"over_selection must be at least 1, got {over_selection}")
    sampling.check_size(n, cohort_size)
    size = min(n, math.ceil(round(over_selection * cohort_size, 6)))
    fewest = float(presence.expected(able).min())
    # Fewer are available with probability FAILURE: Chernoff, independent chances.
    certain = fewest - math.sqrt(2 * fewest * -math.log(sampling.FAILURE))
    repeated = 1 - (certain - np.arange(size)) / n
    draws = sampling.draws_needed(np.maximum(repeated, 0), n)

    def sample(tables: Presence, key: Array, number: Array) -> Participation:
        order_key, key = jax.random.split(key)
        order = sampling.random_order(order_key, n, draws)
        # A client drawn twice gets the same words twice.
        words = jax.vmap(lambda i: _words(key, i))(order)
        kind, zone, able = tables.costs.able(order)
        slot = number % tables.available.shape[1]
        comes = able & (words[:, 0] < tables.available[kind, slot, zone])
        invited = sampling.first_distinct(jnp.where(comes, order, n), size, n)
        words = jax.vmap(lambda i: _words(key, i))(invited)
        kind, _ = tables.costs.devices(invited)
        stays = (invited < n) & (words[:, 1] >= tables.dropout[kind])
        if size > cohort_size:
            sent = tables.costs.sent(number, cohort_size)
            seconds = jnp.where(stays, tables.costs.of(invited, sent)[2], jnp.inf)
            rank = jnp.zeros(size, jnp.int32).at[jnp.argsort(seconds)]
            stays &= rank.set(jnp.arange(size, dtype=jnp.int32)) < cohort_size
        ids = jnp.sort(jnp.where(stays, invited, n))[:cohort_size]
        return Participation(ids=ids, invited=invited, metrics={})

    return Sampler(sample, presence)


def _words(key: Array, client: Array) -> Array:
    return jax.random.bits(jax.random.fold_in(key, client), (2,), jnp.uint32) >> 1
