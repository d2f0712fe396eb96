"""Locks between processes, and systems that have none."""

import errno
import subprocess
import sys

import pytest

from fedjax_rec.storage import files
from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import acquire, locked, temporary

fcntl = pytest.importorskip("fcntl")
UNSUPPORTED = ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")


def fail_with(monkeypatch, name):
    """Makes `flock` fail as on a file system without locks."""

    def flock(file, flags):
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_is_held_until_the_block_ends(tmp_path):
    path = tmp_path / "folder" / ".lock"
    with locked(path) as held:
        assert held
        with path.open("ab") as file, pytest.raises(BlockingIOError):
            acquire(file)
        with (
            pytest.raises(FileError, match="folder: is being written by another proc"),
            locked(path),
        ):
            raise AssertionError
    with locked(path) as held:
        assert held


def test_a_waiting_process_enters_when_the_other_ends(tmp_path, caplog):
    path = tmp_path / ".lock"
    code = (
        "import pathlib, sys, time\n"
        "from fedjax_rec.storage.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(0.5)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with caplog.at_level("INFO"), locked(path, wait=True) as held:
            assert held
    assert "waiting for another process" in caplog.text


@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks_is_not_in_use(
    tmp_path, monkeypatch, caplog, name, wait
):
    fail_with(monkeypatch, name)
    files._warn_of_no_locks.cache_clear()
    for _ in range(2):
        with locked(tmp_path / ".lock", wait=wait) as held:
            assert not held
    (record,) = caplog.records  # once
    assert f"files cannot be locked ({name})" in record.getMessage()


@pytest.mark.parametrize("name", ["EAGAIN", "EWOULDBLOCK"])
def test_only_a_blocked_call_means_in_use(tmp_path, monkeypatch, name):
    fail_with(monkeypatch, name)
    with (
        pytest.raises(FileError, match="another process"),
        locked(tmp_path / ".lock"),
    ):
        raise AssertionError


def test_windows_has_no_lock(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / ".lock") as held:
        assert not held


def test_without_locks_the_folder_of_a_live_process_is_not_removed(
    tmp_path, monkeypatch
):
    fail_with(monkeypatch, "ENOLCK")
    with temporary(tmp_path) as first, temporary(tmp_path):
        assert first.is_dir()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(FileError, match=r"file: cannot be written .*Choose another"),
        locked(tmp_path / "file" / ".lock", fix="Choose another"),
    ):
        raise AssertionError
