"""Kept values: the same again, mapped, whole or not at all, and not without end."""

import os
from typing import NamedTuple

import numpy as np
import pytest

from fedjax_rec.storage.cache import cache_root, keep, recall


class Value(NamedTuple):
    large: np.ndarray
    again: np.ndarray
    small: np.ndarray
    words: list[str]
    nothing: None = None


def value(size=2000):
    large = np.arange(size, dtype=np.int64)
    return Value(large, large, np.arange(3.0), ["a", "b"])


def test_what_is_kept_comes_back_mapped(tmp_path):
    made = []
    for _ in range(2):
        found = keep(tmp_path, "key", lambda: made.append(1) or value())
    assert made == [1]  # the second call reads
    assert isinstance(found.large, np.memmap)
    assert found.again is found.large  # one file for one array
    assert not isinstance(found.small, np.memmap)
    np.testing.assert_array_equal(found.large, np.arange(2000))
    np.testing.assert_array_equal(found.small, [0, 1, 2])
    assert (found.words, found.nothing) == (["a", "b"], None)
    with pytest.raises(ValueError, match="read-only"):
        found.large[0] = 1


def test_an_empty_array_and_a_failure_leave_nothing_half_written(tmp_path):
    def fail():
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        keep(tmp_path, "key", fail)
    assert recall(tmp_path, "key") is None
    found = keep(tmp_path, "key", lambda: np.zeros((0, 3)))
    assert found.shape == (0, 3)


def test_the_longest_unused_goes_first(tmp_path):
    for number, name in enumerate(("one", "two", "three")):
        keep(tmp_path, name, value)
        os.utime(tmp_path / name, (number, number))
    assert recall(tmp_path, "one") is not None  # used now: `two` is the oldest
    size = sum(f.stat().st_size for f in (tmp_path / "one").iterdir())
    keep(tmp_path, "four", value, limit=3 * size)
    there = {name for name in ("one", "two", "three", "four") if recall(tmp_path, name)}
    assert there == {"one", "three", "four"}
    # One that is larger than the limit is kept alone.
    assert isinstance(keep(tmp_path, "huge", value, limit=1).large, np.memmap)
    assert recall(tmp_path, "four") is None


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("")
    found = keep(file, "key", value)
    assert len(found.large) == 2000
    assert "cannot be kept" in caplog.text


def test_an_entry_that_lost_a_file_is_made_again(tmp_path):
    keep(tmp_path, "key", value)
    next((tmp_path / "key").glob("*.npy")).unlink()
    assert recall(tmp_path, "key") is None
    assert isinstance(keep(tmp_path, "key", value).large, np.memmap)
    (tmp_path / "key" / "0.npy").write_bytes(b"")
    assert recall(tmp_path, "key") is None
    (tmp_path / "key" / "rest.pickle").write_bytes(b"")
    assert isinstance(keep(tmp_path, "key", value).large, np.memmap)


def test_the_root_is_the_argument_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(tmp_path / "own") == tmp_path / "own"
    monkeypatch.delenv("FEDJAX_REC_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "fedjax_rec"
    assert cache_root("~/own") == tmp_path / "own"
