"""The touched rows of a table in the order of their ids, padding last."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.rows import Rows
from fedjax_rec.core.running import running_sum


def table_length(rows: Rows) -> int:
    """The length of the table, which is also the id of padding.

    Raises:
        ValueError: if the rows do not tell it.
    """
    if rows.num_rows is None:
        raise ValueError(
            "rows whose num_rows is None: a codec cannot tell padding from ids; pass "
            "the delta through rows.merge_repeats, which also sees to each row coming "
            "once"
        )
    return rows.num_rows


def in_order(leaf: Rows) -> tuple[Array, Array, Array]:
    """Ids ascending, their rows, and how many are real; padding's rows are zero."""
    num_rows = table_length(leaf)
    if leaf.ordered:
        count = (leaf.ids < num_rows).sum(dtype=jnp.int32)
        return leaf.ids, leaf.values, count
    ids, source, count = ascending(leaf.ids, num_rows)
    return ids, leaf.values.at[source].get(mode="fill", fill_value=0), count


def ascending(ids: Array, num_rows: int) -> tuple[Array, Array, Array]:
    """Where each row comes from when ids ascend.

    Small tables count in a buffer of `num_rows`; large ones sort packed (id, position)
    words, so that the cost never follows the catalog's size (as in `rows`).

    Args:
        ids: `[R]` int32, each once; padding is `num_rows` or more.
        num_rows: `I`.

    Returns:
        `(ids [R] ascending, from_ [R] int32, count)`: padding ids equal `I`, and its
        sources are `R`.

    >>> ids, from_, count = ascending(jnp.array([7, 9, 3]), 9)
    >>> ids.tolist(), from_.tolist(), int(count)
    ([3, 7, 9], [2, 0, 3], 2)
    """
    (r,) = ids.shape
    here = jnp.arange(r, dtype=jnp.int32)
    real = (ids >= 0) & (ids < num_rows)
    count = real.sum(dtype=jnp.int32)
    id_bits, position_bits = int(num_rows).bit_length(), max(r - 1, 1).bit_length()
    if num_rows <= 16 * r or id_bits + position_bits > 32:
        at = jnp.where(real, ids, num_rows)
        touched = jnp.zeros(num_rows + 1, jnp.int32).at[at].set(1)
        place = jnp.where(real, running_sum(touched, num_rows + 1)[at] - 1, r)
        from_ = jnp.full(r, r, jnp.int32).at[place].set(here, mode="drop")
        sorted_ids = jnp.full(r, num_rows, jnp.int32).at[place].set(ids, mode="drop")
        return sorted_ids, from_, count
    id_ = jnp.where(real, ids, num_rows).astype(jnp.uint32)
    packed = jax.lax.sort((id_ << position_bits) | here.astype(jnp.uint32))
    sorted_ids = (packed >> position_bits).astype(jnp.int32)
    position = (packed & ((1 << position_bits) - 1)).astype(jnp.int32)
    return sorted_ids, jnp.where(here < count, position, r), count
