"""How the points of a sweep are laid out: lanes of one seed, blocks of lanes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Lanes(NamedTuple):
    """A block: the points that run at once.

    Points of one seed draw the same cohorts and negatives, so a lane has one seed and
    draws once for all its settings.

    Attributes:
        points: `[devices, seeds, settings]`, which point is where; padding repeats a
            point of its lane.
        real: of the same shape; `False` is padding.
    """

    points: np.ndarray
    real: np.ndarray


def lay_out(
    seeds: Sequence[int], *, devices: int, most: int, seeds_at_once: bool
) -> list[Lanes]:
    """Blocks of one shape for all points.

    Args:
        seeds: `[P]`, of each point.
        devices: that share a block.
        most: points that a device may hold at once.
        seeds_at_once: whether a device runs several seeds side by side, which pays
            where one lane cannot fill it.

    Returns:
        As few steps of as few padded points as lanes of one seed allow.

    >>> [b.points.tolist() for b in lay_out(
    ...     [0, 0, 1, 1], devices=1, most=2, seeds_at_once=False)]
    [[[[0, 1]]], [[[2, 3]]]]
    """
    if min(devices, most) < 1:
        raise ValueError(f"devices={devices} and most={most} must be at least 1")
    of_seed: dict[int, list[int]] = {}
    for point, seed in enumerate(seeds):
        of_seed.setdefault(seed, []).append(point)

    def shape(width: int) -> tuple[int, int, int]:
        """Padded points in all, seeds of a block on a device, blocks."""
        lanes = sum(-(-len(points) // width) for points in of_seed.values())
        rows = 1
        if seeds_at_once:
            rows = max(1, min(most // width, -(-lanes // devices)))
        blocks = -(-lanes // (devices * rows))
        return blocks * rows * width, rows, blocks

    widest = min(most, max(len(points) for points in of_seed.values()))
    width = min(range(widest, 0, -1), key=lambda w: shape(w)[0])
    rows = shape(width)[1]
    lanes = [
        (points[i : i + width])
        for points in of_seed.values()
        for i in range(0, len(points), width)
    ]
    blocks = []
    for i in range(0, len(lanes), devices * rows):
        some = lanes[i : i + devices * rows]
        # Absent lanes repeat the first: the same shape, so no other program.
        filled = some + [some[0]] * (devices * rows - len(some))
        points = np.array([(lane * width)[:width] for lane in filled])
        real = np.array([[j < len(lane) for j in range(width)] for lane in filled])
        real[len(some) :] = False
        blocks.append(
            Lanes(
                points=points.reshape(devices, rows, width),
                real=real.reshape(devices, rows, width),
            )
        )
    return blocks
