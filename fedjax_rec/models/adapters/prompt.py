"""Prefix tuning: trained keys and values that every token also attends to."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.backbone import Adapter
from fedjax_rec.models.adapters.hooks import same_block, same_linear


def prefix(*, length: int = 8, scale: float = 0.02) -> Adapter:
    """`P` further (key, value) pairs in the attention of each layer.

    Keys are normal and small, values zero. Unlike the other adapters this one does
    *not* start equal to the backbone: a softmax over `T + P` scores moves mass to the
    prefix, where there is nothing to fetch, so attention's output (before its output
    map) starts as `Z / (Z + Z_P)` times the backbone's; `Z` sums the exponentials of
    the text's scores, and `Z_P` those of the prefix, each about 1. Keys and values
    have a gradient at once.

    The pairs are trained themselves, without the MLP through which Li and Liang draw
    them; it adds what a client would have to send. They are given in the dtype of the
    parameters; a backbone casts them to its own.

    Args:
        length: `P`.
        scale: standard deviation of the first keys.

    Returns:
        An adapter of one named group: `{"prompt": {"keys": [layers, P, kv_width],
        "values": [layers, P, kv_width]}}`.

    Raises:
        ValueError: `length` is below 1.

    References:
        Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL
        2021.
        Liu et al., P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning
        Universally Across Scales and Tasks, ACL 2022.
    """
    if length < 1:
        raise ValueError(f"length={length}, expected at least 1")

    def init(key, backbone, num_layers, dtype):
        shape = (num_layers, length, backbone.kv_width)
        keys = scale * jax.random.normal(key, shape, dtype)
        return {"prompt": {"keys": keys, "values": jnp.zeros(shape, dtype)}}

    def pairs(params):
        return params["prompt"]["keys"], params["prompt"]["values"]

    return Adapter(init, same_linear, same_block, pairs)
