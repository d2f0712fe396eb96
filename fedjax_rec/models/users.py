"""User vectors: personal or in a table, and attention over a user's history."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Params


def with_users(
    shared: dict[str, Tree],
    draw: Callable[[tuple[int, ...]], Array],
    num_users: int | None,
    dim: int,
) -> Params:
    """Adds a personal user vector to `shared`, or a shared table of all users.

    Args:
        shared: the other groups.
        draw: `(shape) -> values`.
        num_users: `None` for a personal vector.
        dim: `d`.
    """
    if num_users is None:
        return Params(shared=shared, personal={"user": draw((dim,))})
    users = rows.Table(values=draw((num_users, dim)), space="user")
    return Params(shared={**shared, "user": users}, personal={})


def lookup_users(params: Params, ids: Array) -> Array:
    """The personal vector `[d]`, or rows `[..., d]` of the table."""
    if "user" in params.personal:
        return params.personal["user"]
    return rows.lookup(params.shared["user"], ids)


def init_users(
    users: str, projection: Array, center: Array, length: int, heads: int
) -> dict[str, Tree]:
    """Parameters with which a user's vector starts as the mean of the history, or zero.

    Args:
        users: `vector`, `history` or `both`.
        projection: `[D, d]`, initial map of the items' vectors.
        center: `[D]`, mapped to zero.
        length: `L`, items of a history.
        heads: heads of the attention.

    Returns:
        `{"common": {"user": [d]}}`, for a user's own vector `{"user": [d]}`, and for
        histories `{"history": {"query": [D, heads], "recency": [L, heads], "value":
        [heads, D, d], "bias": [d]}}`.
    """
    (width, dim), dtype = projection.shape, projection.dtype
    groups: dict[str, Tree] = {"common": {"user": jnp.zeros(dim, dtype)}}
    if users != "history":
        groups["user"] = jnp.zeros(dim, dtype)
    if users != "vector":
        groups["history"] = {
            "query": jnp.zeros((width, heads), dtype),
            "recency": jnp.zeros((length, heads), dtype),
            "value": jnp.broadcast_to(projection / heads, (heads, width, dim)),
            "bias": -center @ projection,
        }
    return groups


def user_vector(groups: Tree, frozen: Tree, history: Any) -> Array:
    """Sums the common vector and, if present, the user's own and attention.

    Args:
        groups: parameters of `init_users`.
        frozen: array tree; for histories its `embedding` `[I, D]` is read.
        history: `[..., L]`, or `None` without histories.

    Returns:
        `[..., d]`, or `[d]` without histories.
    """
    vector = groups["common"]["user"]
    if "user" in groups:
        vector = vector + groups["user"]
    if "history" in groups:
        attention = history_vector(groups["history"], frozen["embedding"], history)
        vector = vector + attention
    return vector


def history_vector(params: Tree, embedding: Array, history: Array) -> Array:
    """Attention over a user's last items, pooled with trained queries.

    `u = sum_h V_h (sum_j a_hj e_j)` with `a_h = softmax_j(q_h e_j + r_hj)`. The inputs
    are the frozen model's embeddings, so a history needs no run of the backbone and
    works for any catalog.

    Args:
        params: the group `history`.
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
