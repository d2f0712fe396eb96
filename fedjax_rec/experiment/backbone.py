"""From an experiment's backbone and catalog to what its clients start from."""

import dataclasses
import logging
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.algorithms import lora_rules
from fedjax_rec.algorithms.fedfm import ADAPTER_GROUPS, FedFM, ItemTexts
from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone, Layout
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import Split
from fedjax_rec.data.texts import default_template, item_texts, load_notes
from fedjax_rec.models.adapters import LORA_BASE, describe
from fedjax_rec.models.item_tower import adapted_tower, cached_tower
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.errors import Unreachable

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The frozen foundation model, and the texts it reads; for `FedFM`.

    Attributes:
        name: `minilm` (all-MiniLM-L6-v2, fetched once), `tiny` (random, for tests), or
            a name of the Hugging Face hub, where that can be reached.
        path: a local folder in Hugging Face's layout, in place of `name`.
        or_tiny: take `tiny`, and say so in the report, where `name` has to be fetched
            and cannot be.
        dtype: of its weights and activations.
        max_tokens: longer texts are cut; 0 is what the checkpoint says.
        template: an item's text, such as `{title}[. Genres: {genres}]`; by default the
            data set's own.
        notes: table of free texts (`item,text`) for the template's `{note}`.
        shuffle_texts: a control: every item gets another one's text.
        cache: where prefix caches are kept; by default as for the data.
    """

    name: str = "minilm"
    path: str | None = None
    or_tiny: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_tokens: int = 64
    template: str = ""
    notes: str | None = None
    shuffle_texts: bool = False
    cache: str | None = None


MOST_STATES = 1 << 30
"""Bytes of what is kept of all tokens before the last linear map, which takes several
times as much as a layer's hidden states; beyond, those are kept."""

RIDGE = 5.0
"""Of the whitening (`principal`); ridge regression with penalty 10 on ML-100K."""


class Prepared(NamedTuple):
    """What a `FedFM` is built on.

    Attributes:
        texts: the catalog behind the backbone.
        frozen: arrays that no client trains.
        lifted: whether rounds train through the table of all items' vectors.
        path: `full`, `suffix`, `last_map` or `embedding`.
        why: sentences on the path that was chosen.
        facts: about the backbone and the texts, for the result.
    """

    texts: ItemTexts
    frozen: Tree
    lifted: bool
    path: str
    why: tuple[str, ...]
    facts: dict[str, Any]


def load_texts(config: BackboneConfig, data: Interactions) -> list[str]:
    """One text an item `[I]`, by the template."""
    notes = load_notes(config.notes) if config.notes else None
    template = config.template or default_template(data)
    texts = item_texts(data.items, template, notes)
    if config.shuffle_texts:
        order = np.random.default_rng(0).permutation(len(texts))
        texts = [texts[i] for i in order]
    return texts


def load_model(config: BackboneConfig, progress: bool) -> tuple[Backbone, Tree, str]:
    """The backbone, its weights, and a warning where `tiny` stands in for it."""
    from fedjax_rec.backbones import load_backbone

    options: dict[str, Any] = {
        "dtype": config.dtype,
        "max_tokens": config.max_tokens or None,
        "cache": config.cache,
        "progress": progress,
    }
    try:
        return *load_backbone(config.path or config.name, **options), ""
    except Unreachable as error:
        if not config.or_tiny:
            raise
        warning = (
            f"tiny stands in for {config.name}, which could not be fetched; its "
            f"figures say nothing about {config.name}. {error}"
        )
    _LOG.warning("%s", warning)
    return *load_backbone("tiny", **options), warning


def text_embeddings(
    config: BackboneConfig, data: Interactions, progress: bool = False
) -> np.ndarray:
    """`[I, D]` float32: the frozen backbone's vectors of all items' texts."""
    from fedjax_rec.backbones.prefix import build_embeddings

    backbone, weights, _ = load_model(config, progress)
    tokens = packing.make_lists(backbone.tokenize(load_texts(config, data)))
    root = cache_root(config.cache)
    found = build_embeddings(backbone, weights, tokens, root=root, progress=progress)
    return found.astype(np.float32)


def prepare(
    config: BackboneConfig,
    algorithm: FedFM,
    split: Split,
    *,
    pool: np.ndarray | None,
    largest: int,
    pairs_a_round: float,
    tuned: bool,
    encode: str = "auto",
    prefix_cache: bool = True,
    progress: bool = False,
) -> Prepared:
    """Reads the texts, runs what is frozen once, and chooses the path.

    Args:
        config: the backbone and the texts.
        algorithm: says what is trained.
        split: whose items these are; histories are of its train part (and of the query
            part of cold users).
        pool: items that training may see; `None` is all.
        largest: interactions of the largest client.
        pairs_a_round: of the expected cohort.
        tuned: clients are evaluated with their own parameters.
        encode: `auto`, `once` or `per_client`, see `Execution`.
        prefix_cache: whether layers before the adapted ones are run once.
        progress: bars on stderr.

    Raises:
        ValueError: the algorithm does not fit the backbone.
        fedjax_rec.storage.errors.FileError: the backbone cannot be had.
    """
    from fedjax_rec.backbones.prefix import build_embeddings, build_prefix

    train = split.train
    texts = load_texts(config, train)
    backbone, weights, warning = load_model(config, progress)
    root = cache_root(config.cache)
    tokens = packing.make_lists(backbone.tokenize(texts))
    total = backbone.num_layers
    if algorithm.in_layers and algorithm.layers > total:
        raise ValueError(
            f"algorithm.layers={algorithm.layers}: {backbone.name} has {total} layers"
        )
    k = (algorithm.layers or total) if algorithm.in_layers else 0
    embedding = build_embeddings(
        backbone, weights, tokens, root=root, progress=progress
    )
    embedding = embedding.astype(np.float32)
    known = np.arange(train.num_items) if pool is None else pool
    projection, center = principal(embedding[known], algorithm.dim)
    lengths = np.asarray(tokens.length)
    longest = int(lengths.max())
    adapter, net = algorithm.make_adapter(), algorithm.make_embedding_adapter()
    key = jax.random.key(0)
    groups: Any = {}
    if adapter is not None:
        groups = jax.eval_shape(lambda: adapter.init(key, backbone, k, jnp.float32))
    elif net is not None:
        groups = jax.eval_shape(lambda: net.init(key, backbone.width, jnp.float32))
    path = "embedding" if not k else "full" if k == total else "suffix"
    if k == 1 and prefix_cache and _in_last_map(backbone, weights, groups, lengths):
        path = "last_map"
    once, why_once = _once(algorithm, largest, pairs_a_round, len(texts), tuned, encode)
    frozen: dict[str, Any] = {}
    if not k or algorithm.users != "vector":
        frozen["embedding"] = jnp.asarray(embedding)
    if algorithm.users != "vector":
        frozen["history"] = jnp.asarray(histories(split, algorithm.history))
    if k:
        lists, kept = tokens, {n: weights[n] for n in ("embeddings",) if n in weights}
        if path == "last_map" or (k < total and prefix_cache):
            kept = {}
            lists = build_prefix(
                backbone,
                weights,
                tokens,
                total if path == "last_map" else total - k,
                to_last_map=path == "last_map",
                root=root,
                progress=progress,
            )
        elif k < total:
            kept["before"] = jax.tree.map(lambda x: x[: total - k], weights["layers"])
        kept["layers"] = jax.tree.map(lambda x: x[total - k :], weights["layers"])
        kept["head"] = weights["head"]
        frozen["text"] = {
            "lists": lists,
            "plan": packing.plan(lengths, ids=None),
            "weights": kept,
        }
    batch = max(1, algorithm.batch_size // (1 + algorithm.negatives))
    batch = min(batch, largest) * (1 + algorithm.negatives)

    def tower(adapter):
        if adapter is None:
            return cached_tower(backbone.width)
        return adapted_tower(
            backbone,
            adapter,
            k,
            from_last_map=path == "last_map",
            width=packing.fold_width(lengths, batch, min(4, batch)),
            per_row=min(4, batch),
            longest=longest,
        )

    size = describe({n: g for n, g in groups.items() if n != LORA_BASE})["total"]
    whole = describe({"": weights})["total"]
    layers = describe({"": weights["layers"]})["total"]["parameters"]
    facts = {
        "name": backbone.name,
        "fingerprint": backbone.fingerprint,
        "stands_in": bool(warning),
        "warning": warning,
        "layers": total,
        "width": backbone.width,
        "dtype": config.dtype,
        "texts": len(texts),
        "tokens": int(lengths.sum()),
        "shuffled": config.shuffle_texts,
        "path": path,
        "once": once,
        "adapter": algorithm.adapter,
        "adapter_layers": k,
        "adapter_parameters": size["parameters"],
        "adapter_bits": size["bits"],
        # What a client's device would hold and compute: all layers forward, and
        # backward through those with adapters, 2 operations a weight and token each;
        # the gradient of the activations alone, since weights are frozen.
        "weight_bytes": whole["bits"] // 8,
        "pair_flops": 2 * layers * (1 + k / total) * float(lengths.mean()),
    }
    return Prepared(
        texts=ItemTexts(
            tower=tower, projection=jnp.asarray(projection), center=jnp.asarray(center)
        ),
        frozen=frozen,
        lifted=once,
        path=path,
        why=(
            _why_path(path, k, total, algorithm, int(lengths.sum()), prefix_cache),
            why_once,
        ),
        facts=facts,
    )


def principal(embedding: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal axes of a catalog, whitened as ridge regression would.

    In `z = W^T (e - mean)`, with axes scaled by `1 / sqrt(s^2 / I + floor)`, a user's
    vector one gradient step from zero is that user's ridge regression on the
    embeddings, of penalty `I floor`. The floor is `RIDGE` times the mean variance of
    an axis.

    Args:
        embedding: `[I, D]`.
        dim: `d`.

    Returns:
        `[D, d]` and the mean `[D]`, float32.

    Raises:
        ValueError: there are fewer than `d` axes.
    """
    center = embedding.mean(0)
    if dim > min(embedding.shape):
        raise ValueError(
            f"algorithm.dim={dim}: expected at most {min(embedding.shape)}, for "
            f"{embedding.shape[0]} texts of width {embedding.shape[1]}"
        )
    _, scale, axes = np.linalg.svd(embedding - center, full_matrices=False)
    variance = scale**2 / len(embedding)
    floor = RIDGE * variance.sum() / embedding.shape[1]
    signs = np.sign(axes[:dim].sum(1, keepdims=True))  # SVD leaves them open
    axes = axes[:dim] * np.where(signs == 0, 1, signs)
    axes /= np.sqrt(variance[:dim, None] + floor)
    # So that vectors have about norm 1.
    axes /= np.sqrt(np.sum(variance[:dim] / (variance[:dim] + floor)))
    return axes.T.astype(np.float32), center


def histories(split: Split, length: int) -> np.ndarray:
    """`[U, L]` int32: what each user did last in training, latest first, padded `I`.

    For users held out whole (`cold_users`) it is the query part of the split.
    """
    parts = [split.train]
    if isinstance(split.info.get("query"), Interactions):
        parts.append(split.info["query"])
    found = np.full((split.train.num_users, length), split.train.num_items, np.int32)
    for part in parts:
        offsets = part.offsets()
        rank = offsets[part.user + 1] - 1 - np.arange(len(part))
        last = rank < length
        found[part.user[last], rank[last]] = part.item[last]
    return found


def _in_last_map(
    backbone: Backbone, weights: Tree, groups: dict[str, Tree], lengths: np.ndarray
) -> bool:
    """Whether nothing before a layer's last map trains, and its states can be kept."""
    last = backbone.last
    if last is None or set(groups.get("lora_a", ())) != {last.site}:
        return False
    before = last.before

    def states(weights: Tree, row) -> Any:
        layout = Layout(segment=row, position=row)
        one = jax.tree.map(lambda x: x[-1:], weights["layers"])
        return before(one, backbone.embed(weights, row, layout), layout)

    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    one = jax.eval_shape(states, weights, row)
    return int(lengths.sum()) * one.size * one.dtype.itemsize <= MOST_STATES


def _once(
    algorithm: FedFM, largest: int, pairs: float, items: int, tuned: bool, encode: str
) -> tuple[bool, str]:
    """Whether items are encoded once a round for all clients, and why."""
    group = 1 + algorithm.negatives
    kept = sorted(set(ADAPTER_GROUPS) & set(algorithm.personal))
    obstacles = []
    if kept:
        obstacles.append(f"{', '.join(kept)} differ from client to client")
    if not lora_rules.aggregator(algorithm).linear:
        obstacles.append(
            f"aggregation={algorithm.aggregation!r} with lora_aggregation="
            f"{algorithm.lora_aggregation!r} reads what each client sends"
        )
    elif algorithm.control != "none":
        obstacles.append(f"control={algorithm.control!r} corrects each client's steps")
    elif not algorithm.linear:
        obstacles.append("clients take more than one step of plain SGD on shared parts")
    elif (
        algorithm.shared_steps == "every"
        and max(1, algorithm.batch_size // group) < largest
    ):
        obstacles.append(
            f"the largest client's {largest * group:,} pairs are more than one batch "
            f"of {algorithm.batch_size:,}"
        )
    if tuned:
        obstacles.append("clients are evaluated with their own tuned parameters")
    if encode == "once" and obstacles:
        raise ValueError(
            f"execution.encode='once' is not exact: {'; '.join(obstacles)}"
        )
    if obstacles:
        return False, f"each client encodes its own items: {'; '.join(obstacles)}"
    if encode == "per_client":
        return False, "each client encodes its own items, as asked for"
    if encode == "auto" and pairs < items:
        return False, (
            f"each client encodes its own items: a cohort's {pairs:,.0f} pairs are "
            f"fewer than the {items:,} items"
        )
    return True, (
        f"items are encoded once a round for all clients ({items:,} texts for "
        f"{pairs:,.0f} pairs): exact, since each client takes one step of plain SGD on "
        "the shared parts and their mean is linear"
    )


def _why_path(path, k, total, algorithm: FedFM, tokens: int, prefix_cache: bool) -> str:
    if path == "embedding":
        return (
            f"path embedding: nothing inside the {total} layers trains, so every "
            "text's embedding is cached"
        )
    if path == "last_map":
        return (
            f"path last_map: {algorithm.adapter} in the last linear map of {total} "
            f"layers; what comes before it is cached for {tokens:,} tokens"
        )
    if path == "full":
        return f"path full: {algorithm.adapter} in all {total} layers, nothing to cache"
    if not prefix_cache:
        return f"path suffix, uncached as asked for: all {total} layers run every time"
    return (
        f"path suffix: {algorithm.adapter} in the last {k} of {total} layers; what the "
        f"{total - k} before them say of {tokens:,} tokens is cached"
    )
