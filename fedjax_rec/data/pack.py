"""Data of groups of clients, packed for a device or a cohort."""

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
    """Extracts the data of groups of clients, all padded to the same shapes.

    Row `i` of a part is the `i`-th client of its group. Rows past the end of a group
    are empty and belong to no bucket.

    Args:
        data: Data of the population, as NumPy arrays or memory maps, from which only
            the data of the groups are read.
        groups: Client ids of each part; ids past the end are clients without data.
        clients: Rows of a part; by default the size of the largest group.
        interactions: Length of the columns; by default that of the largest part.
        exclusions: Length of the exclusions; by default that of the largest part.

    Returns:
        One part per group, of NumPy arrays. The pool is that of `data`.

    Raises:
        ValueError: A group does not fit the given lengths.
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
        rows = np.where(real, ids, 0)
        parts.append(
            (
                rows,
                np.where(real, size[rows], 0).astype(np.int32),
                np.where(real, exclude_size[rows], 0).astype(np.int32),
                np.where(real, np.asarray(data.buckets)[rows], empty).astype(np.int32),
            )
        )
    if interactions is None:
        interactions = max(int(part[1].sum()) for part in parts) + 1
    if exclusions is None:
        exclusions = max(int(part[2].sum()) for part in parts) + 1
    return [
        dataclasses.replace(
            data,
            interactions=_cut(data.interactions, rows, sizes, interactions),
            exclude=_cut(data.exclude, rows, exclude_sizes, exclusions),
            buckets=bucket,
        )
        for rows, sizes, exclude_sizes, bucket in parts
    ]


def _cut(lists: Ragged, rows: np.ndarray, size: np.ndarray, length: int) -> Ragged:
    """Concatenates lists `rows` of length `size` in columns padded to `length`."""
    total = int(size.sum())
    if total >= length:
        raise ValueError(f"{total} entries do not fit in {length - 1}")
    # 64 bits: positions in a population's columns may exceed 2**31.
    start = np.asarray(lists.offset)[rows].astype(np.int64)
    offset = (np.cumsum(size) - size).astype(np.int32)
    source = np.repeat(start - offset, size) + np.arange(total)
    columns: Any = {}
    for name, column in lists.columns.items():
        part = np.zeros(length, column.dtype)
        part[:total] = column[source]
        columns[name] = part
    arrays: Any = {"columns": columns, "offset": offset, "size": size}
    return Ragged(**arrays)
