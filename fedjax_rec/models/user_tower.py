"""A user as a vector: from what the user did last, so that newcomers are served."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree


def init_history(
    projection: Array, center: Array, length: int, heads: int
) -> dict[str, Tree]:
    """Parameters with which a user starts as the mean of its history.

    Args:
        projection: `[D, d]`, where the items' vectors start too.
        center: `[D]`, mapped to zero.
        length: `L`, items of a history.
        heads: of the attention.

    Returns:
        `{"history": {"query": [D, heads], "recency": [L, heads], "value": [heads, D,
        d], "bias": [d]}}`.
    """
    width, dim = projection.shape
    value = jnp.broadcast_to(projection / heads, (heads, width, dim))
    return {
        "history": {
            "query": jnp.zeros((width, heads), projection.dtype),
            "recency": jnp.zeros((length, heads), projection.dtype),
            "value": value,
            "bias": -center @ projection,
        }
    }


def history_vector(params: Tree, embedding: Array, history: Array) -> Array:
    """Attention over the items a user did last, pooled with trained queries.

    `u = sum_h V_h (sum_j a_hj e_j)` with `a_h = softmax_j(q_h e_j + r_hj)`. The items
    come as the frozen model sees them, so a history costs no run of the backbone and
    holds for any catalog.

    Args:
        params: of `init_history`, without its outer name.
        embedding: `[I, D]` frozen.
        history: `[..., L]` item ids, the latest first; padding is `I`.

    Returns:
        `[..., d]`; zero for an empty history.

    References:
        Wu et al., Neural News Recommendation with Multi-Head Self-Attention, EMNLP
        2019 (additive attention pooling over the clicked items).
    """
    real = history < embedding.shape[0]
    items = embedding.at[history].get(mode="clip")
    scores = items @ params["query"] + params["recency"]
    scores = jnp.where(real[..., None], scores, jnp.finfo(scores.dtype).min)
    shares = jnp.where(real[..., None], jax.nn.softmax(scores, axis=-2), 0)
    pooled = jnp.einsum("...lh,...ld->...hd", shares, items)
    vector = jnp.einsum("...hd,hde->...e", pooled, params["value"]) + params["bias"]
    return jnp.where(real.any(-1)[..., None], vector, 0)
