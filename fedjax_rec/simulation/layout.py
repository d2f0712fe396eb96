"""How experiments that differ by seed and scalars are laid out in one program."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """The experiments that run at once.

    Experiments of one seed draw the same cohorts and negatives, so each row of settings
    has one seed, and draws once for all of them.

    Attributes:
        index: `[devices, seeds, settings]`, position of the experiment in each cell;
            padding repeats an experiment of its row.
        real: the same shape; `False` is padding.
    """

    index: np.ndarray
    real: np.ndarray


def arrange(
    seeds: Sequence[int], *, devices: int, most: int, seeds_at_once: bool
) -> list[Layout]:
    """Layouts of one shape for all experiments, to run one after another.

    Args:
        seeds: `[P]` seed of each experiment.
        devices: devices that share a layout.
        most: largest number of experiments on a device.
        seeds_at_once: a device runs several seeds side by side, which pays if one row
            of settings cannot fill it.

    Returns:
        As few layouts with as few padded cells as rows of one seed allow.

    >>> [x.index.tolist() for x in arrange(
    ...     [0, 0, 1, 1], devices=1, most=2, seeds_at_once=False)]
    [[[[0, 1]]], [[[2, 3]]]]
    """
    if min(devices, most) < 1:
        raise ValueError(f"devices={devices} and most={most} must be at least 1")
    by_seed: dict[int, list[int]] = {}
    for position, seed in enumerate(seeds):
        by_seed.setdefault(seed, []).append(position)

    def shape(width: int) -> tuple[int, int]:
        """Cells of all layouts, and rows of a layout on a device."""
        rows = sum(-(-len(group) // width) for group in by_seed.values())
        at_once = 1
        if seeds_at_once:
            at_once = max(1, min(most // width, -(-rows // devices)))
        layouts = -(-rows // (devices * at_once))
        return layouts * at_once * width, at_once

    widest = min(most, max(map(len, by_seed.values())))
    width = min(range(widest, 0, -1), key=lambda w: shape(w)[0])
    at_once = shape(width)[1]
    rows = [
        group[i : i + width]
        for group in by_seed.values()
        for i in range(0, len(group), width)
    ]
    layouts = []
    for i in range(0, len(rows), devices * at_once):
        present = rows[i : i + devices * at_once]
        # Absent rows repeat the first: the same shape needs no further program.
        filled = present + [present[0]] * (devices * at_once - len(present))
        index = np.array([(row * width)[:width] for row in filled])
        real = np.array([np.arange(width) < len(row) for row in filled])
        real[len(present) :] = False
        shape_ = (devices, at_once, width)
        layouts.append(Layout(index.reshape(shape_), real.reshape(shape_)))
    return layouts
