"""Rows of a table as one client holds them after training, without a copy of it."""

import jax.numpy as jnp

from fedjax_rec.core import row_ids, rows
from fedjax_rec.core.arrays import Array, struct


@struct
class RowsAt:
    """A table's rows at certain ids, which models read through `rows.lookup`.

    Attributes:
        values: `[K, ...]`, in the order of the ids that are looked up.
    """

    values: Array

    def lookup(self, ids: Array) -> Array:
        """The rows, if `ids` are those that they were taken at."""
        assert ids.shape == self.values.shape[: ids.ndim]
        return self.values


def changed_rows(table: rows.Table, change: rows.Rows) -> tuple[Array, RowsAt]:
    """The rows that a client touched, after its training.

    Returns:
        Ids `[R]`, equal to `I` for repeats and for rows that did not change; and the
        rows `[R, ...]`.
    """
    num_rows = len(table.values)
    first = row_ids.first_occurrence(change.ids, num_rows)
    merged = jnp.zeros_like(change.values).at[first].add(change.values)
    before = table.values.at[change.ids].get(mode="clip")
    after = before + merged
    step = (after - before).reshape(len(first), -1)
    # Several times faster on a CPU than `any` of a comparison.
    counts = (jnp.sum(step * step, 1) > 0) & (first == jnp.arange(len(first)))
    return jnp.where(counts, change.ids, num_rows), RowsAt(values=after)


def rows_at(table: rows.Table, change: rows.Rows, ids: Array) -> RowsAt:
    """Rows at `ids` `[...]` after a client's training."""
    change = rows.merge_repeats(change, len(table.values))
    at = rows.places_of(ids.reshape(-1), change).reshape(ids.shape)
    changes = change.values.at[at].get(mode="fill", fill_value=0)
    return RowsAt(values=table.values[ids] + changes)
