"""Item vectors: texts through a frozen backbone with an adapter."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core import batch_packing, packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Adapter, Backbone, Layout

_TOKENS_PER_STEP = 8192
"""Tokens of the catalog encoded at once."""
_SAVED_VECTORS, _MEMORY = 24, 2 << 30
"""Approximate number of vectors `[D]` that a layer saves of a token for the backward
pass, and bytes in all beyond which they are recomputed instead."""


class ItemTower(NamedTuple):
    """Functions from items to vectors `[D]`.

    Attributes:
        init: `(key) -> groups`, a dict of trainable groups; empty if there are none.
        batch: `(groups, frozen, ids [P]) -> [P, D]`, for the items of one client.
        catalog: `(groups, frozen, axis=None) -> [I, D]`, for all items at once; the
            devices of a mesh axis, if it is named, share the work.
    """

    init: Callable[[Array], dict[str, Tree]]
    batch: Callable[[dict, Tree, Array], Array]
    catalog: Callable[..., Array]


def cached_tower() -> ItemTower:
    """Precomputed vectors: `frozen["embedding"]`, `[I, D]`."""

    def batch(groups, frozen, ids):
        return frozen["embedding"].at[ids].get(mode="clip")

    return ItemTower(
        init=lambda key: {},
        batch=batch,
        catalog=lambda groups, frozen, axis=None: frozen["embedding"],
    )


def adapted_tower(
    backbone: Backbone,
    adapter: Adapter,
    num_layers: int,
    *,
    from_last_map: bool = False,
    per_row: int = 4,
    width: int,
    longest: int,
    dtype=jnp.float32,
) -> ItemTower:
    """The backbone's last layers with an adapter, on the output of the layers below.

    `frozen["text"]` holds `lists` (`packing.Lists`), the hidden states of each item's
    tokens before those layers, or the tokens if there are no layers below; `plan`, the
    catalog in packed rows; and `weights`, with the last `num_layers` as `layers`. If
    `lists` are tokens although there are layers below, `weights["before"]` holds these,
    and they run each time.

    Args:
        backbone: the frozen model.
        adapter: trained in each of the last layers.
        num_layers: `k`, number of layers that run here.
        from_last_map: run only the last linear map of a single layer and the steps
            after it; the lists hold the output of `Backbone.last.before`.
        per_row: `G`, texts of a client's batch that share a row.
        width: `W` of such a row (`batch_packing.fold_width`).
        longest: tokens of the longest text.
        dtype: type of the adapter's parameters and of the vectors.

    Returns:
        The tower.
    """

    def init(key):
        return adapter.init(key, backbone, num_layers, dtype)

    names = jax.eval_shape(init, jax.random.key(0)).keys()

    def encode(groups, text, values: Array, layout: Layout, num_texts: int) -> Array:
        # Layers slice all they are given: only the adapter's groups have layers.
        groups = {name: groups[name] for name in names}
        weights, hidden = text["weights"], values
        if "embeddings" in weights:
            hidden = backbone.embed(weights, values, layout)
        if "before" in weights:
            hidden = backbone.run(weights["before"], hidden, layout, None, None)
        if from_last_map:
            assert backbone.last is not None
            hidden = backbone.last.after(weights["layers"], hidden, adapter, groups)
        else:
            hidden = backbone.run(weights["layers"], hidden, layout, adapter, groups)
        return backbone.pool(weights, hidden, layout, num_texts).astype(dtype)

    def batch(groups, frozen, ids):
        text = frozen["text"]
        return batch_packing.encode_packed(
            lambda *rows: encode(groups, text, *rows),
            text["lists"],
            ids,
            per_row=min(per_row, ids.shape[0]),
            width=width,
            longest=longest,
        )

    def catalog(groups, frozen, axis=None):
        text = frozen["text"]
        plan, values = text["plan"], text["lists"].values

        def encode_rows(index: Array, segment: Array, position: Array) -> Array:
            layout = Layout(segment=segment, position=position)
            return encode(groups, text, values[index], layout, plan.per_row)

        saved = num_layers * _SAVED_VECTORS * backbone.width * 4
        if plan.index.size * saved > _MEMORY:
            encode_rows = jax.checkpoint(encode_rows)
        return _encode_plan(encode_rows, plan, values.shape[0] - 1, axis)

    return ItemTower(init=init, batch=batch, catalog=catalog)


def _encode_plan(
    encode_rows: Callable[..., Array], plan: packing.Plan, padding: int, axis
) -> Array:
    """Encodes the rows of a plan, some at a time.

    Args:
        encode_rows: `(index [S, W], segment, position) -> [S, G, D]`.
        plan: packed rows of the catalog.
        padding: index of padding.
        axis: mesh axis of devices that share the rows, or `None`.

    Returns:
        `[I, D]`.
    """
    rows, row_width = plan.index.shape
    share = 1 if axis is None else jax.lax.axis_size(axis)
    step = max(1, min(-(-rows // share), _TOKENS_PER_STEP // row_width))
    steps = -(-rows // (step * share)) * share

    def cut(x: Array, fill: int) -> Array:
        pad = steps * step - rows
        padded = jnp.pad(x, ((0, pad), (0, 0)), constant_values=fill)
        pieces = padded.reshape(steps, step, row_width)
        if axis is None:
            return pieces
        first = jax.lax.axis_index(axis) * (steps // share)
        return jax.lax.dynamic_slice_in_dim(pieces, first, steps // share)

    pieces = (
        cut(plan.index, padding),
        cut(plan.layout.segment, 0),
        cut(plan.layout.position, 0),
    )
    vectors = jax.lax.map(lambda piece: encode_rows(*piece), pieces)
    if axis is not None:
        vectors = jax.lax.all_gather(vectors, axis, tiled=True)
    vectors = vectors.reshape(steps * step, *vectors.shape[2:])
    return packing.at_slots(vectors[:rows], plan.slots)
