"""Evaluated users, cut out of a part's targets and dealt over the devices."""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.simulation import mesh as meshes

_USER_FIELDS = ("user", "positives", "exclude_offset", "exclude_size", "candidates")


def take_users(targets: Targets, at: np.ndarray, length: int | None = None) -> Targets:
    """The evaluated users at positions `at`; -1 is padding, without positives.

    Args:
        targets: targets as NumPy arrays or memory maps; only these users' parts are
            read. Without `length`, JAX arrays as well.
        at: `[n]`.
        length: also cuts out the users' exclusions, and pads them to this length; by
            default all exclusions stay.

    Raises:
        ValueError: they do not fit.
    """
    fields: dict[str, Any] = {
        name: None if (array := getattr(targets, name)) is None else array[at]
        for name in _USER_FIELDS
    }
    real = at >= 0
    positives = np.where(real[:, None], fields["positives"], targets.num_items)
    fields["positives"] = positives
    if length is not None:
        size = np.where(real, fields["exclude_size"], 0)
        total = int(size.sum())
        if total >= length:
            raise ValueError(f"{total} exclusions do not fit in {length - 1}")
        offset = np.cumsum(size) - size
        source = np.repeat(fields["exclude_offset"] - offset, size) + np.arange(total)
        items = np.full(length, targets.num_items, np.int32)
        items[:total] = targets.exclude_items[source]
        fields |= {
            "exclude_items": items,
            "exclude_offset": offset.astype(np.int32),
            "exclude_size": size.astype(np.int32),
        }
    return dataclasses.replace(targets, **fields)


def deal_users(mesh: Mesh, targets: Targets, at: np.ndarray) -> Targets:
    """The evaluated users at `at` (`[shares * n]`), dealt over a mesh."""
    size = np.where(at >= 0, np.asarray(targets.exclude_size)[at], 0)
    most = int(size.reshape(meshes.shares(mesh), -1).sum(axis=1).max()) + 1
    # A power of two, so that few programs serve all blocks.
    length = min(len(targets.exclude_items), 1 << (most - 1).bit_length())
    without_pool = dataclasses.replace(targets, pool=None)
    dealt = meshes.place_taken(
        mesh, at, lambda share: take_users(without_pool, share, length)
    )
    return dataclasses.replace(dealt, pool=meshes.place(mesh, targets.pool))
