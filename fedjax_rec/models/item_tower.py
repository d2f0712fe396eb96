"""Items as vectors: their texts through a frozen backbone with an adapter in it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Adapter, Backbone, Layout

_TOKENS_A_STEP = 8192
"""Tokens of the catalog encoded at once."""
_KEPT, _MEMORY = 24, 2 << 30
"""About how many vectors `[D]` a layer keeps of a token for the backward pass; and how
many bytes may be kept in all before they are computed again instead."""


class ItemTower(NamedTuple):
    """What turns items into vectors `[D]`.

    Attributes:
        init: `(key) -> groups`, a dict of trainable groups; empty if nothing trains.
        batch: `(groups, frozen, ids [P]) -> [P, D]`, for the items of one client.
        catalog: `(groups, frozen, axis=None) -> [I, D]`, for every item at once, by
            the devices of a mesh axis together where it is named.
        width: `D`.
    """

    init: Callable[[Array], dict[str, Tree]]
    batch: Callable[[dict, Tree, Array], Array]
    catalog: Callable[..., Array]
    width: int


def cached_tower(width: int) -> ItemTower:
    """Vectors computed beforehand: `frozen["embedding"]`, `[I, D]`.

    Args:
        width: `D`.
    """

    def batch(groups, frozen, ids):
        del groups
        return frozen["embedding"].at[ids].get(mode="clip")

    return ItemTower(
        init=lambda key: {},
        batch=batch,
        catalog=lambda groups, frozen, axis=None: frozen["embedding"],
        width=width,
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
    """The backbone's last layers with an adapter, on what the layers before them say.

    `frozen["text"]` holds `lists` (`packing.Lists`): hidden states of each item's
    tokens before those layers, or the tokens where no layer comes before; `plan`, the
    catalog in packed rows; and `weights`, of which `layers` are the last `num_layers`.
    Where `lists` are the tokens though layers come before, `weights["before"]` holds
    those, and they run each time.

    Args:
        backbone: the frozen model.
        adapter: trained in each of those layers.
        num_layers: `k`, how many run here.
        from_last_map: of a single layer only its last linear map and what follows: the
            lists hold what `Backbone.last` says before it.
        per_row: `G`, texts of a client's batch that share a row.
        width: `W` of such a row (`packing.fold_width`).
        longest: tokens of the longest text.
        dtype: of the adapter, and of the vectors.

    Returns:
        The tower.
    """

    key = jax.random.key(0)
    names = jax.eval_shape(lambda: adapter.init(key, backbone, num_layers, dtype))

    def encode(groups, text, values: Array, layout: Layout, num_texts: int) -> Array:
        # Layers take slices of all they are given: nothing but the adapter's own.
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
        return packing.encode_packed(
            lambda *rows: encode(groups, text, *rows),
            text["lists"],
            ids,
            per_row=min(per_row, ids.shape[0]),
            width=width,
            longest=longest,
        )

    def catalog(groups, frozen, axis=None):
        text = frozen["text"]
        plan: packing.Plan = text["plan"]
        rows, row_width = plan.index.shape
        share = 1 if axis is None else jax.lax.axis_size(axis)
        step = max(1, min(-(-rows // share), _TOKENS_A_STEP // row_width))
        steps = -(-rows // (step * share)) * share

        def cut(x: Array, fill: int) -> Array:
            pad = steps * step - rows
            padded = jnp.pad(x, ((0, pad), (0, 0)), constant_values=fill)
            cut = padded.reshape(steps, step, row_width)
            if axis is None:
                return cut
            first = jax.lax.axis_index(axis) * (steps // share)
            return jax.lax.dynamic_slice_in_dim(cut, first, steps // share)

        def some(index: Array, segment: Array, position: Array) -> Array:
            layout = Layout(segment=segment, position=position)
            values = text["lists"].values[index]
            return encode(groups, text, values, layout, plan.per_row)

        if rows * row_width * num_layers * _KEPT * backbone.width * 4 > _MEMORY:
            some = jax.checkpoint(some)
        last = text["lists"].values.shape[0] - 1
        slots = jax.lax.map(
            lambda x: some(*x),
            (
                cut(plan.index, last),
                cut(plan.layout.segment, 0),
                cut(plan.layout.position, 0),
            ),
        )
        if axis is not None:
            slots = jax.lax.all_gather(slots, axis, tiled=True)
        slots = slots.reshape(steps * step, plan.per_row, backbone.width)
        return packing.at_slots(slots[:rows], plan.slots)

    return ItemTower(
        init=lambda key: adapter.init(key, backbone, num_layers, dtype),
        batch=batch,
        catalog=catalog,
        width=backbone.width,
    )
