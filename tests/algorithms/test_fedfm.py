"""A FedFM round on every path: what it computes, and what its program does not do."""

import functools
import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.algorithms import FedFM
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import per_user
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment import backbone as experiment_backbone
from fedjax_rec.experiment.backbone import BackboneConfig, prepare
from fedjax_rec.simulation.population import initial_personal
from fedjax_rec.simulation.round import make_algorithm

ITEMS, SIZES = 13, [3, 1, 4, 2, 3]
SMALL: dict[str, Any] = {
    "dim": 4,
    "rank": 2,
    "bottleneck": 3,
    "prefix": 2,
    "negatives": 2,
    "batch_size": 99,
    "client_lr": 0.3,
    "user_lr": 0.3,
}


def interactions(num_items=ITEMS, words=4):
    rng = np.random.default_rng(0)
    names = [f"{a}{b}" for a in ("red", "sea", "oak") for b in ("ship", "man", "s")]
    titles = [" ".join(rng.choice(names, 1 + i % words)) for i in range(num_items)]
    return make_interactions(
        user=np.repeat(np.arange(len(SIZES)), SIZES),
        item=np.concatenate([rng.choice(num_items, s, replace=False) for s in SIZES]),
        users=Entities(ids=[f"u{u}" for u in range(len(SIZES))]),
        items=Entities(ids=[f"i{i}" for i in range(num_items)], titles=titles),
    )


class World:
    """A FedFM bound to a backbone and to five clients."""

    def __init__(self, config, backbone, root, train=None, **options):
        self.train = train = interactions() if train is None else train
        n = train.num_items
        split = Split(train=train, val=train, test=train, name="none", info={})
        options = {
            "pool": None,
            "largest": max(SIZES),
            "pairs_a_round": 1e9,
            "tuned": False,
            **options,
        }
        with mock.patch.object(
            experiment_backbone, "load_model", return_value=(*backbone, False)
        ):
            self.prepared = prepare(
                BackboneConfig(cache=str(root)), config, split, **options
            )
        self.frozen = self.prepared.frozen
        self.recipe = config.build(
            num_items=n,
            num_users=train.num_users,
            texts=self.prepared.texts,
            lifted=self.prepared.lifted,
        )
        self.data = make_client_data(train, per_user(train), max_buckets=1)
        algorithm = make_algorithm(self.recipe, (len(SIZES),))
        self.round, self.key = jax.jit(algorithm.round), jax.random.key(3)
        self.start = algorithm.init(self.key)
        ids = jnp.arange(len(SIZES), dtype=jnp.int32)
        personal = initial_personal(self.recipe, self.key, len(SIZES))
        self.cohort = Cohort(ids=ids, rows=ids, personal=personal)

    @property
    def arguments(self):
        return (
            self.start,
            self.cohort,
            self.data,
            self.frozen,
            self.recipe.hparams,
            self.key,
        )

    def result(self, rounds=2):
        """Shared and personal parameters after some rounds: A of LoRA moves second."""
        state, cohort, *rest = self.arguments
        for _ in range(rounds):
            state, cohort, _ = self.round(state, cohort, *rest)
        return state.shared, cohort.personal


@functools.cache
def backbone(num_layers=2):
    size: dict[str, Any] = {
        "width": 8,
        "num_heads": 2,
        "ffn_width": 12,
        "vocab_size": 64,
    }
    return tiny(num_layers=num_layers, **size)


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
    config = FedFM(**SMALL, layers=layers)
    cached, uncached = (
        World(config, backbone(6), root, encode=encode, prefix_cache=cache)
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
        assert cached.prepared.path == uncached.prepared.path == "full"
    with_cache = cached.result()
    assert moved(cached, with_cache[0]) > 1e-3
    close(with_cache, uncached.result())


@pytest.mark.parametrize("encode", ["once", "per_client"])
def test_the_cache_before_the_last_map_changes_nothing(encode, root):
    config = FedFM(**SMALL, layers=1, targets=("ffn/down",))
    cached, uncached = (
        World(config, backbone(6), root, encode=encode, prefix_cache=cache)
        for cache in (True, False)
    )
    assert (cached.prepared.path, uncached.prepared.path) == ("last_map", "suffix")
    assert cached.frozen["text"]["lists"].values.shape[1] == 8 + 12
    with_cache = cached.result()
    assert moved(cached, with_cache[0]) > 1e-3
    close(with_cache, uncached.result())


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_cache_changes_nothing_on_minilm(layers, minilm, root):
    from fedjax_rec.backbones import load_backbone

    config = FedFM(**{**SMALL, "dim": 8}, layers=layers)
    train = interactions(30)
    model = load_backbone(minilm)
    results = []
    for cache in (True, False):
        world = World(config, model, root, train=train, prefix_cache=cache)
        assert world.prepared.lifted
        results.append(world.result())
        assert moved(world, results[-1][0]) > 1e-4
    close(*results)


LIFTED = {
    "lora, per row": {"aggregation": "per_row", "id_residual": True},
    "prefix, uniform, epochs": {
        "adapter": "prefix",
        "aggregation": "uniform",
        "shared_steps": "once",
        "local_epochs": 3,
    },
    "bottleneck, sum": {"adapter": "bottleneck", "aggregation": "sum", "loss": "bce"},
    "embedding, ids, epochs, query": {
        "adapter": "embedding",
        "id_residual": True,
        "item_lr_scale": 2.0,
        "shared_steps": "once",
        "local_epochs": 2,
        "query": 0.5,
        "aggregation": "per_row_uniform",
    },
    "none, both": {"adapter": "none", "users": "both", "history": 3},
    "fixed head": {"fixed": ("head",), "loss": "bpr"},
}


@pytest.mark.parametrize("name", LIFTED)
def test_encoding_once_equals_encoding_per_client(name, root):
    config = FedFM(**{**SMALL, **LIFTED[name]})
    once = World(config, backbone(), root, encode="once")
    per_client = World(config, backbone(), root, encode="per_client")
    assert once.recipe.lifted
    assert not per_client.recipe.lifted
    got = once.result()
    close(got, per_client.result())
    start = once.start.shared["head"]["w"]
    still = float(jnp.abs(got[0]["head"]["w"] - start).max()) == 0
    assert still == ("fixed" in name)


# Numbers that occur nowhere else, so that a shape tells what an array is.
WIDTH, FFN, RANK = 44, 92, 3


@functools.cache
def program(root, encode):
    model = tiny(width=WIDTH, ffn_width=FFN, num_layers=2, vocab_size=113)
    config = FedFM(**{**SMALL, "rank": RANK, "dim": 6}, layers=0)
    world = World(config, model, root, encode=encode)
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
        pairs = max(SIZES) * (1 + world.recipe.negatives)
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
        (
            {"layers": 3},
            {},
            r"algorithm.layers=3: tiny has 2 layers",
        ),
        (
            {"dim": 9},
            {},
            r"algorithm.dim=9: expected at most 8, for 13 texts of width 8",
        ),
        (
            {"personal": ("lora_b", "haed")},
            {},
            "unknown groups: haed; expected some of common, head, lora_a, lora_b$",
        ),
        (
            {"personal": ("lora_b",)},
            {"encode": "once"},
            "execution.encode='once' is not exact: lora_b differ",
        ),
        ({"local_epochs": 2}, {"encode": "once"}, "more than one step of plain SGD"),
        ({"client_optimizer": "adam"}, {"encode": "once"}, "one step of plain SGD"),
        (
            {"batch_size": 6},
            {"encode": "once"},
            "the largest client's 12 pairs are more than one batch of 6",
        ),
        ({}, {"encode": "once", "tuned": True}, "their own tuned parameters"),
        ({"targets": ("attention/qeury",)}, {}, "attention/qeury"),
    ],
)
def test_teaching_errors(fields, options, message, root):
    with pytest.raises(ValueError, match=message):
        World(FedFM(**{**SMALL, **fields}), backbone(), root, **options)


def test_what_contradicts_itself_is_refused_at_once():
    with pytest.raises(ValueError, match="keeps nothing else personal"):
        FedFM(shared_steps="once", personal=("head",))
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        FedFM(query=1.0)
    nothing: Any
    for nothing in ({"history": 0}, {"history_heads": 0}):
        with pytest.raises(ValueError, match="needs items and heads of attention"):
            FedFM(users="both", **nothing)
        FedFM(users="vector", **nothing)


def test_the_path_is_chosen_and_told(root):
    def chosen(pairs_a_round=1e9, **fields):
        config = FedFM(**{**SMALL, **fields})
        return World(config, backbone(), root, pairs_a_round=pairs_a_round).prepared

    suffix = chosen(layers=1)
    assert (suffix.path, suffix.lifted) == ("suffix", True)
    assert "lora in the last 1 of 2 layers" in suffix.why[0]
    assert "encoded once a round for all clients (13 texts" in suffix.why[1]
    few = chosen(pairs_a_round=12)
    assert not few.lifted
    assert "a cohort's 12 pairs are fewer than the 13 items" in few.why[1]
    assert chosen(layers=0).path == "full"
    last = chosen(layers=1, targets=("ffn/down",))
    assert last.path == "last_map"
    assert "lora in the last linear map of 2 layers" in last.why[0]
    assert chosen(layers=2, targets=("ffn/down",)).path == "full"
    for layers in (0, 1):  # all there are
        config = FedFM(**SMALL, layers=layers, targets=("ffn/down",))
        world = World(config, backbone(1), root)
        assert world.prepared.path == "last_map"
        assert moved(world, world.result()[0]) > 1e-3
    assert chosen(layers=1, targets=("ffn/*",)).path == "suffix"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_backbone, "MOST_STATES", 1000)
        assert chosen(layers=1, targets=("ffn/down",)).path == "suffix"
    embedding = chosen(adapter="embedding", layers=0)
    assert embedding.path == "embedding"
    assert set(embedding.frozen) == {"embedding"}
    assert embedding.facts["adapter_parameters"] == 2 * 8 * 2
    # Two maps of one layer, A and B each.
    assert suffix.facts["adapter_parameters"] == 2 * 2 * 8 * 2
    assert suffix.facts["adapter_bits"] == 32 * 64
