"""A FedFM round on every path: what it computes, and what its program does not do."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean, Sum
from fedjax_rec.algorithms import text_path
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedfm_parts import (
    History,
    Joint,
    Reconstruction,
    VectorAndHistory,
)
from fedjax_rec.core.optimizers import SGD, Adam
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.adapters.in_layers import Bottleneck, LoRA, PrefixTuning
from tests.small_fedfm import SIZES, World, backbone, interactions

SMALL: dict[str, Any] = {
    "dim": 4,
    "negatives": 2,
    "batch_size": 99,
    "training": Joint(optimizer=SGD(lr=0.3)),
    "user_lr": 0.3,
}


DEFAULT = LoRA().targets


def small(layers=1, targets=DEFAULT, **fields):
    adapter = LoRA(layers=layers, rank=2, targets=targets)
    merged = {**SMALL, "adapter": adapter, **fields}
    if merged["training"].reconstructs:
        del merged["batch_size"]
    return FedFM(**merged)


def reconstruction(**fields):
    return Reconstruction(lr=0.3, **fields)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def moved(world, shared):
    """The largest change of the adapter."""
    groups = [g for g in shared if g in ("lora_b", "bottleneck", "prompt")]
    change = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        [shared[g] for g in groups],
        [world.start.shared[g] for g in groups],
    )
    return max(jax.tree.leaves(change))


@pytest.mark.parametrize("encode", ["once", "per_client"])
@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_cache_changes_nothing(layers, encode, root):
    cached, uncached = (
        World(small(layers), root, model=backbone(6), encode=encode, prefix_cache=cache)
        for cache in (True, False)
    )
    before = {1: 5, 2: 4, 6: 0}[layers]
    if before:
        weights = uncached.frozen["text"]["weights"]
        assert {len(x) for x in jax.tree.leaves(weights["before"])} == {before}
        # With the cache neither the layers before nor the embeddings are there.
        assert set(cached.frozen["text"]["weights"]) == {"layers", "head"}
        hidden = cached.frozen["text"]["lists"].values
        assert hidden.ndim == 2
        assert hidden.shape[1] == 8
    else:
        assert cached.path == uncached.path == "full"
    with_cache = cached.result()
    assert moved(cached, with_cache[0]) > 1e-3
    close(with_cache, uncached.result())


@pytest.mark.parametrize("encode", ["once", "per_client"])
def test_the_cache_before_the_last_map_changes_nothing(encode, root):
    config = small(targets=("ffn/down",))
    cached, uncached = (
        World(config, root, model=backbone(6), encode=encode, prefix_cache=cache)
        for cache in (True, False)
    )
    assert (cached.path, uncached.path) == ("last_map", "suffix")
    assert cached.frozen["text"]["lists"].values.shape[1] == 8 + 12
    with_cache = cached.result()
    assert moved(cached, with_cache[0]) > 1e-3
    close(with_cache, uncached.result())


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_cache_changes_nothing_on_minilm(layers, minilm, root):
    from fedjax_rec.backbones import load_backbone

    config = small(layers, dim=8)
    train = interactions(30)
    model = load_backbone(minilm)
    results = []
    for cache in (True, False):
        world = World(config, root, model=model, train=train, prefix_cache=cache)
        assert world.lifted
        results.append(world.result())
        assert moved(world, results[-1][0]) > 1e-4
    close(*results)


LIFTED = {
    "lora, per row": ({"id_residual": True}, Mean(per_row=True)),
    "prefix, uniform, steps": (
        {"adapter": PrefixTuning(length=2), "training": reconstruction(steps=3)},
        Mean(weights="uniform"),
    ),
    "bottleneck, sum": ({"adapter": Bottleneck(size=3), "loss": "bce"}, Sum()),
    "embedding, ids, steps, query": (
        {
            "adapter": EmbeddingAdapter(rank=2),
            "id_residual": True,
            "item_lr_scale": 2.0,
            "training": reconstruction(steps=2, query=0.5),
        },
        Mean(weights="uniform", per_row=True),
    ),
    "none, both": ({"adapter": None, "users": VectorAndHistory(length=3)}, None),
    "fixed head": ({"fixed": ("head",), "loss": "bpr"}, None),
}


@pytest.mark.parametrize("name", LIFTED)
def test_encoding_once_equals_encoding_per_client(name, root):
    fields, rule = LIFTED[name]
    once, per_client = (
        World(small(**fields), root, encode=encode, aggregation=rule)
        for encode in ("once", "per_client")
    )
    assert once.lifted
    assert not per_client.lifted
    got = once.result()
    close(got, per_client.result())
    start = once.start.shared["head"]["w"]
    still = float(jnp.abs(got[0]["head"]["w"] - start).max()) == 0
    assert still == ("fixed" in name)


# Numbers that occur nowhere else, so that a shape tells what an array is.
WIDTH, FFN, RANK = 44, 92, 3


@functools.cache
def program(root, encode):
    model = backbone(width=WIDTH, ffn_width=FFN, vocab_size=113)
    config = small(dim=6, adapter=LoRA(layers=0, rank=RANK))
    world = World(config, root, model=model, encode=encode)
    lowered = world.round.lower(*world.arguments)
    compiled = lowered.compile().as_text()
    assert compiled is not None
    return compiled, lowered.as_text(), world


def dots(text):
    """Shapes of the compiled program's products: `(result, left, right)`."""
    named = dict(re.findall(r"(%?[\w.\-]+) = f32\[([\d,]*)\]", text))
    found = []
    for line in text.splitlines():
        match = re.search(r"= f32\[([\d,]*)\]\S* (dot|custom-call)\(([^)]*)\)", line)
        if match is None or (match[2] == "custom-call" and "matmul" not in line):
            continue
        inner = re.findall(r"f32\[([\d,]*)\]", match[3]) or [
            named[name] for name in re.findall(r"%[\w.\-]+", match[3])
        ]
        shapes = (match[1], *inner)
        found.append(tuple(tuple(map(int, s.split(","))) if s else () for s in shapes))
    return found


@pytest.mark.parametrize("encode", ["once", "per_client"])
def test_the_rounds_program_multiplies_frozen_weights_once(encode, root):
    text, _, world = program(root, encode)
    products = dots(text)
    kernels = [[WIDTH, WIDTH], [WIDTH, FFN]]
    for result, *_ in products:
        # A kernel's gradient would have its two sides and neither clients nor tokens.
        sides = sorted(n for n in result if n not in (1, 2, len(SIZES)))
        assert sides not in kernels, result
    if encode == "once":
        tokens = world.frozen["text"]["plan"].index.size
    else:
        pairs = max(SIZES) * (1 + world.recipe.local.negatives)
        longest = int(world.frozen["text"]["lists"].length.max())
        rows = -(-pairs // 4)
        tokens = None
    shared = [
        (result, left, right)
        for result, left, right in products
        if sorted(right) in kernels or sorted(left) in kernels
    ]
    assert len(shared) >= 2 * 6 - 1  # six maps, forward and, but for the lowest, back
    for result, left, right in shared:
        # No batch dimension of clients on a frozen weight: two sides each.
        assert sorted(right) in kernels, (result, left, right)
        assert np.prod(result[:-1]) == np.prod(left[:-1])
        if tokens is not None:
            assert np.prod(left[:-1]) == tokens
        else:
            count = int(np.prod(left[:-1]))
            assert count % (len(SIZES) * rows) == 0
            assert count <= len(SIZES) * pairs * longest


@pytest.mark.parametrize("encode", ["once", "per_client"])
def test_the_backbone_is_an_argument_of_the_round(encode, root):
    text, stable, world = program(root, encode)
    entry = text[text.index("ENTRY") :]
    parameters = re.findall(r"= f32\[([\d,]*)\]\S* parameter\(", entry)
    weights = world.frozen["text"]["weights"]
    for leaf in jax.tree.leaves(weights["layers"]):
        assert ",".join(map(str, leaf.shape)) in parameters
    assert f"{weights['embeddings']['token'].shape[0]},{WIDTH}" in parameters
    smallest = WIDTH * WIDTH
    for found in re.findall(r"= f32\[([\d,]+)\]\S* constant\(", text):
        assert np.prod(list(map(int, found.split(",")))) < smallest
    for found in re.findall(
        r"stablehlo.constant dense<(?!\S+> :).*tensor<(\S+)xf32>", stable
    ):
        assert np.prod(list(map(int, found.split("x")))) < smallest


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"layers": 3}, {}, r"adapter.layers=3: tiny has 2 layers"),
        ({"dim": 9}, {}, r"dim=9: expected at most 8, for 13 texts of width 8"),
        (
            {"personal": ("lora_b", "haed")},
            {},
            "personal names unknown groups: haed; expected some of "
            "common, head, lora_a, lora_b$",
        ),
        (
            {"personal": ("lora_b",)},
            {"encode": "once"},
            "execution.encode='once' is not exact: lora_b differ",
        ),
        (
            {"training": Joint(epochs=2)},
            {"encode": "once"},
            "several steps on shared parameters",
        ),
        (
            {"training": Joint(optimizer=Adam(lr=0.1))},
            {"encode": "once"},
            "several steps on shared parameters",
        ),
        (
            {"batch_size": 6},
            {"encode": "once"},
            "the largest client's 12 pairs are more than one batch of 6",
        ),
        ({}, {"encode": "once", "evaluated": "tuned"}, "their own tuned parameters"),
        ({"targets": ("attention/qeury",)}, {}, "attention/qeury"),
    ],
)
def test_teaching_errors(fields, options, message, root):
    with pytest.raises(ValueError, match=message):
        World(small(**fields), root, **options)


def test_contradictory_settings_are_refused_at_once():
    with pytest.raises(ValueError, match="has no other personal group"):
        FedFM(training=Reconstruction(), personal=("head",))
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        Reconstruction(query=1.0)
    assert History() == History(length=20, heads=4)
    for users in (History, VectorAndHistory):
        for nothing in ({"length": 0}, {"heads": 0}):
            with pytest.raises(ValueError, match="got 0"):
                users(**nothing)


def test_the_path_is_chosen_and_reported(root):
    def chosen(layers=1, targets=DEFAULT, **options):
        return World(small(layers, targets), root, **options)

    suffix = chosen()
    assert (suffix.path, suffix.lifted) == ("suffix", True)
    assert "lora in the last 1 of 2 layers" in suffix.why[0]
    assert "encoded once a round for all clients (13 texts" in suffix.why[1]
    few = chosen(cohort_size=1)
    assert not few.lifted
    assert "a cohort's 8 pairs are fewer than the 13 items" in few.why[1]
    assert chosen(layers=0).path == "full"
    last = chosen(targets=("ffn/down",))
    assert last.path == "last_map"
    assert "lora in the last linear map of 2 layers" in last.why[0]
    assert chosen(layers=2, targets=("ffn/down",)).path == "full"
    for layers in (0, 1):  # all there are
        world = chosen(layers, targets=("ffn/down",), model=backbone(1))
        assert world.path == "last_map"
        assert moved(world, world.result()[0]) > 1e-3
    assert chosen(targets=("ffn/*",)).path == "suffix"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_path, "MAX_STATE_BYTES", 1000)
        assert chosen(targets=("ffn/down",)).path == "suffix"
    embedding = World(small(adapter=EmbeddingAdapter(rank=2)), root)
    assert embedding.path == "embedding"
    assert set(embedding.frozen) == {"embedding"}
    assert embedding.facts["adapter_parameters"] == 2 * 8 * 2
    # Two maps of one layer, A and B each.
    assert suffix.facts["adapter_parameters"] == 2 * 2 * 8 * 2
    assert suffix.facts["adapter_bits"] == 32 * 64
