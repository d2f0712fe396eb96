"""Layouts by hand, in which each experiment has one cell."""

import numpy as np
import pytest

from fedjax_rec.simulation.cells import arrange


@pytest.mark.parametrize(
    ("seeds", "devices", "most", "at_once", "shape", "count"),
    [
        # 8 settings of 3 seeds: 6 rows of 4 on 2 devices, without padding.
        ([0, 1, 2] * 8, 2, 8, False, (2, 1, 4), 3),
        # One device takes the 8 of a seed as they are.
        ([0, 1, 2] * 8, 1, 8, False, (1, 1, 8), 3),
        # Room for all at once, seed beside seed.
        ([0, 1, 2] * 8, 1, 256, True, (1, 3, 8), 1),
        # 10 of one seed, at most 8 at once: two rows of 5, not of 8 and 2.
        ([7] * 10, 1, 8, False, (1, 1, 5), 2),
        # Each has its own seed: rows of one.
        ([0, 1, 2, 3, 4], 2, 8, False, (2, 1, 1), 3),
        # Room for one at a time.
        ([0, 0, 0], 1, 1, True, (1, 1, 1), 3),
    ],
)
def test_blocks_by_hand(seeds, devices, most, at_once, shape, count):
    layouts = arrange(seeds, devices=devices, most=most, seeds_at_once=at_once)
    assert [layout.index.shape for layout in layouts] == [shape] * count
    real = np.concatenate([layout.index[layout.real] for layout in layouts])
    assert sorted(real) == list(range(len(seeds)))  # each experiment once
    for layout in layouts:
        cells = np.array(seeds)[layout.index]
        assert (cells == cells[:, :, :1]).all()  # one seed per row, padding too


def test_no_devices_and_no_room_are_refused():
    with pytest.raises(ValueError, match="devices=0"):
        arrange([0], devices=0, most=1, seeds_at_once=False)
    with pytest.raises(ValueError, match="most=0"):
        arrange([0], devices=1, most=0, seeds_at_once=False)
