"""Outputs of frozen layers over a catalog, computed once and cached on disk.

Neither texts nor the layers below the trained ones change. Their output for every token
of every text, or the pooled vector if no layer is trained, is computed once in packed
rows and read from then on.
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fedjax_rec.backbones.pass_over import Step, pass_over
from fedjax_rec.backbones.shards import Contents, load_or_compute
from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Backbone, Layout
from fedjax_rec.core.packing import Lists
from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.sources import code_of, package_sources

_SHARD_BYTES = 64 << 20
_BAR_AFTER_S = 2
_POOLED = "pooled"


def build_prefix(
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    depth: int,
    *,
    to_last_map: bool = False,
    **options: Any,
) -> Lists:
    """Computes the hidden state of every token after the first `depth` layers.

    Args:
        backbone: pure functions.
        weights: their array tree.
        tokens: tokens of the texts, values `[n + 1]` int32.
        depth: number of layers to run; 0 gives the embeddings.
        to_last_map: run the last of these layers only up to its last linear map, by
            `Backbone.last`.
        **options: `root` and others, as in `compute_or_load`.

    Returns:
        Lists of hidden states, values `[n + 1, D]` of the backbone's type; with
        `to_last_map` lists of states, values `[n + 1, S]`.

    Raises:
        FileError: `depth` is out of range, the backbone has no `last`, a text is
            too long for the backbone, or `root` cannot be written.
    """
    last = backbone.last
    if not 0 <= depth <= backbone.num_layers:
        raise FileError(
            f"depth {depth}",
            file=backbone.name,
            expected=f"0 to {backbone.num_layers}, its layers",
        )
    if to_last_map and (depth == 0 or last is None):
        raise FileError(
            f"depth {depth} to the last map",
            file=backbone.name,
            expected="at least one layer, and a backbone that defines `last`",
        )

    def step(weights: Tree, rows: Array, layout: Layout, num_texts: int) -> Array:
        hidden = backbone.embed(weights, rows, layout)
        if depth == 0:
            return hidden
        if not to_last_map or last is None:
            return backbone.run(weights["layers"], hidden, layout, None, None)
        below = jax.tree.map(lambda leaf: leaf[: depth - 1], weights["layers"])
        top = jax.tree.map(lambda leaf: leaf[depth - 1 : depth], weights["layers"])
        hidden = backbone.run(below, hidden, layout, None, None)
        return last.before(top, hidden, layout)

    # The other layers need not go to the devices.
    layers = jax.tree.map(lambda leaf: leaf[:depth], weights["layers"])
    weights = {**weights, "layers": layers}
    output = f"to the last map of {depth}" if to_last_map else depth
    parts = compute_or_load(step, backbone, weights, tokens, output, **options)
    end = np.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    lengths = np.asarray(tokens.length, np.int64)
    return packing.with_lengths(np.concatenate([*parts, end]), lengths)


def build_embeddings(
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    **options: Any,
) -> np.ndarray:
    """Computes the vector that the whole backbone gives each text.

    Args:
        backbone: pure functions.
        weights: their array tree.
        tokens: tokens of the texts, values `[n + 1]` int32.
        **options: as in `build_prefix`.

    Returns:
        `[I, D]`; zeros for a text without tokens.

    Raises:
        FileError: a text is too long for the backbone, or `root` cannot be written.
    """

    def step(weights: Tree, rows: Array, layout: Layout, num_texts: int) -> Array:
        hidden = backbone.embed(weights, rows, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, None, None)
        return backbone.pool(weights, hidden, layout, num_texts)

    parts = compute_or_load(step, backbone, weights, tokens, _POOLED, **options)
    return np.concatenate(parts)


def compute_or_load(
    step: Step,
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    output: int | str,
    *,
    root: Path | None,
    progress: bool = False,
    rows_per_step: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> list[np.ndarray]:
    """Outputs for all texts, one array a shard, computed if not cached.

    Args:
        step: the outputs of packed rows.
        backbone: pure functions.
        weights: their array tree.
        tokens: tokens of the texts, values `[n + 1]` int32.
        output: name of the outputs in the cache.
        root: results are cached in `root / "prefix"`, unless it is `None` or code of
            the backbone has no file.
        progress: whether to show a progress bar on stderr for work of more than two
            seconds.
        rows_per_step: packed rows of one call to the devices; by default few on a CPU
            and many elsewhere.
        shard_bytes: approximate size of a file.
    """
    contents = _contents(step, backbone, weights, tokens, output, shard_bytes)
    pooled = output == _POOLED

    def compute(missing: list[int]) -> Iterator[np.ndarray]:
        bounds = [contents.bounds[shard] for shard in missing]
        # The loop owns the bar, so that it closes if the loop stops early.
        with tqdm(
            total=sum(last - first for first, last in bounds),
            desc=f"{backbone.name}, {'embeddings' if pooled else f'{output} layers'}",
            unit=" texts",
            disable=not progress,
            delay=_BAR_AFTER_S,
            dynamic_ncols=True,
        ) as bar:
            yield from pass_over(
                step,
                weights,
                tokens,
                bounds,
                each="text" if pooled else "token",
                out=jax.ShapeDtypeStruct((contents.width,), contents.dtype),
                rows_per_step=rows_per_step,
                advance=bar.update,
            )

    unknown = code_of(tuple(backbone)) is None
    folder = None if root is None or unknown else Path(root) / "prefix"
    return load_or_compute(contents, folder, compute)


def _contents(
    step: Step,
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    output: int | str,
    shard_bytes: int,
) -> Contents:
    """Identity, shape and type of the outputs, and their cuts into shards."""
    lengths = np.asarray(tokens.length, np.int64)
    longest = int(lengths.max(initial=0))
    if longest > backbone.max_tokens:
        raise FileError(
            f"{longest} tokens in text {int(lengths.argmax())}",
            file=backbone.name,
            expected=f"at most {backbone.max_tokens}",
            fix="Use the backbone's own tokenize, which cuts long texts",
        )
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    out: Any = jax.eval_shape(
        lambda weights, row: step(weights, row, Layout(segment=row, position=row), 1),
        weights,
        row,
    )
    width, dtype = out.shape[-1], out.dtype
    sizes = np.ones_like(lengths) if output == _POOLED else lengths
    per_shard = max(1, shard_bytes // (width * dtype.itemsize))
    # A text is never split: it belongs to the shard of its last row.
    cuts = np.flatnonzero(np.diff((np.cumsum(sizes) - 1) // per_shard)) + 1
    bounds = list(itertools.pairwise([0, *cuts.tolist(), len(sizes)]))
    digest = hashlib.sha256(lengths.astype("<i8").tobytes())
    digest.update(np.asarray(tokens.values).astype("<i4").tobytes())
    return Contents(
        about={
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "code": [package_sources("backbones", "core"), code_of(tuple(backbone))],
            "jax": [
                jax.__version__,
                jax.default_backend(),
                str(jax.config.values["jax_default_matmul_precision"]),
            ],
            "tokens": digest.hexdigest(),
            "output": output,
            "shard_bytes": shard_bytes,
        },
        width=width,
        dtype=dtype,
        bounds=bounds,
        rows=[int(sizes[first:last].sum()) for first, last in bounds],
    )
