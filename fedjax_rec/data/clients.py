"""Client data as CSR arrays, gathered to padded examples on the device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, static, struct
from fedjax_rec.data.buckets import bucket_of, choose_widths
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition


@struct
class Ragged:
    """Lists of different lengths, concatenated.

    Attributes:
        columns: Name to `[n]` array.
        offset: `[N]` int32, first position of each list.
        size: `[N]` int32, length of each list.
    """

    columns: dict[str, Array]
    offset: Array
    size: Array

    def row(self, index: Array, width: int) -> tuple[dict[str, Array], Array]:
        """Returns list `index` padded to `width`: columns `[width]`, mask `[width]`.

        An `index` past the end is an empty list.
        """
        count = self.offset.shape[0]
        row = jnp.minimum(index, count - 1)
        size = jnp.where(index < count, self.size[row], 0)
        position = self.offset[row] + jnp.arange(width, dtype=jnp.int32)
        mask = jnp.arange(width) < size
        columns = {
            name: column.at[position].get(mode="clip")
            for name, column in self.columns.items()
        }
        return columns, mask


@struct
class ClientData:
    """The data of all clients.

    Attributes:
        interactions: Columns `item`, `user`, `rating`, in order of time.
        exclude: Column `item`: items that are no negatives, ascending within a user; as
            positions in `pool`, if there is one.
        buckets: `[N]` int32, size bucket of each client; `len(widths)` if empty.
        num_items: `I`, also the padding id.
        num_users: `U`, also the padding id.
        widths: Padded number of interactions of each bucket, ascending.
        exclude_widths: Padded number of exclusions of each bucket.
        pool: Item ids, ascending, that may be drawn as negatives; `None` is all.
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
        """Returns the examples of a client, padded to its bucket.

        Args:
            client: Scalar id; one past the end has no examples.
            bucket: Static index into `widths`.

        Returns:
            `item` and `user` (`[M]`, padding `I`, `U`), `rating` `[M]`, `mask` `[M]`,
            `exclude` `[E]` (padding `I`), `exclude_start` and `exclude_size` (scalars
            or `[M]`), the segment of `exclude` that belongs to the user of each
            example, and `pool`, if there is one.
        """
        columns, mask = self.interactions.row(client, self.widths[bucket])
        exclude, exclude_mask = self.exclude.row(client, self.exclude_widths[bucket])
        examples = {
            "item": jnp.where(mask, columns["item"], self.num_items),
            "user": jnp.where(mask, columns["user"], self.num_users),
            "rating": jnp.where(mask, columns["rating"], 0),
            "mask": mask,
            "exclude": jnp.where(exclude_mask, exclude["item"], self.num_items),
            "exclude_start": columns.get("exclude_start", jnp.int32(0)),
        }
        size = columns.get("exclude_size")
        if size is None:
            size = exclude_mask.sum(dtype=jnp.int32)
        examples["exclude_size"] = size
        if self.pool is not None:
            examples["pool"] = self.pool
        return examples


def make_client_data(
    train: Interactions, partition: Partition, **options
) -> ClientData:
    """Returns `lay_out` as arrays on the default device; takes the same arguments."""
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

    A negative is an item outside the interactions that *this client* holds for the user
    of the example, and outside `also_excluded`. The latter is empty in the clean
    protocol; in `paper_compat`, it is validation and test, which leaks them (and needs
    one client per user).

    Args:
        train: The training interactions.
        partition: The client of each interaction.
        also_excluded: Further interactions of the users that are no negatives.
        pool: Item ids that may be negatives (a cold split keeps the others out of all
            training), including those of `train`; `None` is every item.
        max_buckets: Maximum number of size buckets; each compiles its own program.
        width_cost: Work of a client padded to each width, for the choice of buckets.

    Returns:
        NumPy arrays.

    Raises:
        ValueError: `also_excluded` is given, but clients are not single users; or a
            client holds an item of a user twice.
    """
    single = partition.user_of_client is not None
    if also_excluded and not single:
        raise ValueError(
            "negative_pool='not_interacted' needs one client per user, not partition "
            f"{partition.name!r}. Use 'per_user', or the pool 'not_train'."
        )
    # Within a client by user, then in the order of train (time).
    order = np.lexsort((np.arange(len(train)), train.user, partition.client))
    client = partition.client[order]
    columns = {n: getattr(train, n)[order] for n in ("item", "user", "rating")}
    size = np.bincount(client, minlength=partition.num_clients)
    pool = None if pool is None else np.unique(pool)
    owner, user, item = _exclusions(train, partition, also_excluded, pool)
    exclude_size = np.bincount(owner, minlength=partition.num_clients)
    if not single:
        # Rows of train and of the exclusions are the same pairs, with the (client,
        # user) groups in the same places: the start of a group applies to both.
        new = np.ones(len(train), bool)
        new[1:] = (owner[1:] != owner[:-1]) | (user[1:] != user[:-1])
        group = np.cumsum(new) - 1
        starts = np.flatnonzero(new)
        columns["exclude_start"] = starts[group] - _offsets(exclude_size)[client]
        columns["exclude_size"] = np.bincount(group)[group]
    fields: Any = {
        "interactions": _ragged(columns, size),
        "exclude": _ragged({"item": item}, exclude_size),
        "pool": None if pool is None else pool.astype(np.int32),
        "buckets": np.zeros(partition.num_clients, np.int32),
        "num_items": train.num_items,
        "num_users": train.num_users,
    }
    data = ClientData(**fields, widths=(), exclude_widths=())
    return in_buckets(data, max_buckets, width_cost)


def _exclusions(
    train: Interactions,
    partition: Partition,
    also_excluded: tuple[Interactions, ...],
    pool: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns client, user and item of each exclusion, sorted; items within `pool`."""
    owner, user, item = [partition.client], [train.user], [train.item]
    if also_excluded:
        client_of_user = np.full(train.num_users, -1)
        client_of_user[partition.user_of_client] = np.arange(partition.num_clients)
        for part in also_excluded:
            keep = client_of_user[part.user] >= 0
            if pool is not None:  # items outside it are never drawn anyway
                keep &= np.isin(part.item, pool)
            owner.append(client_of_user[part.user[keep]])
            user.append(part.user[keep])
            item.append(part.item[keep])
    owners, users, items = map(np.concatenate, (owner, user, item))
    order = np.lexsort((items, users, owners))
    owners, users, items = owners[order], users[order], items[order]
    columns = np.stack([owners, users, items])
    repeated = np.flatnonzero((columns[:, 1:] == columns[:, :-1]).all(axis=0))
    if len(repeated):
        user, item = columns[1:, repeated[0]]
        raise ValueError(
            f"{len(repeated)} interactions repeat an earlier one, such as item {item} "
            f"of user {user}: negatives are drawn by rank among the items that a user "
            "lacks, so each pair may occur once. Build the data with make_interactions,"
            " which merges repeated pairs."
        )
    if pool is not None:
        if not np.isin(items, pool).all():
            raise ValueError("pool leaves out items that clients hold")
        items = np.searchsorted(pool, items)
    return owners, users, items


def in_buckets(
    data: ClientData, max_buckets: int, width_cost=lambda width: width
) -> ClientData:
    """Puts the clients of `data` (NumPy) into other size buckets; see `lay_out`."""
    size = np.asarray(data.interactions.size)
    exclude_size = np.asarray(data.exclude.size)
    widths = choose_widths(size, max_buckets, width_cost)
    bucket = bucket_of(size, widths)
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
    """Returns the client that holds most of each user's interactions.

    Args:
        partition: Partition of the training interactions.
        users: `[n]` user of each training interaction.
        num_users: `U`.

    Returns:
        `[U]` int32 client ids; `N` for users without training data.
    """
    serving = np.full(num_users, partition.num_clients, np.int32)
    pair = users.astype(np.int64) * partition.num_clients + partition.client
    pairs, counts = np.unique(pair, return_counts=True)
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

    # Offsets beyond 2**31 never reach a device, which holds only a part.
    offset = _offsets(size)
    wide = np.int64 if size.sum() >= 2**31 else np.int32
    lists: Any = {
        "columns": {name: narrow(column) for name, column in columns.items()},
        "offset": offset.astype(wide),
        "size": size.astype(np.int32),
    }
    return Ragged(**lists)


def with_rating_dtype(data: ClientData, dtype) -> ClientData:
    """Converts the ratings to another float type (float64 for golden traces)."""
    columns = dict(data.interactions.columns)
    columns["rating"] = columns["rating"].astype(dtype)
    interactions = dataclasses.replace(data.interactions, columns=columns)
    return dataclasses.replace(data, interactions=interactions)
