"""How texts reach the trained parts of a model, cached below the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import batch_packing, packing
from fedjax_rec.core.backbone import LORA_A, LORA_BASE, Backbone, Layout
from fedjax_rec.data.splits.split import histories
from fedjax_rec.models.adapters.describe import describe
from fedjax_rec.models.item_tower import ItemTower, adapted_tower, cached_tower
from fedjax_rec.models.start import principal

if TYPE_CHECKING:
    from fedjax_rec.algorithms.fedfm import FedFM
    from fedjax_rec.core.arrays import Array, Tree
    from fedjax_rec.core.context import Context, Corpus

MAX_STATE_BYTES = 1 << 30
"""Largest cache of token states before the last linear map, which are several times as
large as a layer's hidden states; beyond it, those are cached."""


class TextPath(NamedTuple):
    """A catalog behind a backbone.

    Attributes:
        name: `full`, `suffix`, `last_map` or `embedding`.
        tower: items as vectors.
        net: the trained net on the embedding, or `None`.
        projection: `[D, d]`, first value of the map to the vectors' space.
        center: `[D]`, the mean embedding.
        frozen: arrays that no client trains.
        fixed: groups of the adapter that no client trains.
        why: sentence about the path.
        facts: about backbone and adapter, for `result.json`; `weight_bytes` of all
            weights, and `pair_flops`, the operations of a pair.
    """

    name: str
    tower: ItemTower
    projection: Array
    center: Array
    net: Any = None
    frozen: Tree = {}  # noqa: RUF012
    fixed: tuple[str, ...] = ()
    why: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012


def lifted_path(width: int, dim: int) -> TextPath:
    """The path of lifted parameters, which hold all items' vectors as a table.

    Args:
        width: length of an embedding, `D`.
        dim: length of an item's vector, `d`.
    """
    return TextPath(
        name="embedding",
        tower=cached_tower(),
        projection=jnp.zeros((width, dim)),
        center=jnp.zeros(width),
    )


class _Adapted(NamedTuple):
    """The adapter of an algorithm on a backbone.

    Attributes:
        adapter: inside the layers, or `None`.
        net: on the final embedding, or `None`.
        layers: number of layers with an adapter, `k`.
        groups: shapes of its parameters.
    """

    adapter: Any
    net: Any
    layers: int
    groups: dict[str, Any]


def choose(algorithm: FedFM, context: Context) -> TextPath:
    """Reads the texts, runs the frozen layers once, and chooses the path.

    Raises:
        ValueError: the data have no texts, or the algorithm does not fit the backbone.
        fedjax_rec.storage.errors.FileError: the backbone cannot be loaded.
    """
    corpus = context.corpus
    if corpus is None:
        raise ValueError("FedFM reads the items' texts, and there is no corpus")
    adapted = _adapted(algorithm, corpus, context.lora_base)
    embedding = corpus.embeddings()
    known = np.arange(context.num_items) if context.pool is None else context.pool
    projection, center = principal(embedding[known], algorithm.dim)
    frozen: dict[str, Any] = {}
    with_history = algorithm.users.kind != "vector"
    if not adapted.layers or with_history:
        frozen["embedding"] = jnp.asarray(embedding)
    if with_history:
        frozen["history"] = jnp.asarray(
            histories(context.split, algorithm.users.length)
        )
    name = _name(corpus, adapted)
    tower = cached_tower()
    if adapted.layers:
        frozen["text"] = _frozen_text(corpus, adapted, name)
        tower = _tower(algorithm, context, adapted, name)
    facts = _facts(corpus, adapted, algorithm.adapter, name)
    return TextPath(
        name=name,
        tower=tower,
        net=adapted.net,
        projection=jnp.asarray(projection),
        center=jnp.asarray(center),
        frozen=frozen,
        fixed=tuple({LORA_BASE} & set(adapted.groups)),
        why=_why(corpus, adapted, name, facts),
        facts=facts,
    )


def _adapted(algorithm: FedFM, corpus: Corpus, lora_base: bool) -> _Adapted:
    settings, model = algorithm.adapter, corpus.backbone
    if settings is None:
        return _Adapted(None, None, 0, {})
    key = jax.random.key(0)
    if not settings.in_layers:
        net = settings.build()
        groups = jax.eval_shape(lambda: net.init(key, model.width, jnp.float32))
        return _Adapted(None, net, 0, groups)
    if settings.layers > model.num_layers:
        raise ValueError(
            f"adapter.layers={settings.layers}: {model.name} has {model.num_layers} "
            "layers"
        )
    layers = settings.layers or model.num_layers
    adapter = settings.build(base=lora_base)
    groups = jax.eval_shape(lambda: adapter.init(key, model, layers, jnp.float32))
    return _Adapted(adapter, None, layers, groups)


def _name(corpus: Corpus, adapted: _Adapted) -> str:
    if not adapted.layers:
        return "embedding"
    if adapted.layers == 1 and corpus.prefix_cache and _in_last_map(corpus, adapted):
        return "last_map"
    return "full" if adapted.layers == corpus.backbone.num_layers else "suffix"


def _in_last_map(corpus: Corpus, adapted: _Adapted) -> bool:
    """Whether only a layer's last map trains, and the states before it fit."""
    last = corpus.backbone.last
    if last is None or set(adapted.groups.get(LORA_A, ())) != {last.site}:
        return False
    model: Backbone = corpus.backbone

    def states(weights: Tree, row) -> Any:
        layout = Layout(segment=row, position=row)
        one = jax.tree.map(lambda x: x[-1:], weights["layers"])
        return last.before(one, model.embed(weights, row, layout), layout)

    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    one = jax.eval_shape(states, corpus.weights, row)
    tokens = int(np.asarray(corpus.tokens.length).sum())
    return tokens * one.size * one.dtype.itemsize <= MAX_STATE_BYTES


def _frozen_text(corpus: Corpus, adapted: _Adapted, name: str) -> dict[str, Any]:
    """Token lists, the catalog in packed rows, and the weights that still run."""
    weights, k = corpus.weights, adapted.layers
    total = corpus.backbone.num_layers
    lists, run = corpus.tokens, {n: x for n, x in weights.items() if n != "layers"}
    head = {n: x for n, x in run.items() if n == "head"}
    if name == "last_map":
        lists, run = corpus.hidden(total, to_last_map=True), head
    elif k < total and corpus.prefix_cache:
        lists, run = corpus.hidden(total - k), head
    elif k < total:
        run["before"] = jax.tree.map(lambda x: x[: total - k], weights["layers"])
    run["layers"] = jax.tree.map(lambda x: x[total - k :], weights["layers"])
    plan = packing.plan(np.asarray(corpus.tokens.length), ids=None)
    return {"lists": lists, "plan": plan, "weights": run}


def _tower(
    algorithm: FedFM, context: Context, adapted: _Adapted, name: str
) -> ItemTower:
    corpus = context.corpus
    assert corpus is not None
    lengths = np.asarray(corpus.tokens.length)
    group = 1 + algorithm.negatives
    batch = max(1, algorithm.batch_size // group)
    batch = min(batch, int(context.examples.max())) * group
    return adapted_tower(
        corpus.backbone,
        adapted.adapter,
        adapted.layers,
        from_last_map=name == "last_map",
        width=batch_packing.fold_width(lengths, batch, min(4, batch)),
        per_row=min(4, batch),
        longest=int(lengths.max()),
    )


def _facts(
    corpus: Corpus, adapted: _Adapted, settings: Any, name: str
) -> dict[str, Any]:
    trained = {n: g for n, g in adapted.groups.items() if n != LORA_BASE}
    size, weights = describe(trained), describe(corpus.weights)
    layers = describe(corpus.weights["layers"])["parameters"]
    share = adapted.layers / corpus.backbone.num_layers
    tokens = float(np.asarray(corpus.tokens.length).mean())
    return {
        **corpus.facts,
        "path": name,
        "adapter": "none" if settings is None else settings.kind,
        "adapter_layers": adapted.layers,
        "adapter_parameters": size["parameters"],
        "adapter_bits": size["bits"],
        # Memory and compute of a client's device: all layers forward, and
        # backward through those with adapters, 2 operations a weight and token each;
        # the gradient of the activations only, since weights are frozen.
        "weight_bytes": weights["bits"] // 8,
        "pair_flops": 2 * layers * (1 + share) * tokens,
    }


def _why(corpus: Corpus, adapted: _Adapted, name: str, facts: dict[str, Any]) -> str:
    k, total = adapted.layers, corpus.backbone.num_layers
    adapter, tokens = facts["adapter"], facts["tokens"]
    if name == "embedding":
        return (
            f"path embedding: no parameter inside the {total} layers trains, so every "
            "text's embedding is cached"
        )
    if name == "last_map":
        return (
            f"path last_map: {adapter} in the last linear map of {total} layers; the "
            f"states before it are cached for {tokens:,} tokens"
        )
    if name == "full":
        return f"path full: {adapter} in all {total} layers, without a cache"
    if not corpus.prefix_cache:
        return f"path suffix, uncached as asked for: all {total} layers run every time"
    return (
        f"path suffix: {adapter} in the last {k} of {total} layers; the output of the "
        f"{total - k} before them is cached for {tokens:,} tokens"
    )
