"""Lists of different lengths, end to end."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, struct


@struct
class Lists:
    """Lists of different lengths, end to end in the order of their ids.

    Attributes:
        values: `[n + 1, ...]`: tokens, or their hidden states; the last row is zero and
            belongs to no list, so that padding has something to read.
        offset: `[I]` int32, each list's first position.
        length: `[I]` int32.
    """

    values: Array
    offset: Array
    length: Array


def make_lists(lists: Sequence[np.ndarray]) -> Lists:
    """Lays `lists`, each `[T, ...]`, end to end.

    >>> lists = make_lists([np.array([5, 6]), np.array([7])])
    >>> lists.values.tolist(), lists.offset.tolist()
    ([5, 6, 7, 0], [0, 2])
    """
    first = np.asarray(lists[0]) if len(lists) else np.zeros(0, np.int32)
    values = np.concatenate([*lists, np.zeros((1, *first.shape[1:]), first.dtype)])
    return with_lengths(values, np.array([len(x) for x in lists], np.int64))


def with_lengths(values: np.ndarray, lengths: np.ndarray) -> Lists:
    """`Lists` of `values` `[n + 1, ...]`, already end to end, with `lengths` `[I]`."""
    if lengths.sum() + 1 != len(values):
        raise ValueError(
            f"{len(values)} values for lists of {lengths.sum()}: there has to be one "
            "value more, the trailing zero"
        )
    return Lists(
        values=jnp.asarray(values),
        offset=jnp.asarray(starts(lengths).astype(np.int32)),
        length=jnp.asarray(lengths.astype(np.int32)),
    )


def at_places(vectors: Array, place: Array) -> Array:
    """From `[R, G, ...]`, a vector a slot, to one a list `[P, ...]`; none is zero."""
    flat = vectors.reshape((-1, *vectors.shape[2:]))
    return flat.at[place].get(mode="fill", fill_value=0)


def starts(lengths: np.ndarray) -> np.ndarray:
    """Where each list begins, if they lie end to end."""
    return np.cumsum(lengths) - lengths
