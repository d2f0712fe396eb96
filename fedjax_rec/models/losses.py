"""Losses over a masked batch."""

import jax.numpy as jnp
import optax

from fedjax_rec.types import Array


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of `values` `[B]` where `mask`; 0, with zero gradient, where none is."""
    kept = jnp.where(mask, values, 0)
    return kept.sum() / jnp.maximum(mask.sum(), 1).astype(values.dtype)


def binary_cross_entropy(logits: Array, labels: Array, mask: Array) -> Array:
    """Mean of `-y log s - (1 - y) log(1 - s)`, `s` the sigmoid of `logits` `[B]`."""
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, labels), mask)


def squared_error(predictions: Array, targets: Array, mask: Array) -> Array:
    """Mean of `(prediction - target)^2` over the batch `[B]`."""
    return masked_mean(jnp.square(predictions - targets), mask)
