"""Two towers: a user's vector, and the vector of an item's text."""

from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Model, Params
from fedjax_rec.models.adapters import EmbeddingAdapter
from fedjax_rec.models.item_tower import ItemTower
from fedjax_rec.models.losses import binary_cross_entropy, bpr, sampled_softmax
from fedjax_rec.models.user_tower import history_vector, init_history

VECTORS = "vectors"
"""The name under which `lift` puts the table of all items' vectors."""


def two_tower(
    tower: ItemTower,
    *,
    num_items: int,
    projection: Array,
    center: Array,
    group: int,
    users: Literal["vector", "history", "both"] = "vector",
    on_embedding: EmbeddingAdapter | None = None,
    id_residual: bool = False,
    loss: Literal["bce", "bpr", "softmax"] = "bce",
    personal: Collection[str] = (),
    fixed: Collection[str] = (),
    history_length: int = 20,
    history_heads: int = 4,
    user_l2: float = 0.0,
) -> Model:
    """`score(u, i) = (p_u + c + h_u) . (W e_i + w + q_i) + b`.

    `e_i` is what the tower says of the item's text; `p_u` the user's own vector, `c`
    and `b` what all users share (`b` under `bce` alone: the others do not see it),
    `h_u` attention over the user's history, `q_i` a row of an item's own.

    Args:
        tower: of the items.
        num_items: `I`.
        projection: `[D, d]`, the first value of `W`.
        center: `[D]`; `w` starts as `-W center`.
        group: pairs of a positive with its negatives, consecutive in a batch.
        users: `p_u`, `h_u`, or both; `c` is always there.
        on_embedding: a net between the tower and `W`.
        id_residual: whether there is `q_i`; it starts at zero.
        loss: pointwise, pairwise, or softmax over a positive and its negatives.
        personal: names of the groups that stay on their clients, of those of the
            tower, `embedding_adapter`, `head`, `common` and `history`. `user` always
            does.
        fixed: names of groups that get no gradient.
        history_length: `L`.
        history_heads: of the attention over the history.
        user_l2: adds `user_l2 / 2 |p_u|^2` to a batch's loss.

    Returns:
        A model with the groups of the tower, `head`, `common` and, as asked for,
        `embedding_adapter`, `user`, `history` and the table `item`. A batch holds
        `text` (item ids), `item` (rows), `label`, `mask`, and `log_q` or `history`
        where they are needed. `frozen` holds what the tower wants, and for histories
        `embedding` `[I, D]` and `history` `[U, L]`.

    Raises:
        ValueError: `personal` or `fixed` names a group there is not.

    References:
        Covington et al., Deep Neural Networks for YouTube Recommendations, RecSys 2016.
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations, RecSys 2019.
    """
    width, dim = projection.shape
    dtype = projection.dtype
    own_vector, with_history = users != "history", users != "vector"
    in_tower = frozenset(jax.eval_shape(tower.init, jax.random.key(0)))
    # What a text passes through, in order, with the groups each step reads.
    steps: list[tuple[frozenset[str], object]] = [(in_tower, None)]
    if on_embedding is not None:
        steps.append((frozenset({"embedding_adapter"}), on_embedding.apply))
    steps.append((frozenset({"head"}), _project))
    groups = frozenset().union(*(names for names, _ in steps), {"common"})
    groups |= {"history"} if with_history else set()
    for label, chosen in (("personal", personal), ("fixed", fixed)):
        if unknown := set(chosen) - groups:
            raise ValueError(
                f"{label} names {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join(sorted(groups))}"
            )
    shared_steps = 0  # how many come before the first that is personal
    for names, _ in steps:
        if names & set(personal):
            break
        shared_steps += 1

    def init(key) -> Params:
        tower_key, net_key = jax.random.split(key)
        parts = dict(tower.init(tower_key))
        if on_embedding is not None:
            parts |= on_embedding.init(net_key, width, dtype)
        parts["head"] = {"w": projection, "b": -center @ projection}
        parts["common"] = {"user": jnp.zeros(dim, dtype)}
        if loss == "bce":
            parts["common"]["bias"] = jnp.zeros((), dtype)
        if with_history:
            parts |= init_history(projection, center, history_length, history_heads)
        if id_residual:
            table = jnp.zeros((num_items, dim), dtype)
            parts["item"] = rows.Table(values=table)
        own = {name: parts.pop(name) for name in sorted(personal)}
        if own_vector:
            own["user"] = jnp.zeros(dim, dtype)
        return Params(shared=parts, personal=own)

    def walk(groups, x: Array, first: int, last: int) -> Array:
        for _, apply in steps[max(first, 1) : last]:
            x = apply(groups, x)  # pyright: ignore[reportCallIssue]
        return x

    def trained(shared: Tree, personal: Tree) -> Tree:
        """All groups by name; those that are fixed get no gradient."""
        parts = {**shared, **personal}
        held = {
            name: jax.lax.stop_gradient(parts[name]) for name in fixed if name in parts
        }
        return {**parts, **held}

    def lift(shared: Tree, frozen: Tree, axis=None, items=None) -> Tree:
        shared = trained(shared, {})
        if items is None:
            x = tower.catalog(shared, frozen, axis)
        else:
            x = tower.batch(shared, frozen, items)
        x = walk(shared, x, 0, shared_steps)
        used = frozenset().union(*(names for names, _ in steps[:shared_steps]))
        rest = {name: part for name, part in shared.items() if name not in used}
        return {**rest, VECTORS: rows.Table(values=x, per_row=False)}

    def item_vectors(params: Params, frozen, ids, number) -> Array:
        """`[..., d]` of the items `ids`, which are rows `number` of the tables."""
        parts = trained(params.shared, params.personal)
        if VECTORS in parts:
            x = walk(parts, rows.lookup(parts[VECTORS], number), shared_steps, 9)
        elif ids is None:
            x = walk(parts, tower.catalog(parts, frozen), 0, len(steps))
        else:
            x = walk(parts, tower.batch(parts, frozen, ids), 0, len(steps))
        if id_residual:
            x = x + rows.lookup(parts["item"], number)
        return x

    def user_vectors(params: Params, frozen, history) -> Array:
        parts = trained(params.shared, params.personal)
        vector = parts["common"]["user"]
        if own_vector:
            vector = vector + parts["user"]
        if with_history:
            embedding = frozen["embedding"]
            vector = vector + history_vector(parts["history"], embedding, history)
        return vector

    def batch_loss(params, frozen, batch, key):
        del key
        mask = batch["mask"].reshape(-1, group)
        items = item_vectors(params, frozen, batch["text"], batch["item"])
        items = items.reshape(*mask.shape, dim)
        history = None
        if with_history:
            history = batch["history"].reshape(*mask.shape, -1)[:, 0]
        users = user_vectors(params, frozen, history)
        scores = (
            (items @ users[..., None])[..., 0] if users.ndim == 2 else items @ users
        )
        parts = trained(params.shared, params.personal)
        scores = scores + parts["common"].get("bias", 0)
        if loss == "bce":
            value = binary_cross_entropy(
                scores.reshape(-1), batch["label"], batch["mask"]
            )
        elif loss == "bpr":
            value = bpr(scores, mask)
        else:
            value = sampled_softmax(scores, batch["log_q"].reshape(mask.shape), mask)
        if user_l2 and own_vector:
            pull = 0.5 * user_l2 * jnp.sum(parts["user"] ** 2)
            value += jnp.where(mask.any(), pull, 0)
        return value, {}

    def score(params, frozen, query, candidates):
        ids = query.get("text") if candidates is None else candidates
        items = item_vectors(params, frozen, ids, candidates)
        history = frozen["history"][query["user"]] if with_history else None
        bias = trained(params.shared, params.personal)["common"].get("bias", 0)
        return items @ user_vectors(params, frozen, history) + bias

    return Model(init, batch_loss, score, lift if shared_steps else None)


def _project(groups, x: Array) -> Array:
    return x @ groups["head"]["w"] + groups["head"]["b"]
