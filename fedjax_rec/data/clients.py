"""Client data as CSR arrays, gathered to padded examples on the device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, static, struct
from fedjax_rec.data import buckets as bucketing
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition


@struct
class Ragged:
    """Lists of different lengths, end to end.

    Attributes:
        columns: name to `[n]` array.
        offset: `[N]` int32, each list's first position.
        size: `[N]` int32, each list's length.
    """

    columns: dict[str, Array]
    offset: Array
    size: Array

    def row(self, index: Array, width: int) -> tuple[dict[str, Array], Array]:
        """List `index`, padded to `width`: columns `[width]` and a mask `[width]`.

        An `index` past the end is an empty list.
        """
        count = self.offset.shape[0]
        at = jnp.minimum(index, count - 1)
        size = jnp.where(index < count, self.size[at], 0)
        position = self.offset[at] + jnp.arange(width, dtype=jnp.int32)
        mask = jnp.arange(width) < size
        columns = {
            name: column.at[position].get(mode="clip")
            for name, column in self.columns.items()
        }
        return columns, mask


@struct
class ClientData:
    """What every client holds.

    Attributes:
        interactions: the columns `item`, `user`, `rating`, in time order.
        exclude: the column `item`: what is no negative, ascending within a user; as
            positions in `pool`, where there is one.
        buckets: `[N]` int32, the size bucket of each client; `len(widths)` if empty.
        num_items: `I`, also the padding id.
        num_users: `U`, also the padding id.
        widths: padded number of interactions of each bucket, ascending.
        exclude_widths: padded number of exclusions of each bucket.
        pool: item ids, ascending, that may be drawn as negatives; `None` is all.
    """

    interactions: Ragged
    exclude: Ragged
    buckets: Array
    pool: Array | None = None
    num_items: int = static()
    num_users: int = static()
    widths: tuple[int, ...] = static()
    exclude_widths: tuple[int, ...] = static()

    @property
    def num_clients(self) -> int:
        return self.buckets.shape[0]

    def examples(self, client: Array, bucket: int) -> dict[str, Array]:
        """One client's examples, padded to its bucket (`M`, exclusions `E`).

        Args:
            client: scalar id; one past the end has no examples.
            bucket: static index into `widths`.

        Returns:
            `item`, `user` (`[M]`, padding `I`, `U`), `rating` `[M]`, `mask` `[M]`,
            `exclude` `[E]` (padding `I`), `exclude_start`, `exclude_size` (scalars or
            `[M]`): the segment of `exclude` that belongs to each example's user, and
            `pool`, if there is one.
        """
        columns, mask = self.interactions.row(client, self.widths[bucket])
        exclude, exclude_mask = self.exclude.row(client, self.exclude_widths[bucket])
        examples = {
            "item": jnp.where(mask, columns["item"], self.num_items),
            "user": jnp.where(mask, columns["user"], self.num_users),
            "rating": jnp.where(mask, columns["rating"], 0),
            "mask": mask,
            "exclude": jnp.where(exclude_mask, exclude["item"], self.num_items),
        }
        if "exclude_start" in columns:
            examples["exclude_start"] = columns["exclude_start"]
            examples["exclude_size"] = columns["exclude_size"]
        else:
            examples["exclude_start"] = jnp.int32(0)
            examples["exclude_size"] = exclude_mask.sum(dtype=jnp.int32)
        if self.pool is not None:
            examples["pool"] = self.pool
        return examples


def make_client_data(
    train: Interactions, partition: Partition, **options
) -> ClientData:
    """`lay_out` as arrays on the default device; it takes the same arguments."""
    return jax.tree.map(jnp.asarray, lay_out(train, partition, **options))


def lay_out(
    train: Interactions,
    partition: Partition,
    *,
    also_excluded: tuple[Interactions, ...] = (),
    pool: np.ndarray | None = None,
    max_buckets: int = 6,
    width_cost=lambda width: width,
) -> ClientData:
    """Lays the training interactions out by client.

    A negative is an item outside what *this client* holds of the example's user, and
    outside `also_excluded`: empty under the clean protocol; validation and test under
    `paper_compat`, which leaks them (and needs one client per user).

    Args:
        train: the training interactions.
        partition: the client of each.
        also_excluded: further interactions of the users that are no negatives.
        pool: item ids that may be negatives (a cold split holds the others out of all
            training); `None` is every item. The interactions of `train` lie within it.
        max_buckets: most size buckets; each compiles its own program.
        width_cost: work of a client padded to each width, for choosing the buckets.

    Returns:
        NumPy arrays.

    Raises:
        ValueError: `also_excluded` with clients that are not single users.
    """
    n, num_clients = len(train), partition.num_clients
    single = partition.user_of_client is not None
    if also_excluded and not single:
        raise ValueError(
            "negative_pool='not_interacted' needs one client per user; the partition "
            f"{partition.name!r} mixes users. Use partition 'per_user', or the pool "
            "'not_train'."
        )
    # Within a client by user, then in the order of train (time).
    order = np.lexsort((np.arange(n), train.user, partition.client))
    client = partition.client[order]
    columns = {
        "item": train.item[order],
        "user": train.user[order],
        "rating": train.rating[order],
    }
    size = np.bincount(client, minlength=num_clients)
    owners, items = [partition.client], [train.item]
    users = [train.user]
    if also_excluded:
        client_of_user = np.full(train.num_users, num_clients, np.int64)
        client_of_user[partition.user_of_client] = np.arange(num_clients)
        for part in also_excluded:
            owners.append(client_of_user[part.user])
            items.append(part.item)
            users.append(part.user)
    owner, item = np.concatenate(owners), np.concatenate(items)
    user = np.concatenate(users)
    keep = owner < num_clients
    if pool is not None:  # what is held out is drawn by nobody anyway
        keep[n:] &= np.isin(item[n:], pool)
    owner, item, user = owner[keep], item[keep], user[keep]
    by_item = np.lexsort((item, user, owner))
    owner, item, user = owner[by_item], item[by_item], user[by_item]
    if pool is not None:
        pool = np.unique(pool)
        if not np.isin(item, pool).all():
            raise ValueError("pool leaves out items that clients hold")
        item = np.searchsorted(pool, item)
    exclude_size = np.bincount(owner, minlength=num_clients)
    exclude_offset = _offsets(exclude_size)
    if not single:
        # Rows of train and of the exclusions are the same pairs, in (client, user)
        # groups of the same places: a group's start serves both.
        new = np.ones(n, bool)
        new[1:] = (owner[1:] != owner[:-1]) | (user[1:] != user[:-1])
        group = np.cumsum(new) - 1
        starts = np.flatnonzero(new)
        columns["exclude_start"] = starts[group] - exclude_offset[client]
        columns["exclude_size"] = np.bincount(group)[group]
    arrays: Any = {
        "interactions": _ragged(columns, size),
        "exclude": _ragged({"item": item}, exclude_size),
        "pool": None if pool is None else pool.astype(np.int32),
        "buckets": np.zeros(num_clients, np.int32),
    }
    data = ClientData(
        **arrays,
        num_items=train.num_items,
        num_users=train.num_users,
        widths=(),
        exclude_widths=(),
    )
    return in_buckets(data, max_buckets, width_cost)


def in_buckets(
    data: ClientData, max_buckets: int, width_cost=lambda width: width
) -> ClientData:
    """`data`, in NumPy, with its clients in other size buckets; see `lay_out`."""
    size = np.asarray(data.interactions.size)
    exclude_size = np.asarray(data.exclude.size)
    widths = bucketing.choose_widths(size, max_buckets, width_cost)
    bucket = bucketing.bucket_of(size, widths)
    exclude_widths = tuple(
        int(max(exclude_size[bucket == g].max(initial=1), 1))
        for g in range(len(widths))
    )
    return dataclasses.replace(
        data,
        buckets=bucket.astype(np.int32),
        widths=widths,
        exclude_widths=exclude_widths,
    )


def serving_clients(partition: Partition, users: np.ndarray, num_users: int):
    """`[U]` int32: the client that holds most of each user's interactions.

    Args:
        partition: of the training interactions.
        users: `[n]` the user of each training interaction.
        num_users: `U`.

    Returns:
        Client ids; users without training data get client 0.
    """
    if partition.user_of_client is not None:
        serving = np.zeros(num_users, np.int32)
        serving[partition.user_of_client] = np.arange(partition.num_clients)
        return serving
    pair = users.astype(np.int64) * partition.num_clients + partition.client
    pairs, counts = np.unique(pair, return_counts=True)
    serving = np.zeros(num_users, np.int32)
    order = np.argsort(counts, kind="stable")  # the largest count is written last
    serving[pairs[order] // partition.num_clients] = (
        pairs[order] % partition.num_clients
    )
    return serving


def _offsets(size: np.ndarray) -> np.ndarray:
    return np.cumsum(size) - size


def _ragged(columns: dict[str, np.ndarray], size: np.ndarray) -> Ragged:
    # One trailing element keeps gathers from an empty column defined.
    def narrow(column: np.ndarray) -> np.ndarray:
        dtype = np.float32 if column.dtype.kind == "f" else np.int32
        return np.append(column, 0).astype(dtype)

    # An offset into more than 2**31 interactions never reaches a device: there it is
    # one into the part that the device holds.
    offset = _offsets(size)
    wide = np.int64 if size.sum() >= 2**31 else np.int32
    lists: Any = {
        "columns": {name: narrow(column) for name, column in columns.items()},
        "offset": offset.astype(wide),
        "size": size.astype(np.int32),
    }
    return Ragged(**lists)


def with_rating_dtype(data: ClientData, dtype) -> ClientData:
    """`data` with its ratings in another float type (float64 for golden traces)."""
    columns = dict(data.interactions.columns)
    columns["rating"] = columns["rating"].astype(dtype)
    interactions = dataclasses.replace(data.interactions, columns=columns)
    return dataclasses.replace(data, interactions=interactions)
