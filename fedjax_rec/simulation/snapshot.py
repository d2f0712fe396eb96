"""A run's state between two events, from which it can continue."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_rec.core.arrays import Tree


class Snapshot(NamedTuple):
    """The state that a run needs, in addition to its experiment, to continue.

    Attributes:
        arrays: `{"server": ServerState, "personal": [N, ...]}`, JAX or NumPy leaves.
        progress: plain values: `round` (finished rounds), and the fields of
            `Selection`.
    """

    arrays: Tree
    progress: dict[str, Any]


class Selection(NamedTuple):
    """The evaluation that a run is judged by so far.

    Attributes:
        best: its validation value.
        selected: its round.
        metrics: its metrics, by part.
    """

    best: float = -np.inf
    selected: int = 0
    metrics: dict[str, Any] = {}  # noqa: RUF012


def overwrite(old: Tree, new: Tree) -> Tree:
    """`new` on the devices of `old`, or written into its memory.

    NumPy leaves of `old` are kept, since they may lie in a mapped file.
    """

    def overwrite_leaf(old: Any, new: Any) -> Any:
        if isinstance(old, np.ndarray):
            old[...] = new
            return old
        array = np.array(new)  # a copy, since rounds donate their state
        return jax.make_array_from_callback(
            array.shape, old.sharding, array.__getitem__
        )

    return jax.tree.map(overwrite_leaf, old, new)
