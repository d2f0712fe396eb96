"""What a round would have cost on devices: bytes, and seconds on the clock.

Per client an expectation over the negatives it draws, a function of how much it holds:
clients that hold as much share one *profile*, so that a round looks up its cohort.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.contracts import Model, Recipe
from fedjax_rec.core.messages import Sender
from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition
from fedjax_rec.fleet.devices import DeviceClass, class_ends, device_of

ID_BYTES = 4
"""Of a row's id in a message."""


class Holdings(NamedTuple):
    """What clients hold; int64 arrays, by client or by profile.

    Attributes:
        examples: training interactions.
        items: different items among them.
        users: different users among them.
    """

    examples: np.ndarray
    items: np.ndarray
    users: np.ndarray


class Profiles(NamedTuple):
    """What one client does in a round; float64 `[P]`, one entry a profile.

    Attributes:
        down: bytes received.
        up: bytes sent.
        pairs: labelled pairs trained, over all local epochs.
        memory: bytes that training takes.
    """

    down: np.ndarray
    up: np.ndarray
    pairs: np.ndarray
    memory: np.ndarray


@struct
class Fleet:
    """Every client's costs.

    Attributes:
        profile: `[N]` int32, which profile a client has.
        down: `[P]` float32 bytes received.
        up: `[P]` float32 bytes sent.
        pairs: `[P]` float32 pairs trained.
        class_ends: `[K - 1]` uint32, see `device_of`.
        pair_seconds: `[K]` float32, of one pair.
        down_seconds: `[K]` float32, of one byte.
        up_seconds: `[K]` float32, of one byte.
        zones: time zones.
        seed: of devices and zones.
    """

    profile: Array
    down: Array
    up: Array
    pairs: Array
    class_ends: Array
    pair_seconds: Array
    down_seconds: Array
    up_seconds: Array
    zones: int = static()
    seed: int = static()

    def devices(self, ids: Array) -> tuple[Array, Array]:
        """Class and zone of clients `[n]`."""
        return device_of(ids, self.class_ends, self.zones, self.seed)

    def of(self, ids: Array) -> tuple[Array, Array, Array]:
        """Bytes down, bytes up and seconds of clients `[n]`; zeros for the absent."""
        n = self.profile.shape[0]
        profile = self.profile.at[ids].get(mode="clip")
        kind, _ = self.devices(ids)
        down, up = self.down[profile], self.up[profile]
        seconds = down * self.down_seconds[kind] + up * self.up_seconds[kind]
        seconds += self.pairs[profile] * self.pair_seconds[kind]
        here = ids < n
        down, up, seconds = (jnp.where(here, x, 0) for x in (down, up, seconds))
        return down, up, seconds


def hold(train: Interactions, partition: Partition) -> Holdings:
    """What each client holds `[N]`."""
    n, client = partition.num_clients, partition.client.astype(np.int64)

    def different(column: np.ndarray, size: int) -> np.ndarray:
        return np.bincount(np.unique(client * size + column) // size, minlength=n)

    examples = np.bincount(client, minlength=n)
    single = partition.user_of_client is not None
    return Holdings(
        examples=examples,
        items=different(train.item, train.num_items),
        users=(examples > 0).astype(np.int64)
        if single
        else different(train.user, train.num_users),
    )


def group_profiles(holdings: Holdings) -> tuple[np.ndarray, Holdings]:
    """`[N]` each client's profile, and what clients of each profile hold."""
    profile = np.zeros(len(holdings.examples), np.int64)
    for column in holdings:  # one by one: sorting numbers is far quicker than rows
        profile = profile * (column.max(initial=0) + 1) + column
        _, first, profile = np.unique(profile, return_index=True, return_inverse=True)
    found = Holdings(*(column[first] for column in holdings))
    return profile.astype(np.int32), found


def touched_items(holdings: Holdings, negatives: int, room: int) -> np.ndarray:
    """Different items in a client's pairs of one round, as expected.

    With `d` different items in `m` examples, each of the `room - d` others is a
    negative of one example with probability `negatives / (room - d)`, so it is in
    none with `(1 - negatives / (room - d))^m`. Exact for clients of one user, each of
    whose items is there once; for several users, who may draw one another's items, it
    takes them as one.

    Args:
        holdings: of clients or profiles `[n]`.
        negatives: negatives an example.
        room: items that training may see.

    Returns:
        float64 `[n]`.
    """
    others = np.maximum(room - holdings.items, 0)
    hit = np.minimum(negatives / np.maximum(others, 1), 1)
    return holdings.items + others * (1 - (1 - hit) ** holdings.examples)


def message_bytes(model: Model, touched: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Bytes of each group of the shared parts, as a client receives or sends them.

    Dense leaves go whole, in their own dtype; of a row table the touched rows go, each
    with its id.

    Args:
        model: what is trained.
        touched: for each space of row tables, rows of each profile `[P]`.

    Returns:
        Group name to float64 `[P]`.
    """
    shared = jax.eval_shape(model.init, jax.random.key(0)).shared
    count = len(next(iter(touched.values())))

    def size(leaf: Any) -> np.ndarray:
        if not rows.is_table(leaf):
            return np.full(count, float(leaf.size * leaf.dtype.itemsize))
        values = leaf.values
        row = values.size // len(values) * values.dtype.itemsize + ID_BYTES
        return np.minimum(touched[leaf.space], len(values)) * row

    def total(group: Tree) -> np.ndarray:
        leaves = jax.tree.leaves(group, is_leaf=rows.is_table)
        return np.sum([np.zeros(count), *map(size, leaves)], axis=0)

    return {name: total(group) for name, group in shared.items()}


def encoded_bytes(recipe: Recipe, touched: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bytes of a client's encoded message, of normal deltas on rows drawn at random.

    Exact where a codec's price depends on how many rows there are, not on which or on
    their values; a run counts its real messages.

    Args:
        recipe: with a codec.
        touched: for each space of row tables, rows of each profile `[P]`.

    Returns:
        float64 `[P]`.
    """
    transform = recipe.transform
    assert transform is not None
    key = jax.random.key(0)
    model = recipe.model
    start = jax.eval_shape(model.init, key)
    sent = {n: part for n, part in start.shared.items() if n not in model.fixed}
    most = {space: int(np.ceil(count.max())) for space, count in touched.items()}
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sent)
    state = transform.init(zeros)
    personal = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), start.personal)
    sender = Sender(
        id=jnp.int32(0), key=key, round_key=key, weight=jnp.ones(()), personal=personal
    )

    def change(leaf: Any, counts: dict[str, Array]) -> Any:
        if not rows.is_table(leaf):
            return jax.random.normal(key, leaf.shape, leaf.dtype)
        n = len(leaf.values)
        r = max(1, min(n, most[leaf.space]))
        ids = jax.random.permutation(key, n)[:r].astype(jnp.int32)
        ids = jnp.where(jnp.arange(r) < counts[leaf.space], ids, n)
        values = jax.random.normal(key, (r, *leaf.values.shape[1:]), leaf.values.dtype)
        return rows.Rows(ids=ids, values=values, space=leaf.space, num_rows=n)

    def one(counts: dict[str, Array]) -> Array:
        delta = jax.tree.map(lambda x: change(x, counts), zeros, is_leaf=rows.is_table)
        return num_bits(transform.encode(delta, state, sender)[0])

    whole = {space: jnp.asarray(np.round(c), jnp.int32) for space, c in touched.items()}
    return np.asarray(jax.jit(lambda c: jax.lax.map(one, c))(whole)) / 8.0


def make_profiles(
    model: Model,
    holdings: Holdings,
    *,
    fixed: Collection[str] = (),
    sent: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    negatives: int = 0,
    room: int,
    epochs: int = 1,
    optimizer_states: int = 0,
    frozen_bytes: int = 0,
    received: int = 1,
) -> Profiles:
    """What a client of each profile does in a round.

    Who holds nothing trains nothing, and neither receives nor sends. Memory is the
    frozen weights, what was received, the personal part, and for each trained number
    a copy, a gradient and the optimizer's states; activations are left out.

    Args:
        model: what is trained.
        holdings: by profile.
        fixed: groups that are received and not sent: nobody trains them.
        sent: `(touched) -> [P]` bytes of an encoded message, where there is a codec.
        negatives: negatives an example.
        room: items that training may see.
        epochs: local passes over the pairs.
        optimizer_states: numbers a client's optimizer keeps for each trained one.
        frozen_bytes: of the backbone's weights, which are on the device beforehand.
        received: models, of which one is trained.
    """
    touched = {
        "item": touched_items(holdings, negatives, room),
        "user": holdings.users.astype(np.float64),
    }
    groups = message_bytes(model, touched)
    some = holdings.examples > 0
    zero = np.zeros(len(some))
    down = sum(groups.values(), zero) * some * received
    trains = sum((x for name, x in groups.items() if name not in fixed), zero) * some
    up = trains if sent is None else sent(touched) * some
    own = jax.eval_shape(model.init, jax.random.key(0)).personal
    personal = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(own))
    trained = (trains + personal) * (2 + optimizer_states)
    return Profiles(
        down=down,
        up=up,
        pairs=holdings.examples * float((1 + negatives) * epochs),
        memory=frozen_bytes + down + personal + trained,
    )


def make_fleet(
    profile: np.ndarray,
    profiles: Profiles,
    devices: tuple[DeviceClass, ...],
    *,
    pair_flops: float = 0.0,
    zones: int = 1,
    seed: int = 0,
) -> Fleet:
    """Every client's costs.

    Args:
        profile: `[N]`.
        profiles: `[P]`.
        devices: classes.
        pair_flops: operations that a backbone adds to a pair.
        zones: time zones, over which clients are spread evenly.
        seed: of each client's device and zone.
    """

    def column(value) -> Any:
        return np.array([value(device) for device in devices], np.float32)

    arrays: dict[str, Any] = {
        "profile": profile,
        "down": profiles.down.astype(np.float32),
        "up": profiles.up.astype(np.float32),
        "pairs": profiles.pairs.astype(np.float32),
        "class_ends": class_ends(devices),
        "pair_seconds": column(
            lambda d: 1 / d.pairs_per_second + pair_flops / (d.gflops * 1e9)
        ),
        "down_seconds": column(lambda d: 8e-6 / d.download_mbps),
        "up_seconds": column(lambda d: 8e-6 / d.upload_mbps),
    }
    return Fleet(**arrays, zones=zones, seed=seed)


def costs(fleet: Fleet, drawn: Participation) -> dict[str, Array]:
    """One round's costs, as scalars for its metrics.

    Everybody invited receives; only those whose message counts send, and the round
    lasts as long as the slowest of them: it receives, trains, sends.

    Returns:
        `invited` and `arrived` (clients), `down_bytes`, `up_bytes` (of all of them
        together), `simulated_seconds`.
    """
    down, _, _ = fleet.of(drawn.invited)
    _, up, seconds = fleet.of(drawn.ids)
    n = fleet.profile.shape[0]
    return {
        "invited": (drawn.invited < n).sum(dtype=jnp.int32),
        "arrived": (drawn.ids < n).sum(dtype=jnp.int32),
        "down_bytes": down.sum(),
        "up_bytes": up.sum(),
        "simulated_seconds": seconds.max(),
    }


def with_costs(sampler: Sampler, fleet: Fleet) -> Sampler:
    """`sampler`, telling what each of its cohorts costs."""

    def sample(tables: Tree, key: Array, number: Array) -> Participation:
        own, fleet = tables
        drawn = sampler.sample(own, key, number)
        return dataclasses.replace(
            drawn, metrics={**drawn.metrics, **costs(fleet, drawn)}
        )

    return Sampler(sample, (sampler.tables, fleet))


def summarise_costs(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Totals and means over the rounds of a run.

    Args:
        history: its events; rounds carry what `costs` told.

    Returns:
        `rounds`; totals `down_bytes`, `up_bytes`, `simulated_seconds`; means
        `invited_per_round`, `arrived_per_round`, `down_bytes_per_client` (of those
        invited), `up_bytes_per_client` (of those that arrived),
        `seconds_per_round`. Empty where no round told costs.
    """
    told = [event for event in history if "simulated_seconds" in event]
    if not told:
        return {}
    total = {
        name: float(sum(event[name] for event in told))
        for name in (
            "invited",
            "arrived",
            "down_bytes",
            "up_bytes",
            "simulated_seconds",
        )
    }
    invited, arrived = total.pop("invited"), total.pop("arrived")
    return {
        "rounds": len(told),
        **total,
        "invited_per_round": invited / len(told),
        "arrived_per_round": arrived / len(told),
        "down_bytes_per_client": total["down_bytes"] / max(invited, 1),
        "up_bytes_per_client": total["up_bytes"] / max(arrived, 1),
        "seconds_per_round": total["simulated_seconds"] / len(told),
    }
