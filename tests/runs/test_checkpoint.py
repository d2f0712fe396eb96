"""Checkpoints: complete or absent, and recognised."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec.core.rounds import ServerState
from fedjax_rec.core.rows import Table
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.simulation.simulation import Snapshot
from fedjax_rec.storage.errors import FileError


def snapshot(done, selected=0, scale=1.0):
    """Every kind of leaf and node that a state is made of."""
    item = scale * done * jnp.arange(600, dtype=jnp.float32).reshape(200, 3)
    shared = {"item": Table(values=item), "none": None, "empty": ()}
    server = ServerState(
        shared=shared,
        optimizer=optax.adam(0.1).init({"item": item, "bias": jnp.ones(2)}),
        round=jnp.int32(done),
    )
    personal = {"h": np.full((5, 2), scale * done), "on_device": jnp.full(3, done)}
    progress = {
        "round": done,
        "best": 0.1 + 0.2 * done,
        "selected": selected,
        "metrics": {"val": {"auc": float("nan"), "hr@10": 1 / 3}},
    }
    return Snapshot({"server": server, "personal": personal}, progress)


LIKE = snapshot(0).arrays


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints of a folder, and closes them at the end."""
    managers = []

    def opening(config="this", keep=2):
        checkpoints = Checkpoints(tmp_path / "checkpoints", config, keep)
        managers.append(checkpoints)
        return checkpoints

    yield opening
    for checkpoints in managers:
        checkpoints.close()


def save(checkpoints, *rounds, selected=0):
    for done in rounds:
        checkpoints.save(snapshot(done, selected), 100 * done)
    checkpoints.wait()


def assert_equal(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True)
    for a, b in pairs:
        assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_saved_state_comes_back(opened):
    save(opened(), 1, 2)
    restored = opened().restore(LIKE)
    assert restored.position == 200
    assert_equal(restored.snapshot.arrays, snapshot(2).arrays)
    # NaN is no number of JSON's, and comes back all the same.
    assert repr(restored.snapshot.progress) == repr(snapshot(2).progress)


def test_without_a_checkpoint_nothing_is_restored(opened):
    assert opened().restore(LIKE) == (None, 0, {})


def test_the_state_at_the_call_of_save_is_written(opened):
    """Rounds go on, into donated buffers and the same NumPy arrays."""
    step = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
    live = {"a": jnp.full((500, 500), 3.0), "b": np.full((500, 500), 3.0)}
    checkpoints = opened()
    checkpoints.save(Snapshot(live, snapshot(1).progress), 0)
    a = live["a"]
    for _ in range(50):
        a = step(a)
        live["b"] += 1
    checkpoints.wait()
    like = {"a": jnp.zeros((500, 500)), "b": np.zeros((500, 500))}
    restored = checkpoints.restore(like).snapshot.arrays
    assert np.all(np.asarray(restored["a"]) == 3)
    assert np.all(restored["b"] == 3)


def test_the_last_few_and_the_selected_are_kept(opened, tmp_path):
    checkpoints = opened(keep=2)
    for done, selected in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)):
        save(checkpoints, done, selected=selected)
    assert checkpoints.rounds == [2, 5, 6]
    save(checkpoints, 7, selected=7)
    assert checkpoints.rounds == [6, 7]
    names = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(names) == ["6", "7"]
    # A process that comes later keeps by the same rule.
    later = opened(keep=1)
    save(later, 8, selected=6)
    assert later.rounds == [6, 8]


def largest(folder):
    """The file that holds the arrays."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "seal.json")
    return max(files, key=lambda path: path.stat().st_size)


def flip(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BREAKS = {
    "flipped": (flip, "has changed"),
    "halved": (halve, "has changed"),
    "gone": (lambda folder: largest(folder).unlink(), "is gone"),
    "half removed": (lambda folder: (folder / "seal.json").unlink(), "not complete"),
    "seal broken": (lambda folder: (folder / "seal.json").write_text("{"), "not JSON"),
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "not complete"),
}


def content(folder):
    """Every file below a folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_checkpoint_is_refused_or_skipped_and_kept(opened, tmp_path, how):
    save(opened(keep=3), 1, 2, 3)
    hurt, reason = BREAKS[how]
    folder = tmp_path / "checkpoints"
    hurt(folder / "3")
    before, broken = content(folder), content(folder / "3")
    checkpoints = opened(keep=3)
    with pytest.raises(FileError, match=rf"round 3 .* damaged: .*{reason}.*--skip-dam"):
        checkpoints.restore(LIKE)
    restored = checkpoints.restore(LIKE, skip_damaged=True)
    assert content(folder) == before
    assert_equal(restored.snapshot.arrays, snapshot(2).arrays)
    assert restored.skipped.keys() == {3}
    assert reason in restored.skipped[3]
    # Its round comes again, and is written again.
    for _ in range(2):
        checkpoints.set_aside(restored.skipped)
        save(checkpoints, 3)
    assert checkpoints.rounds == [1, 2, 3]
    assert content(folder / "set-aside" / "3") == broken
    assert (folder / "set-aside" / "3.1" / "seal.json").exists()
    assert opened().restore(LIKE).snapshot.progress["round"] == 3


def test_all_broken(opened, tmp_path):
    save(opened(), 1, 2)
    for done in "12":
        halve(tmp_path / "checkpoints" / done)
    before = content(tmp_path)
    with pytest.raises(FileError, match="round 2"):
        opened().restore(LIKE)
    restored = opened().restore(LIKE, skip_damaged=True)
    assert (restored.snapshot, restored.position) == (None, 0)
    assert list(restored.skipped) == [2, 1]
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("RESOURCE_EXHAUSTED")]
)
@pytest.mark.parametrize("place", ["check_seal", "Checkpoints._item"])
def test_a_failure_to_read_proves_no_damage(
    opened, tmp_path, monkeypatch, error, place
):
    save(opened(), 1, 2)
    before = content(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(f"fedjax_rec.runs.checkpoint.{place}", fail)
    for skip in (False, True):
        with pytest.raises(type(error), match=str(error)[-9:]):
            opened().restore(LIKE, skip_damaged=skip)
    assert content(tmp_path) == before


def test_the_caller_may_skip_too(opened):
    save(opened(), 1, 2)
    restored = opened().restore(
        LIKE, lambda p: "too late" if p["position"] > 150 else ""
    )
    assert restored.snapshot.progress["round"] == 1
    assert restored.skipped == {2: "too late"}
    assert opened().rounds == [1, 2]


def test_another_config_is_refused_and_left(opened, tmp_path):
    save(opened("other"), 1)
    before = content(tmp_path)
    for skip in (False, True):
        with pytest.raises(FileError, match="belongs to another config"):
            opened("this").restore(LIKE, skip_damaged=skip)
    assert content(tmp_path) == before
    assert opened("other").restore(LIKE).snapshot.progress["round"] == 1


def test_other_arrays_are_refused_and_left(opened):
    save(opened(), 1)
    other = {**LIKE, "personal": {"h": np.zeros((6, 2)), "new": jnp.zeros(3)}}
    with pytest.raises(FileError, match="holds other arrays") as refused:
        opened().restore(other)
    for text in (
        "['personal']['h'] float64[5, 2] there, ['personal']['h'] float64[6, 2] now",
        "(absent) there, ['personal']['new'] float32[3] now",
    ):
        assert text in str(refused.value)
    assert opened().rounds == [1]


def test_files_of_a_killed_save_are_removed(opened, tmp_path):
    save(opened(), 1)
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", left)
    checkpoints = opened()
    assert checkpoints.rounds == [1]
    assert left.exists()
    save(checkpoints, 2)
    assert checkpoints.rounds == [1, 2]
    assert not left.exists()


def test_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints", "this")


def test_a_full_disk_is_reported_and_leaves_the_last_good_one(tmp_path, opened):
    resource = pytest.importorskip("resource")
    del resource
    code = (
        "import resource, numpy as np\n"
        "from fedjax_rec.runs.checkpoint import *\n"
        "from fedjax_rec.simulation.simulation import Snapshot\n"
        "def at(done):\n"
        "    noise = np.random.default_rng(done).random(100_000)\n"
        "    progress = dict(round=done, best=0.0, selected=0, metrics={})\n"
        "    return Snapshot({'a': noise}, progress)\n"
        f"saved = Checkpoints({str(tmp_path / 'checkpoints')!r}, 'this')\n"
        "saved.save(at(1), 0); saved.wait()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for wait in (saved.wait, saved.close):\n"
        "    try:\n"
        "        saved.save(at(2), 0); wait()\n"
        "    except FileError as error:\n"
        "        print(error)\n"
        "print(saved.rounds)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    error = (
        f"round 2 could not be written to {tmp_path / 'checkpoints'}: File too large"
    )
    assert done.stdout.count(error) == 2
    assert done.stdout.endswith("[1]\n")
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    restored = opened().restore({"a": np.zeros(100_000)})
    noise = np.random.default_rng(1).random(100_000)
    assert np.array_equal(restored.snapshot.arrays["a"], noise)
