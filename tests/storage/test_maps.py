"""Memory maps of new files: zeros, with room on the disk."""

import errno
import os

import numpy as np
import pytest

from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.storage.maps import new_map


@pytest.mark.parametrize("reserves", [True, False])
def test_a_new_map_has_its_blocks_before_the_first_write(
    tmp_path, monkeypatch, reserves
):
    if not reserves:  # as on macOS and Windows
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path = tmp_path / "new.npy"
    mapped = new_map(path, np.float32, (1000, 300))
    stat = path.stat()
    assert stat.st_blocks * 512 >= mapped.nbytes == 1_200_000
    assert stat.st_size == mapped.nbytes + mapped.offset
    assert not mapped.any()
    mapped[999] = 7
    mapped.flush()
    again = np.load(path)
    assert again.shape == (1000, 300)
    assert again.sum() == 7 * 300


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_is_an_error_before_the_first_write(tmp_path, monkeypatch, code):
    def full(handle, offset, size):
        raise OSError(getattr(errno, code), "no room")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    message = r"new.npy: cannot be written \(no room\). Free some space"
    with pytest.raises(DiskFull, match=message):
        new_map(tmp_path / "new.npy", np.float32, (10,), "Free some space")
    assert list(tmp_path.iterdir()) == []
