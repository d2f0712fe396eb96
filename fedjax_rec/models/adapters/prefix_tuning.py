"""Prefix tuning: trained keys and values that every token also attends to."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from etils import epy

from fedjax_rec.models.adapters import sites

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import backbone

_KEY_STD = 0.02
"""Standard deviation of the initial keys."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTuning:
    """`P` trained (key, value) pairs in the attention of each layer.

    Keys are normal and small, values zero. Unlike the other adapters this one does
    *not* start equal to the backbone: a softmax over `T + P` scores moves mass to the
    pairs, which have no value yet. The output of attention (before its output map)
    starts as `Z / (Z + Z_P)` times the backbone's; `Z` sums the exponentials of the
    text's scores, `Z_P` those of the pairs, each about 1. Keys and values have a
    gradient at once.

    The pairs are trained directly, without the MLP that Li and Liang generate them by,
    which would add to a client's messages. A backbone casts them to its own type.

    Attributes:
        layers: number of last layers with the adapter; 0 is all layers.
        length: `P`.

    Raises:
        ValueError: `layers` is negative, or `length` below 1.

    References:
        Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL
        2021.
        Liu et al., P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning
        Universally Across Scales and Tasks, ACL 2022.
    """

    layers: int = 1
    length: int = 8

    kind: ClassVar[str] = "prefix_tuning"
    in_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sites.check_at_least(self, layers=0, length=1)

    def build(self, base: bool = False) -> backbone.Adapter:
        """Builds the adapter; `base` is ignored.

        Returns:
            An adapter of one group: `{"prompt": {"keys": [layers, P, kv_width],
            "values": [layers, P, kv_width]}}`.
        """
        del base

        def init(key, backbone, num_layers, dtype):
            shape = (num_layers, self.length, backbone.kv_width)
            keys = _KEY_STD * jax.random.normal(key, shape, dtype)
            return {"prompt": {"keys": keys, "values": jnp.zeros(shape, dtype)}}

        def pairs(params):
            return params["prompt"]["keys"], params["prompt"]["values"]

        return backbone.Adapter(init, sites.same_linear, sites.same_block, pairs)
