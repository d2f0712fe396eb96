"""Bytes and simulated seconds of a round on the assumed devices."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.fleet import cost_class as cost_classes
from fedjax_rec.fleet.devices import DeviceClass, FleetConfig

if TYPE_CHECKING:
    from fedjax_rec.fleet.cohorts import Cohort


@struct
class FleetCosts:
    """Costs of every client.

    Attributes:
        cost_class: `[N]` int32, each client's cost class.
        down: `[P]` float32 bytes received.
        up: `[K, P]` float32 bytes sent in a client's first message, its second and so
            on; the last row holds from then on.
        pairs: `[P]` float32 pairs trained.
        fits: `[K, P]` bool, whether a client of the cost class has examples, and the
            device class the memory to train on them.
        class_ends: `[K - 1]` uint32, see `device_of`.
        pair_seconds: `[K]` float32 seconds per pair.
        down_seconds: `[K]` float32 seconds per byte received.
        up_seconds: `[K]` float32 seconds per byte sent.
        zones: number of time zones.
        seed: seed of devices and zones.
    """

    cost_class: Array
    down: Array
    up: Array
    pairs: Array
    fits: Array
    class_ends: Array
    pair_seconds: Array
    down_seconds: Array
    up_seconds: Array
    zones: int = static()
    seed: int = static()

    def devices(self, ids: Array) -> tuple[Array, Array]:
        """Device class and time zone of clients `[n]`."""
        return device_of(ids, self.class_ends, self.zones, self.seed)

    def able(self, ids: Array) -> tuple[Array, Array, Array]:
        """Device class, time zone, and whether clients `[n]` can train at all."""
        kind, zone = self.devices(ids)
        return kind, zone, self.fits[kind, self.cost_class.at[ids].get(mode="clip")]

    def sent(self, number: Array | int, cohort_size: int) -> Array | int:
        """Messages that a client has sent before a round, in the mean over clients."""
        n = self.cost_class.shape[0]
        return number * min(cohort_size, n) // n

    def of(self, ids: Array, sent: Array | int = 0) -> tuple[Array, Array, Array]:
        """Bytes down, bytes up and seconds of clients `[n]`; zeros for the absent.

        Args:
            ids: ids of the clients.
            sent: number of messages that they have sent before.
        """
        n = self.cost_class.shape[0]
        cost_class = self.cost_class.at[ids].get(mode="clip")
        kind, _ = self.devices(ids)
        message = jnp.minimum(sent, len(self.up) - 1)
        down, up = self.down[cost_class], self.up[message, cost_class]
        seconds = down * self.down_seconds[kind] + up * self.up_seconds[kind]
        seconds += self.pairs[cost_class] * self.pair_seconds[kind]
        present = ids < n
        down, up, seconds = (jnp.where(present, x, 0) for x in (down, up, seconds))
        return down, up, seconds


class Fleet(NamedTuple):
    """A population on its devices, from which cohorts are drawn.

    Attributes:
        devices: the classes of devices.
        costs: costs of every client.
        examples: `[N]` training examples.
        clients: `[K]` clients of each device class.
        able: `[K, zones]` clients with examples and the memory to train on them.
    """

    devices: tuple[DeviceClass, ...]
    costs: FleetCosts
    examples: np.ndarray
    clients: np.ndarray
    able: np.ndarray


def class_ends(devices: Sequence[DeviceClass]) -> np.ndarray:
    """`[K - 1]` uint32: the 32-bit words at which each class but the last ends."""
    ends = np.cumsum([device.share for device in devices])[:-1]
    return np.round(np.clip(ends, 0, 1) * (2.0**32 - 1)).astype(np.uint32)


def device_of(ids: Array, ends: Array, zones: int, seed: int) -> tuple[Array, Array]:
    """A client's device class and time zone, which never change.

    They are random words of its id, so that no table is stored, and independent of the
    client's data.

    Args:
        ids: `[n]` int32.
        ends: see `class_ends`.
        zones: number of time zones, equally likely.
        seed: seed of the assignment.

    Returns:
        Class `[n]` and zone `[n]`, int32.
    """
    root = jax.random.key(seed)

    def words(client: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(root, client), (2,), jnp.uint32)

    drawn = jax.vmap(words)(ids)
    kind = jnp.searchsorted(ends, drawn[:, 0], side="right").astype(jnp.int32)
    return kind, (drawn[:, 1] % zones).astype(jnp.int32)


def make_fleet(
    config: FleetConfig,
    cost_class: np.ndarray,
    classes: cost_classes.CostClasses,
    examples: np.ndarray,
    pair_flops: float = 0.0,
) -> Fleet:
    """Puts a population on its devices.

    Args:
        config: the assumed devices.
        cost_class: `[N]` each client's cost class.
        classes: `[P]`.
        examples: `[N]` training examples.
        pair_flops: operations that a backbone adds to a pair.
    """
    devices = config.devices

    def column(value) -> Any:
        return np.array([value(device) for device in devices], np.float32)

    limits = np.array([device.memory_mb * 1e6 for device in devices])
    arrays: dict[str, Any] = {
        "cost_class": cost_class,
        "down": classes.down.astype(np.float32),
        "up": np.atleast_2d(classes.up).astype(np.float32),
        "pairs": classes.pairs.astype(np.float32),
        "fits": (classes.memory <= limits[:, None]) & (classes.pairs > 0),
        "class_ends": class_ends(devices),
        "pair_seconds": column(
            lambda d: 1 / d.pairs_per_second + pair_flops / (d.gflops * 1e9)
        ),
        "down_seconds": column(lambda d: 8e-6 / d.download_mbps),
        "up_seconds": column(lambda d: 8e-6 / d.upload_mbps),
    }
    costs = FleetCosts(**arrays, zones=config.time_zones, seed=config.seed)
    return Fleet(devices, costs, examples, *_census(costs, len(devices)))


def _census(costs: FleetCosts, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Clients of each device class `[K]`, and those able to train `[K, zones]`."""
    n = len(costs.cost_class)
    clients = np.zeros(kinds, np.int64)
    able = np.zeros((kinds, costs.zones), np.int64)
    look = jax.jit(lambda costs, ids: costs.able(ids))
    block = min(n, 1 << 18)
    for first in range(0, n, block):
        ids = first + np.arange(block, dtype=np.int32)
        kind, zone, can_train = map(np.asarray, look(costs, ids))
        real = ids < n
        clients += np.bincount(kind[real], minlength=kinds)
        np.add.at(able, (kind[real], zone[real]), can_train[real])
    return clients, able


def round_costs(
    costs: FleetCosts, drawn: Participation, number: Array | int = 0
) -> dict[str, Array]:
    """One round's costs, as scalars for its metrics.

    All invited clients receive; only those that arrive send, and the round lasts as
    long as the slowest of them: it receives, trains, sends. Where messages have a
    schedule, all have sent as many as the mean client before the round.

    Args:
        costs: costs of every client.
        drawn: the clients of the round.
        number: number of the round.

    Returns:
        `invited` and `arrived` (clients), `down_bytes` and `up_bytes` (totals over the
        cohort), `simulated_seconds`.
    """
    down, _, _ = costs.of(drawn.invited)
    n = costs.cost_class.shape[0]
    _, up, seconds = costs.of(drawn.ids, costs.sent(number, len(drawn.ids)))
    return {
        "invited": (drawn.invited < n).sum(dtype=jnp.int32),
        "arrived": (drawn.ids < n).sum(dtype=jnp.int32),
        "down_bytes": down.sum(),
        "up_bytes": up.sum(),
        "simulated_seconds": seconds.max(),
    }


def with_costs(sampler: Sampler, costs: FleetCosts) -> Sampler:
    """`sampler`, with the costs of each cohort among its metrics."""

    def sample(tables: Tree, key: Array, number: Array) -> Participation:
        inner, costs = tables
        drawn = sampler.sample(inner, key, number)
        metrics = {**drawn.metrics, **round_costs(costs, drawn, number)}
        return dataclasses.replace(drawn, metrics=metrics)

    return Sampler(sample, (sampler.tables, costs))


class Participants(NamedTuple):
    """A cohort's sampler, with facts for reports.

    Attributes:
        sampler: draws cohorts, with the costs of each.
        notes: facts for the result.
        why: sentences for the start of a run.
        message_bits: bits of each group that a client trains, without a codec.
    """

    sampler: Sampler
    notes: dict[str, Any]
    why: tuple[str, ...]
    message_bits: dict[str, int]


def make_participants(
    cohort: "Cohort",
    config: FleetConfig,
    recipe: Recipe,
    holdings: cost_classes.Holdings,
    num_items: int,
) -> Participants:
    """Binds a cohort to a population.

    Args:
        cohort: the clients of a round.
        config: the assumed devices.
        recipe: the system, for the size of its messages.
        holdings: holdings of each client `[N]`.
        num_items: items that training may see.

    Raises:
        ValueError: the population is too small for these cohorts.
    """
    cost_class, by_class = cost_classes.assign_cost_classes(holdings)
    classes = cost_classes.make_cost_classes(recipe, by_class, num_items)
    local = recipe.local
    flops = local.text_flops * local.encodings / local.epochs
    fleet = make_fleet(config, cost_class, classes, holdings.examples, flops)
    sampler = with_costs(cohort.build(fleet), fleet.costs)
    facts, why = cohort.describe(fleet)
    notes = {"devices": {**_device_notes(fleet, classes, cost_class), **facts}}
    bits = cost_classes.group_bits(recipe, holdings, num_items)
    return Participants(sampler, notes, why, bits)


def _device_notes(
    fleet: Fleet, classes: cost_classes.CostClasses, cost_class: np.ndarray
) -> dict[str, Any]:
    """Clients of each device class, and clients that can never train."""
    with_examples = int((classes.pairs[cost_class] > 0).sum())
    names = [device.name for device in fleet.devices]
    return {
        "classes": dict(zip(names, fleet.clients.tolist(), strict=True)),
        "memory_mb_needed": float(classes.memory[cost_class].max() / 1e6),
        "with_examples": with_examples,
        "short_of_memory": with_examples - int(fleet.able.sum()),
    }
