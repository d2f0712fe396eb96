"""Files and folders that appear complete or not at all."""

import hashlib
import os

import pytest

from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import digest, publish, replacing, temporary


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    target = tmp_path / "curves.png"
    target.write_text("old")

    def fail():
        with replacing(target) as partial:
            assert partial.suffix == ".png"
            partial.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    with replacing(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_temporary_folder_is_removed(tmp_path):
    with temporary(tmp_path / "root") as first, temporary(tmp_path / "root") as second:
        (first / "file").touch()
        assert second.is_dir()
    assert list((tmp_path / "root").iterdir()) == []


def test_folders_of_killed_processes_are_removed(tmp_path):
    abandoned = tmp_path / ".partial-abc"
    abandoned.mkdir()
    (tmp_path / ".partial-abc.lock").touch()
    (tmp_path / ".partial-def").touch()  # a file that another process is writing
    with temporary(tmp_path):
        assert not abandoned.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".partial-def"]


def test_folders_of_other_hosts_are_not_removed(tmp_path):
    """Some network file systems keep a lock within the host that holds it."""
    other = tmp_path / ".partial-abc"
    other.mkdir()
    (tmp_path / ".partial-abc.lock").write_text("another-host")
    with temporary(tmp_path):
        assert other.is_dir()


def test_a_replaced_file_survives_a_power_failure(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def record(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", record)
    with replacing(tmp_path / "result.json") as partial:
        partial.write_text("{}")
        assert synced == []
    # The content before the name, and then the folder that holds the name.
    assert synced == [str(partial), str(tmp_path)]


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(FileError, match=r"cannot be written .*\. Pass another"),
        temporary(tmp_path / "file", "Pass another"),
    ):
        raise AssertionError


@pytest.mark.parametrize("replace", [False, True])
def test_a_published_folder_replaces_another_only_on_request(tmp_path, replace):
    entry = tmp_path / "entries" / "key"
    for content in ("old", "new"):
        with temporary(tmp_path) as folder:
            (folder / "made").mkdir()
            (folder / "made" / "file").write_text(content)
            publish(folder / "made", entry, replace=replace)
    assert (entry / "file").read_text() == ("new" if replace else "old")
    assert list(tmp_path.iterdir()) == [entry.parent]


def test_a_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert digest(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert digest(tmp_path / "file", "md5") == hashlib.md5(b"abc").hexdigest()
