"""Layouts of points by hand, and that each point has one place."""

import numpy as np
import pytest

from fedjax_rec.simulation.lanes import lay_out


@pytest.mark.parametrize(
    ("seeds", "devices", "most", "at_once", "shape", "blocks"),
    [
        # 8 settings of 3 seeds: 6 lanes of 4 on 2 devices, nothing padded.
        ([0, 1, 2] * 8, 2, 8, False, (2, 1, 4), 3),
        # One device takes the 8 of a seed as they are.
        ([0, 1, 2] * 8, 1, 8, False, (1, 1, 8), 3),
        # Room for all at once, seed beside seed.
        ([0, 1, 2] * 8, 1, 256, True, (1, 3, 8), 1),
        # 10 of one seed, at most 8 at once: two lanes of 5, not of 8 and 2.
        ([7] * 10, 1, 8, False, (1, 1, 5), 2),
        # Every point its own seed: lanes of one.
        ([0, 1, 2, 3, 4], 2, 8, False, (2, 1, 1), 3),
        # No room beside one another.
        ([0, 0, 0], 1, 1, True, (1, 1, 1), 3),
    ],
)
def test_blocks_by_hand(seeds, devices, most, at_once, shape, blocks):
    found = lay_out(seeds, devices=devices, most=most, seeds_at_once=at_once)
    assert [block.points.shape for block in found] == [shape] * blocks
    real = np.concatenate([block.points[block.real] for block in found])
    assert sorted(real) == list(range(len(seeds)))  # each point once
    for block in found:
        of = np.array(seeds)[block.points]
        assert (of == of[:, :, :1]).all()  # one seed a lane, padding too


def test_no_devices_and_no_room_are_refused():
    with pytest.raises(ValueError, match="devices=0"):
        lay_out([0], devices=0, most=1, seeds_at_once=False)
    with pytest.raises(ValueError, match="most=0"):
        lay_out([0], devices=1, most=0, seeds_at_once=False)
