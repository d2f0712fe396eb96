"""Two towers: a vector for the user, and a vector from the text of an item."""

import itertools
from collections.abc import Callable, Collection
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Model, Params
from fedjax_rec.models.adapters.embedding import EmbeddingNet
from fedjax_rec.models.item_tower import ItemTower
from fedjax_rec.models.losses import binary_cross_entropy, bpr, sampled_softmax
from fedjax_rec.models.products import inner
from fedjax_rec.models.users import init_users, user_vector

VECTORS = "vectors"
"""Name of the table of all items' vectors in lifted parameters."""


def two_tower(
    tower: ItemTower,
    *,
    num_items: int,
    projection: Array,
    center: Array,
    group: int,
    users: Literal["vector", "history", "both"] = "vector",
    on_embedding: EmbeddingNet | None = None,
    id_residual: bool = False,
    loss: Literal["bce", "bpr", "softmax"] = "bce",
    personal: Collection[str] = (),
    fixed: Collection[str] = (),
    history_length: int = 20,
    history_heads: int = 4,
    user_l2: float = 0.0,
) -> Model:
    """`score(u, i) = (p_u + c + h_u) . (W e_i + w + q_i) + b`.

    `e_i` is the tower's output for the item's text; `p_u` the user's own vector; `c`
    and `b` are common to all users (`b` only under `bce`, as the other losses do not
    depend on it); `h_u` is attention over the user's history, and `q_i` the item's row
    in a table.

    Args:
        tower: functions from items to vectors.
        num_items: `I`.
        projection: `[D, d]`, initial value of `W`.
        center: `[D]`; `w` starts as `-W center`.
        group: pairs of a positive with its negatives, consecutive in a batch.
        users: `p_u`, `h_u`, or both; `c` is always included.
        on_embedding: a net between the tower and `W`.
        id_residual: whether to include `q_i`, which starts at zero.
        loss: pointwise, pairwise, or softmax over a positive and its negatives.
        personal: groups that stay on their clients, among those of the tower,
            `embedding_adapter`, `head`, `common` and `history`. `user` always does.
        fixed: groups that get no gradient.
        history_length: `L`.
        history_heads: heads of the attention over the history.
        user_l2: adds `user_l2 / 2 |p_u|^2` to a batch's loss.

    Returns:
        A model with the groups of the tower, `head`, `common` and, depending on the
        options, `embedding_adapter`, `user`, `history` and the table `item`. A batch
        holds `text` (item ids), `item` (rows), `label`, `mask`, and `log_q` or
        `history` if the options need them. `frozen` holds the arrays of the tower, and
        for histories `embedding` `[I, D]` and `history` `[U, L]`.

    Raises:
        ValueError: `personal` or `fixed` names an unknown group.

    References:
        Covington et al., Deep Neural Networks for YouTube Recommendations, RecSys 2016.
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations, RecSys 2019.
    """
    # Steps from the tower's output to an item's vector, by the group that each reads.
    steps: dict[str, Callable] = {"head": _project}
    if on_embedding is not None:
        steps = {"embedding_adapter": on_embedding.apply, **steps}

    def initial(key) -> dict[str, Tree]:
        tower_key, net_key = jax.random.split(key)
        (width, dim), dtype = projection.shape, projection.dtype
        groups = dict(tower.init(tower_key))
        if on_embedding is not None:
            groups |= on_embedding.init(net_key, width, dtype)
        groups["head"] = {"w": projection, "b": -center @ projection}
        groups |= init_users(users, projection, center, history_length, history_heads)
        if loss == "bce":
            groups["common"]["bias"] = jnp.zeros((), dtype)
        if id_residual:
            groups["item"] = rows.Table(values=jnp.zeros((num_items, dim), dtype))
        return groups

    def init(key) -> Params:
        groups = initial(key)
        local = [name for name in (*personal, "user") if name in groups]
        on_client = {name: groups.pop(name) for name in local}
        return Params(shared=groups, personal=on_client)

    names = jax.eval_shape(initial, jax.random.key(0)).keys() - {"item", "user"}
    for option, chosen in (("personal", personal), ("fixed", fixed)):
        if unknown := set(chosen) - names:
            raise ValueError(
                f"{option} names unknown groups: {', '.join(sorted(unknown))}; "
                f"expected some of {', '.join(sorted(names))}"
            )
    item_vectors, lift = _item_side(tower, steps, fixed, personal)
    return Model(
        init=init,
        loss=_batch_loss(item_vectors, loss, group, fixed, user_l2),
        score=_score(item_vectors, fixed),
        lift=lift,
    )


def _project(groups: Tree, x: Array) -> Array:
    return x @ groups["head"]["w"] + groups["head"]["b"]


def _held(groups: Tree, fixed: Collection[str]) -> Tree:
    """The groups by name; those that are fixed get no gradient."""
    held = {n: jax.lax.stop_gradient(groups[n]) for n in fixed if n in groups}
    return {**groups, **held}


def _item_side(
    tower: ItemTower,
    steps: dict[str, Callable],
    fixed: Collection[str],
    personal: Collection[str],
) -> tuple[Callable[..., Array], Callable[..., Tree] | None]:
    """Makes the function of item vectors, and `Model.lift`."""
    in_tower = frozenset(jax.eval_shape(tower.init, jax.random.key(0)))

    def encode(groups, frozen, ids, axis=None) -> Array:
        if ids is None:
            return tower.catalog(groups, frozen, axis)
        return tower.batch(groups, frozen, ids)

    def through(groups, x: Array, names) -> Array:
        for name in names:
            x = steps[name](groups, x)
        return x

    def item_vectors(groups, frozen, ids, number) -> Array:
        """`[..., d]` of the items `ids`, which are rows `number` of the tables."""
        if VECTORS in groups:
            x = rows.lookup(groups[VECTORS], number)
        else:
            x = encode(groups, frozen, ids)
        x = through(groups, x, [name for name in steps if name in groups])
        return x + rows.lookup(groups["item"], number) if "item" in groups else x

    def lift(shared, frozen, axis=None, items=None) -> Tree:
        groups = _held(shared, fixed)
        # Up to the first personal group, which differs from client to client.
        names = list(itertools.takewhile(lambda name: name in groups, steps))
        x = through(groups, encode(groups, frozen, items, axis), names)
        unused = groups.keys() - in_tower.union(names)
        vectors = rows.Table(values=x, per_row=False)
        return {**{name: groups[name] for name in unused}, VECTORS: vectors}

    return item_vectors, None if in_tower & set(personal) else lift


def _batch_loss(
    item_vectors: Callable[..., Array],
    kind: str,
    group: int,
    fixed: Collection[str],
    user_l2: float,
) -> Callable:
    def loss(params, frozen, batch, key, hparams):
        groups = _held({**params.shared, **params.personal}, fixed)
        mask, history = batch["mask"].reshape(-1, group), None
        items = item_vectors(groups, frozen, batch["text"], batch["item"])
        items = items.reshape(*mask.shape, items.shape[-1])
        if "history" in groups:
            history = batch["history"].reshape(*mask.shape, -1)[:, 0]
        user = user_vector(groups, frozen, history)
        scores = items @ user if user.ndim == 1 else (items @ user[..., None])[..., 0]
        scores = scores + groups["common"].get("bias", 0)
        if kind == "bce":
            flat = scores.reshape(-1)
            value = binary_cross_entropy(flat, batch["label"], batch["mask"])
        elif kind == "bpr":
            value = bpr(scores, mask)
        else:
            value = sampled_softmax(scores, batch["log_q"].reshape(mask.shape), mask)
        if user_l2 and "user" in groups:
            pull = 0.5 * user_l2 * jnp.sum(groups["user"] ** 2)
            value += jnp.where(mask.any(), pull, 0)
        return value, {}

    return loss


def _score(item_vectors: Callable[..., Array], fixed: Collection[str]) -> Callable:
    def score(params, frozen, query, candidates):
        groups = _held({**params.shared, **params.personal}, fixed)
        items = item_vectors(groups, frozen, candidates, candidates)
        user = query["user"]
        history = frozen["history"][user] if "history" in groups else None
        bias = groups["common"].get("bias", 0)
        return inner(items, user_vector(groups, frozen, history)) + bias

    return score
