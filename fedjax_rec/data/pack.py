"""Some clients' data, end to end: for a device of its own, or for one cohort."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_rec.data.clients import ClientData, Ragged


def pack(
    data: ClientData,
    groups: Sequence[np.ndarray],
    *,
    clients: int | None = None,
    interactions: int | None = None,
    exclusions: int | None = None,
) -> list[ClientData]:
    """Cuts out the data of groups of clients, all padded to the same shapes.

    Row `i` of a part is the `i`-th client of its group. Rows past a group's end hold
    nothing and belong to no bucket.

    Args:
        data: of the population, as NumPy arrays (or memory maps: only what the groups
            hold is read).
        groups: client ids of each part; ids past the end are clients without data.
        clients: rows of a part; by default as many as the largest group.
        interactions: length of the columns; by default of the largest part.
        exclusions: the same of the exclusions.

    Returns:
        One part a group, of NumPy arrays. The pool is that of `data`.

    Raises:
        ValueError: a group does not fit the lengths asked for.
    """
    if clients is None:
        clients = max(1, *(len(group) for group in groups))
    size = np.asarray(data.interactions.size)
    exclude_size = np.asarray(data.exclude.size)
    empty = len(data.widths)
    parts = []
    for group in groups:
        if len(group) > clients:
            raise ValueError(f"{len(group)} clients for {clients} rows")
        ids = np.full(clients, data.num_clients)
        ids[: len(group)] = group
        real = ids < data.num_clients
        at = np.where(real, ids, 0)
        parts.append(
            (
                at,
                np.where(real, size[at], 0).astype(np.int32),
                np.where(real, exclude_size[at], 0).astype(np.int32),
                np.where(real, np.asarray(data.buckets)[at], empty).astype(np.int32),
            )
        )
    if interactions is None:
        interactions = max(int(part[1].sum()) for part in parts) + 1
    if exclusions is None:
        exclusions = max(int(part[2].sum()) for part in parts) + 1
    return [
        dataclasses.replace(
            data,
            interactions=_cut(data.interactions, at, sizes, interactions),
            exclude=_cut(data.exclude, at, exclude_sizes, exclusions),
            buckets=bucket,
        )
        for at, sizes, exclude_sizes, bucket in parts
    ]


def _cut(lists: Ragged, at: np.ndarray, size: np.ndarray, length: int) -> Ragged:
    """Lists `at`, of `size`, in columns of `length` that end in padding."""
    total = int(size.sum())
    if total >= length:
        raise ValueError(f"{total} entries do not fit in {length - 1}")
    # 64 bits: positions in a population's columns may be past 2**31.
    start = np.asarray(lists.offset)[at].astype(np.int64)
    offset = (np.cumsum(size) - size).astype(np.int32)
    source = np.repeat(start - offset, size) + np.arange(total)
    columns: Any = {}
    for name, column in lists.columns.items():
        part = np.zeros(length, column.dtype)
        part[:total] = column[source]
        columns[name] = part
    arrays: Any = {"columns": columns, "offset": offset, "size": size}
    return Ragged(**arrays)
