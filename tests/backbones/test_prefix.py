"""Outputs of frozen layers are exact, shared, and verified."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.backbones import prefix
from fedjax_rec.backbones.prefix import build_embeddings, build_prefix
from fedjax_rec.core import packing
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.storage.errors import FileError

VOCABULARY, WIDTH, LAYERS = 50, 8, 3
SMALL = 1024  # bytes a shard: 32 vectors


def embed(weights, tokens, layout):
    position = jnp.sin(layout.position[..., None] * jnp.arange(1.0, WIDTH + 1))
    return weights["table"][tokens] + position.astype(weights["table"].dtype)


def run(stack, hidden, layout, adapter, adapter_params):
    assert adapter is None
    assert adapter_params is None
    same = layout.segment[..., :, None] == layout.segment[..., None, :]

    def layer(hidden, w):
        scores = jnp.einsum("rid,rjd->rij", hidden, hidden @ w)
        share = jax.nn.softmax(jnp.where(same, scores, -1e9), axis=-1)
        return hidden + jnp.tanh(share @ hidden @ w), None

    return jax.lax.scan(layer, hidden, stack["w"])[0]


def pool(weights, hidden, layout, num_texts):
    hot = layout.segment[..., None] == jnp.arange(1, num_texts + 1)
    total = jnp.einsum("rwg,rwd->rgd", hot.astype(hidden.dtype), hidden)
    return total @ weights["head"]


def toy(dtype="float32", fingerprint="toy-1"):
    generator = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(generator.normal(size=shape) / 3, dtype)

    weights = {
        "table": draw(VOCABULARY, WIDTH),
        "layers": {"w": draw(LAYERS, WIDTH, WIDTH)},
        "head": draw(WIDTH, WIDTH),
    }
    backbone = Backbone(
        name="toy",
        width=WIDTH,
        kv_width=WIDTH,
        num_layers=LAYERS,
        max_tokens=40,
        sites={},
        blocks=(),
        fingerprint=fingerprint,
        tokenize=lambda texts: [],
        embed=embed,
        run=run,
        pool=pool,
    )
    return backbone, weights


def catalog(count=60, seed=0):
    generator = np.random.default_rng(seed)
    lengths = np.append(generator.integers(1, 16, count - 2), [1, 40])
    texts = [generator.integers(0, VOCABULARY, t).astype(np.int32) for t in lengths]
    return texts, packing.make_lists(texts)


def alone(weights, text, depth, pooled=False):
    """One text in an unpacked row, by NumPy."""
    table, w, head = (
        np.asarray(x, np.float64)
        for x in (weights["table"], weights["layers"]["w"], weights["head"])
    )
    x = table[text] + np.sin(np.outer(np.arange(len(text)), np.arange(1, WIDTH + 1)))
    for k in range(depth):
        share = np.exp(x @ (x @ w[k]).T)
        share /= share.sum(1, keepdims=True)
        x = x + np.tanh(share @ x @ w[k])
    return x.sum(0, keepdims=True) @ head if pooled else x


@pytest.fixture
def computed(monkeypatch):
    """The ranges of texts that were computed, one list a call."""
    calls = []

    def noted(step, weights, tokens, bounds, **options):
        calls.append(list(bounds))
        return original(step, weights, tokens, bounds, **options)

    original = prefix.pass_over
    monkeypatch.setattr(prefix, "pass_over", noted)
    return calls


def the_folder(root):
    (folder,) = (root / "prefix").iterdir()
    return folder


@pytest.mark.parametrize("depth", range(LAYERS + 1))
def test_hidden_states_are_those_of_each_text_alone(depth, tmp_path):
    backbone, weights = toy()
    texts, tokens = catalog()
    expected = np.concatenate([alone(weights, text, depth) for text in texts])
    for root in (None, tmp_path, tmp_path):
        found = build_prefix(
            backbone,
            weights,
            tokens,
            depth,
            root=root,
            rows_per_step=4,
            shard_bytes=SMALL,
        )
        np.testing.assert_allclose(found.values[:-1], expected, atol=5e-6)
        assert not found.values[-1].any()
        np.testing.assert_array_equal(found.length, tokens.length)
        np.testing.assert_array_equal(found.offset, tokens.offset)


def test_embeddings_are_those_of_each_text_alone(tmp_path):
    backbone, weights = toy()
    texts, tokens = catalog()
    expected = np.concatenate([alone(weights, t, LAYERS, pooled=True) for t in texts])
    for root in (None, tmp_path, tmp_path):
        found = build_embeddings(
            backbone, weights, tokens, root=root, shard_bytes=SMALL
        )
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_without_tokens_is_zero():
    backbone, weights = toy()
    tokens = packing.make_lists([np.array([3, 4], np.int32), np.zeros(0, np.int32)])
    found = build_embeddings(backbone, weights, tokens, root=None)
    assert found[0].any()
    assert not found[1].any()


def test_catalogs_of_one_token_and_of_none(tmp_path):
    backbone, weights = toy()
    one = packing.make_lists([np.array([3], np.int32)])
    none = packing.make_lists([np.zeros(0, np.int32)])
    for _ in range(2):
        found = build_prefix(backbone, weights, one, 1, root=tmp_path)
        np.testing.assert_allclose(found.values[:1], alone(weights, [3], 1), atol=1e-6)
        found = build_prefix(backbone, weights, none, 1, root=tmp_path)
        assert found.values.shape == (1, WIDTH)


def test_bfloat16_survives_the_disk(tmp_path):
    backbone, weights = toy("bfloat16")
    _, tokens = catalog()
    first = build_prefix(backbone, weights, tokens, 2, root=tmp_path)
    second = build_prefix(backbone, weights, tokens, 2, root=tmp_path)
    assert first.values.dtype == second.values.dtype == jnp.bfloat16
    assert first.values.any()
    np.testing.assert_array_equal(first.values, second.values)
    assert np.load(the_folder(tmp_path) / "00000.npy").dtype == np.uint16
    first = build_embeddings(backbone, weights, tokens, root=tmp_path)
    second = build_embeddings(backbone, weights, tokens, root=tmp_path)
    assert first.dtype == second.dtype == jnp.bfloat16
    np.testing.assert_array_equal(first, second)


def test_the_second_run_computes_nothing(tmp_path, computed):
    backbone, weights = toy()
    _, tokens = catalog()
    for _ in range(2):
        build_prefix(backbone, weights, tokens, 2, root=tmp_path, shard_bytes=SMALL)
    assert len(computed) == 1
    bounds = computed[0]
    assert len(bounds) > 3
    assert [b[0] for b in bounds[1:]] == [b[1] for b in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, 60)
    files = sorted(p.name for p in the_folder(tmp_path).glob("*.npy"))
    assert len(files) == len(bounds)
    size = (the_folder(tmp_path) / files[0]).stat().st_size
    assert SMALL / 2 < size < 2 * SMALL + 200


def test_whatever_decides_the_values_has_its_own_folder(tmp_path, computed):
    _, tokens = catalog()
    _, others = catalog(seed=1)
    backbone, weights = toy()
    changed, _ = toy(fingerprint="toy-2")
    half, half_weights = toy("bfloat16")
    for _ in range(2):
        build_prefix(backbone, weights, tokens, 1, root=tmp_path)
        build_prefix(backbone, weights, tokens, 2, root=tmp_path)
        build_prefix(changed, weights, tokens, 1, root=tmp_path)
        build_prefix(half, half_weights, tokens, 1, root=tmp_path)
        build_prefix(backbone, weights, others, 1, root=tmp_path)
        build_embeddings(backbone, weights, tokens, root=tmp_path)
    assert len(computed) == len(list((tmp_path / "prefix").iterdir())) == 6


def truncate(folder):
    file = folder / "00001.npy"
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_byte(folder):
    file = folder / "00001.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def remove(folder):
    (folder / "00001.npy").unlink()


def swap(folder):
    """Whole, but another shard."""
    (folder / "00001.npy").write_bytes((folder / "00002.npy").read_bytes())


def leave_out(folder):
    """As a run leaves it that was killed before the shard was finished."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["00001.npy"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    remove(folder)


def cut_manifest(folder):
    file = folder / "manifest.json"
    file.write_text(file.read_text()[:-30])


def remove_manifest(folder):
    (folder / "manifest.json").unlink()


def replace_manifest(folder):
    file = folder / "manifest.json"
    file.write_text(file.read_text().replace("toy-1", "toy-0"))


def wrong_kind_of_manifest(folder):
    (folder / "manifest.json").write_text("[1]")


ONE = (truncate, flip_a_byte, remove, swap, leave_out)
ALL = (cut_manifest, remove_manifest, replace_manifest, wrong_kind_of_manifest)


@pytest.mark.parametrize("damage", ONE + ALL)
def test_what_is_broken_is_computed_again(damage, tmp_path, computed):
    backbone, weights = toy()
    _, tokens = catalog()

    def build():
        return build_prefix(
            backbone, weights, tokens, 2, root=tmp_path, shard_bytes=SMALL
        )

    expected = build()
    damage(the_folder(tmp_path))
    found = build()
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert computed[1] == (computed[0][1:2] if damage in ONE else computed[0])
    np.testing.assert_array_equal(build().values, found.values)
    assert len(computed) == 2, "and is then whole"
    assert not list(the_folder(tmp_path).glob(".partial*"))


def test_a_damaged_shard_is_told_of(tmp_path, caplog):
    backbone, weights = toy()
    _, tokens = catalog()
    with caplog.at_level(logging.WARNING):
        build_embeddings(backbone, weights, tokens, root=tmp_path, shard_bytes=SMALL)
        assert not caplog.records
        truncate(the_folder(tmp_path))
        build_embeddings(backbone, weights, tokens, root=tmp_path, shard_bytes=SMALL)
    assert "00001.npy" in caplog.text


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, monkeypatch, computed):
    backbone, weights = toy()
    _, tokens = catalog()
    noted = prefix.pass_over

    def interrupted(*args, **options):
        for count, array in enumerate(noted(*args, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield array

    monkeypatch.setattr(prefix, "pass_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_prefix(backbone, weights, tokens, 1, root=tmp_path, shard_bytes=SMALL)
    (the_folder(tmp_path) / ".partial-x").write_text("of a run that was killed")
    monkeypatch.setattr(prefix, "pass_over", noted)
    build_prefix(backbone, weights, tokens, 1, root=tmp_path, shard_bytes=SMALL)
    assert computed[1] == computed[0][2:]
    assert not list(the_folder(tmp_path).glob(".partial*"))


def test_a_folder_that_cannot_be_written(tmp_path):
    backbone, weights = toy()
    _, tokens = catalog(4)
    (tmp_path / "prefix").write_text("a file where the folder should be")
    with pytest.raises(FileError, match=r"cannot be written.*Pass another folder"):
        build_prefix(backbone, weights, tokens, 1, root=tmp_path)


def test_a_whole_cache_needs_no_writing(tmp_path, computed, monkeypatch):
    backbone, weights = toy()
    _, tokens = catalog(4)
    build_prefix(backbone, weights, tokens, 1, root=tmp_path)
    (the_folder(tmp_path) / ".lock").unlink()
    build_prefix(backbone, weights, tokens, 1, root=tmp_path)
    assert not (the_folder(tmp_path) / ".lock").exists()
    assert len(computed) == 1


@pytest.mark.parametrize("depth", [-1, LAYERS + 1])
def test_no_such_depth(depth):
    backbone, weights = toy()
    with pytest.raises(FileError, match=f"depth {depth}; expected 0 to 3"):
        build_prefix(backbone, weights, catalog(4)[1], depth, root=None)


def test_no_last_map():
    backbone, weights = toy()
    with pytest.raises(FileError, match="a backbone that defines `last`"):
        build_prefix(backbone, weights, catalog(4)[1], 1, to_last_map=True, root=None)


def test_a_text_that_is_too_long():
    backbone, weights = toy()
    tokens = packing.make_lists([np.ones(3, np.int32), np.ones(41, np.int32)])
    with pytest.raises(FileError, match="41 tokens in text 1; expected at most 40"):
        build_embeddings(backbone, weights, tokens, root=None)


def test_the_bar_counts_texts(monkeypatch, capsys):
    backbone, weights = toy()
    _, tokens = catalog()
    build_prefix(backbone, weights, tokens, 2, root=None, progress=True)
    assert "toy" not in capsys.readouterr().err, "not for a moment's work"
    monkeypatch.setattr(prefix, "_BAR_AFTER_S", 0)
    build_prefix(backbone, weights, tokens, 2, root=None, progress=True)
    shown = capsys.readouterr().err
    assert "toy, 2 layers: 100%" in shown
    assert "60/60" in shown
    build_prefix(backbone, weights, tokens, 2, root=None)
    assert not capsys.readouterr().err


def in_another_process(root):
    """Code of the processes in the test below; prints the number of computations."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    calls = []
    original = prefix.pass_over
    prefix.pass_over = lambda *a, **k: calls.append(1) or original(*a, **k)
    backbone, weights = toy()
    found = build_prefix(
        backbone, weights, catalog()[1], 2, root=root, shard_bytes=SMALL
    )
    print("done", len(calls), float(found.values.sum()), flush=True)


def test_of_two_processes_one_computes(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    backbone, weights = toy()
    found = build_prefix(
        backbone, weights, catalog()[1], 2, root=tmp_path / "first", shard_bytes=SMALL
    )
    folder = tmp_path / "both" / "prefix" / the_folder(tmp_path / "first").name
    folder.mkdir(parents=True)
    with (folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until both have come to the door
        both = [
            subprocess.Popen(
                [sys.executable, __file__, str(tmp_path / "both")],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout is not None
            while "waiting for another" not in (line := process.stdout.readline()):
                assert line, "the process ended"
    ends = [process.communicate(timeout=120)[0].split() for process in both]
    assert all(process.returncode == 0 for process in both)
    counts = sorted(int(end[end.index("done") + 1]) for end in ends)
    assert counts == [0, 1]
    totals = [float(end[end.index("done") + 2]) for end in ends]
    np.testing.assert_allclose(totals, float(found.values.sum()), rtol=1e-5)


def test_many_devices_give_the_same(tmp_path):
    """Rows go to all devices, also where their number is not a multiple."""
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=3",
        },
    )
    backbone, weights = toy()
    found = build_prefix(backbone, weights, catalog()[1], 2, root=None)
    total = float(done.stdout.split()[-1])
    np.testing.assert_allclose(total, float(found.values.sum()), rtol=1e-5)


if __name__ == "__main__":
    in_another_process(Path(sys.argv[1]))
