"""The contract of frozen foundation models, and of adapters inside them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_rec.core.arrays import Array, Tree, struct

LORA_A, LORA_B, LORA_BASE = "lora_a", "lora_b", "lora_base"
"""Parameter groups of LoRA: its two factors, and a dense correction that clients do not
train and a server may add to."""


@struct
class Layout:
    """Where texts lie in packed rows: several end to end in one row of `W` tokens.

    Attributes:
        segment: `[..., W]` int32, the text's number within its row from 1; 0 is
            padding. Tokens attend to their own segment only.
        position: `[..., W]` int32, the token's place within its text, from 0.
    """

    segment: Array
    position: Array


class Adapter(NamedTuple):
    """A small trainable part inside a backbone's layers.

    A backbone calls the three hooks in every layer it runs, with that layer's slice of
    the parameters. A hook without an effect returns its last argument.

    Attributes:
        init: `(key, backbone, num_layers, dtype) -> params`: a dict of named groups,
            every leaf `[num_layers, ...]`: one slice for each of the last `num_layers`
            layers.
        linear: `(layer_params, path, x [..., in], y [..., out]) -> [..., out]`, after
            the linear map at `path` gave `y = x W + b`.
        block: `(layer_params, path, y [..., D]) -> [..., D]`, on the output of a
            sublayer before it is added to the residual stream.
        prefix: `(layer_params) -> (keys [P, kv_width], values [P, kv_width])` that
            every token also attends to, or `None`.
    """

    init: Callable[[Array, "Backbone", int, Any], dict[str, Tree]]
    linear: Callable[[Tree, str, Array, Array], Array]
    block: Callable[[Tree, str, Array], Array]
    prefix: Callable[[Tree], tuple[Array, Array] | None]


class LastMap(NamedTuple):
    """A layer in two parts: up to its last linear map, and from there.

    If an adapter changes only this map, the first part never changes.

    Attributes:
        site: path of the map.
        before: `(stack, hidden [R, W, D], layout) -> states [R, W, S]` through the one
            layer of `stack`: everything that `after` reads of a token.
        after: `(stack, states, adapter, adapter_params) -> hidden [R, W, D]`; it calls
            only the adapter's hook `linear`, which has to add to `y`.
    """

    site: str
    before: Callable[[Tree, Array, Layout], Array]
    after: Callable[[Tree, Array, Adapter, Tree], Array]


class Backbone(NamedTuple):
    """A frozen foundation model: pure functions of an array tree of weights.

    It need not be a text encoder: inputs are lists of tokens of any kind, layers are
    stacked, and a head turns the last hidden states of a list into one vector.
    `weights` is a dict with at least `layers`, of leaves stacked `[layers, ...]`; what
    `pool` reads is in `head`, and what `embed` reads has any other names.

    Attributes:
        name: name for messages and reports.
        width: `D`, width of hidden states and of the vectors from `pool`.
        kv_width: width of the keys and values that a prefix adds.
        num_layers: number of layers.
        max_tokens: length of the longest list.
        sites: path of each linear map inside a layer, to `(in, out)`.
        blocks: paths of the sublayers that add to the residual stream.
        fingerprint: hash of the weights and of everything that decides the function.
        tokenize: `(texts) -> list of [T] int32 arrays`, each of 1 to `max_tokens`, on
            the host.
        embed: `(weights, tokens [R, W], layout) -> hidden [R, W, D]`.
        run: `(stack, hidden [R, W, D], layout, adapter, adapter_params) -> hidden`
            through the layers of `stack`, any contiguous slice of `weights["layers"]`;
            `adapter` may be `None`.
        pool: `(weights, hidden [R, W, D], layout, num_texts) -> [R, num_texts, D]`,
            the vectors of segments `1..num_texts` of each row; zeros for absent
            segments. Reads only `weights["head"]` of the weights, if anything.
        last: a layer's last map apart from the rest, if it can be separated.
    """

    name: str
    width: int
    kv_width: int
    num_layers: int
    max_tokens: int
    sites: dict[str, tuple[int, int]]
    blocks: tuple[str, ...]
    fingerprint: str
    tokenize: Callable[[Any], list]
    embed: Callable[[Tree, Array, Layout], Array]
    run: Callable[..., Array]
    pool: Callable[[Tree, Array, Layout, int], Array]
    last: LastMap | None = None
