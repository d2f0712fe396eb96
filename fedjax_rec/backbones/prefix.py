"""What frozen layers say of a catalog, computed once and kept on disk.

Texts do not change, and the layers below the trained ones do not either: their output
for every token of every text (or the pooled vector, where nothing in the stack is
trained) is computed once, in packed rows, and read from then on.
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

from fedjax_rec.backbones.pass_over import Step, sweep
from fedjax_rec.backbones.shards import Contents, kept
from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Backbone, Layout
from fedjax_rec.core.packing import Lists
from fedjax_rec.storage.errors import FileError

_SHARD_BYTES = 64 << 20
_BAR_AFTER_S = 2


def build_prefix(
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    depth: int,
    *,
    to_last_map: bool = False,
    root: Path | None,
    progress: bool = False,
    rows_per_step: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> Lists:
    """The hidden state of every token after the first `depth` layers.

    Args:
        backbone: the functions.
        weights: their array tree.
        tokens: of the texts, values `[n + 1]` int32.
        depth: how many layers to run; 0 gives the embeddings.
        to_last_map: of the last of these, only what comes before its last linear map
            (`Backbone.last`, which has to be there).
        root: results are kept in, and read from, `root / "prefix"`; `None` keeps
            nothing.
        progress: whether to show a bar on stderr, where there is work of more than two
            seconds.
        rows_per_step: packed rows of one call to the devices; by default few on a CPU
            and many elsewhere.
        shard_bytes: about how large a file gets.

    Returns:
        Lists of hidden states, values `[n + 1, D]` of the type the backbone computes;
        with `to_last_map` of states, `[n + 1, S]`.

    Raises:
        FileError: there are not so many layers, or no last map; a text is too long
            for the backbone, or `root` cannot be written.
    """
    if not 0 <= depth <= backbone.num_layers:
        raise FileError(
            f"depth {depth}",
            file=backbone.name,
            expected=f"0 to {backbone.num_layers}, its layers",
        )

    if to_last_map and (depth == 0 or backbone.last is None):
        raise FileError(
            f"depth {depth} to the last map",
            file=backbone.name,
            expected="at least one layer, of a backbone that tells its last map",
        )

    def step(weights: Tree, rows: Array, layout: Layout, num_texts: int) -> Array:
        del num_texts
        hidden = backbone.embed(weights, rows, layout)
        if depth == 0:
            return hidden
        if not to_last_map or backbone.last is None:
            return backbone.run(weights["layers"], hidden, layout, None, None)
        first, last = (
            jax.tree.map(lambda x, part=part: x[part], weights["layers"])
            for part in (slice(depth - 1), slice(depth - 1, depth))
        )
        hidden = backbone.run(first, hidden, layout, None, None)
        return backbone.last.before(last, hidden, layout)

    # The other layers need not go to the devices.
    layers = jax.tree.map(lambda leaf: leaf[:depth], weights["layers"])
    parts = _computed(
        step,
        backbone,
        {**weights, "layers": layers},
        tokens,
        what=f"to the last map of {depth}" if to_last_map else depth,
        root=root,
        progress=progress,
        rows_per_step=rows_per_step,
        shard_bytes=shard_bytes,
    )
    end = np.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    lengths = np.asarray(tokens.length, np.int64)
    return packing.with_lengths(np.concatenate([*parts, end]), lengths)


def build_embeddings(
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    *,
    root: Path | None,
    progress: bool = False,
    rows_per_step: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> np.ndarray:
    """The vector that the whole backbone gives each text.

    Args:
        backbone: the functions.
        weights: their array tree.
        tokens: of the texts, values `[n + 1]` int32.
        root: as in `build_prefix`, and so are all that follow.
        progress: whether to show a bar.
        rows_per_step: packed rows of one call.
        shard_bytes: about how large a file gets.

    Returns:
        `[I, D]`; zeros for a text without tokens.

    Raises:
        FileError: a text is too long for the backbone, or `root` cannot be written.
    """

    def step(weights: Tree, rows: Array, layout: Layout, num_texts: int) -> Array:
        hidden = backbone.embed(weights, rows, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, None, None)
        return backbone.pool(weights, hidden, layout, num_texts)

    return np.concatenate(
        _computed(
            step,
            backbone,
            weights,
            tokens,
            what="pooled",
            root=root,
            progress=progress,
            rows_per_step=rows_per_step,
            shard_bytes=shard_bytes,
        )
    )


def _computed(
    step: Step,
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    *,
    what: int | str,
    root: Path | None,
    progress: bool,
    rows_per_step: int | None,
    shard_bytes: int,
) -> list[np.ndarray]:
    """The results of all texts, one array a shard; those not on disk are computed."""
    contents = _contents(step, backbone, weights, tokens, what, shard_bytes)
    each = "text" if what == "pooled" else "token"

    def compute(missing: list[int]) -> Iterator[np.ndarray]:
        bounds = [contents.bounds[shard] for shard in missing]
        # The bar belongs to the loop, so that it is gone if that stops half way.
        with tqdm(
            total=sum(last - first for first, last in bounds),
            desc=f"{backbone.name}, {_named(what)}",
            unit=" texts",
            disable=not progress,
            delay=_BAR_AFTER_S,
            dynamic_ncols=True,
        ) as bar:
            yield from sweep(
                step,
                weights,
                tokens,
                bounds,
                each=each,
                out=jax.ShapeDtypeStruct((contents.width,), contents.dtype),
                rows_per_step=rows_per_step,
                advance=bar.update,
            )

    return kept(contents, None if root is None else Path(root) / "prefix", compute)


def _contents(
    step: Step,
    backbone: Backbone,
    weights: Tree,
    tokens: Lists,
    what: int | str,
    shard_bytes: int,
) -> Contents:
    """What the results are of, their type, and how they are cut into shards."""
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
    sizes = np.ones_like(lengths) if what == "pooled" else lengths
    per_shard = max(1, shard_bytes // (width * dtype.itemsize))
    # A text belongs, whole, to the shard that its last result falls in.
    cuts = np.flatnonzero(np.diff((np.cumsum(sizes) - 1) // per_shard)) + 1
    edges = [0, *cuts.tolist(), len(sizes)]
    bounds = list(itertools.pairwise(edges))
    digest = hashlib.sha256(lengths.astype("<i8").tobytes())
    digest.update(np.asarray(tokens.values).astype("<i4").tobytes())
    return Contents(
        about={
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "tokens": digest.hexdigest(),
            "output": what,
            "shard_bytes": shard_bytes,
        },
        width=width,
        dtype=dtype,
        bounds=bounds,
        rows=[int(sizes[first:last].sum()) for first, last in bounds],
    )


def _named(what: int | str) -> str:
    if what == "pooled":
        return "embeddings"
    if isinstance(what, str):
        return f"{what} layers"
    return f"first {what} layers" if what else "token embeddings"
