"""Federated reconstruction: fits the personal part anew, then takes one shared step.

A user's part is fitted from a common start on some of its examples (the support), and
the shared gradient is taken on the others (the query), under a user's part that was not
fitted on them. A positive that its own user's part was fitted on would train the shared
part to find known items.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.clients.local import Columns, Draw
from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Model, Params


def reconstruct_update(
    model: Model,
    draw: Draw,
    *,
    rate: Callable[[Tree], Any],
    steps: int = 1,
    query: float = 0.0,
    group: int = 1,
) -> ClientUpdate:
    """Builds a client's local training; all of its pairs are one batch.

    It reads the hyperparameters `user_lr`, the rate of `steps` gradient steps on the
    personal part, and `item_lr_scale`, a factor of the shared rate for row tables. The
    personal part that the client keeps is then fitted on all pairs.

    Args:
        model: the trained model, with a personal part. With `lift`, pairs' vectors are
            computed once.
        draw: as in `local_update`.
        rate: `(hparams) -> scalar`, the rate of the one step on the shared part.
        steps: gradient steps of a fit, each fit from zero, where users start.
        query: share of the positives, drawn anew each round, that only the shared step
            sees; 0 shows all of them to both.
        group: consecutive pairs that go to support or query together.

    Returns:
        The client update. Its delta is linear in the gradient of the shared part.

    Raises:
        ValueError: `query` is not in `[0, 1)`, or a personal part is a table.

    References:
        Singhal et al., Federated Reconstruction: Partially Local Federated Learning,
        NeurIPS 2021.
    """
    if not 0 <= query < 1:
        raise ValueError(f"query={query}, expected a share in [0, 1)")
    params = jax.eval_shape(model.init, jax.random.key(0))
    if rows.tables_of(params.personal):
        raise ValueError(
            "federated reconstruction fits small personal parts, and this model has a "
            "personal table; use joint training"
        )
    unlifted = set(params.shared)

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        draw_key, split_key, loss_key = jax.random.split(key, 3)
        pairs: Columns = draw(examples, draw_key)
        spaces = _ids_by_space(params.shared, pairs)
        shared = rows.gather(params.shared, spaces)
        batch, pull = {**pairs, **dict.fromkeys(spaces)}, lambda grads: grads
        if model.lift is not None and unlifted <= set(params.shared):
            shared, pull = _lifted(model.lift, shared, frozen, pairs["text"])
            batch |= dict.fromkeys(_ids_by_space(shared, pairs))
        start = jax.tree.map(jnp.zeros_like, params.personal)

        def loss(shared, personal, mask):
            both = Params(shared=shared, personal=personal)
            return model.loss(both, frozen, {**batch, "mask": mask}, loss_key, hparams)

        def fit(mask: Array):
            def step(personal, _):
                grads = jax.grad(lambda p: loss(shared, p, mask)[0])(personal)
                rate = hparams["user_lr"]
                moved = jax.tree.map(lambda p, g: p - rate * g, personal, grads)
                return trees.where(mask.any(), moved, personal), None

            return jax.lax.scan(step, start, None, length=steps)[0]

        mask = asked = pairs["mask"]
        personal = fitted = fit(mask)
        if query:
            support, asked = _split(split_key, mask, query, group)
            fitted = fit(support)
        (value, metrics), grads = jax.value_and_grad(
            lambda s: loss(s, fitted, asked), has_aux=True
        )(shared)
        return ClientResult(
            delta=_shared_step(pull(grads), spaces, rate(hparams), hparams),
            personal=personal,
            weight=asked[::group].sum().astype(value.dtype),
            metrics={"loss": value, **metrics},
        )

    return update


def _split(key: Array, mask: Array, query: float, group: int) -> tuple[Array, Array]:
    """Masks of support and query; a client without one of them uses all for both."""
    count = mask.shape[0] // group
    draws = jax.random.uniform(key, (count,), jnp.float32) < query
    chosen = jnp.repeat(draws, group)
    both = (mask & chosen).any() & (mask & ~chosen).any()
    return jnp.where(both, mask & ~chosen, mask), jnp.where(both, mask & chosen, mask)


def _shared_step(grads: Tree, spaces: Columns, lr: Array, hparams: Tree) -> Tree:
    """The delta of one step on the shared parts."""

    def descend(leaf, scaled):
        if not rows.is_table(leaf):
            return -lr * leaf
        values = -scaled * leaf.values
        return rows.Rows(ids=spaces[leaf.space], values=values, space=leaf.space)

    delta = {}
    for name, part in grads.items():
        scaled = lr * hparams["item_lr_scale"] if name == "item" else lr
        delta[name] = jax.tree.map(
            lambda x, scaled=scaled: descend(x, scaled), part, is_leaf=rows.is_table
        )
    return delta


def _ids_by_space(shared: Tree, pairs: Columns) -> Columns:
    return {table.space: pairs[table.space] for table in rows.tables_of(shared)}


def _lifted(lift: Callable[..., Tree], shared: Tree, frozen: Tree, items: Array):
    """Item vectors of all pairs, computed once for all fits and the shared step.

    Returns:
        `(shared, pull)`: the parameters with a table of the pairs' vectors, in their
        order, and the gradient of the parameters from that of these.
    """
    lifted = jax.eval_shape(lambda: lift(shared, frozen))
    read = {name: part for name, part in shared.items() if name not in lifted}
    (table,) = (part for name, part in lifted.items() if name not in shared)
    # All clients of a chunk start from the same parameters, so the vectors of all items
    # are computed once for them; only the gradients are per client.
    every = 2 * len(items) >= table.values.shape[0]

    def vectors(read: Tree) -> Tree:
        lifted = lift({**shared, **read}, frozen, items=None if every else items)
        new = {name: part for name, part in lifted.items() if name not in shared}
        return rows.gather(new, {"item": items if every else None})

    new, transposed = jax.vjp(vectors, read)
    unread = {name: part for name, part in shared.items() if name not in read}

    def pull(grads: Tree) -> Tree:
        others = {name: grads[name] for name in unread}
        return {**others, **transposed({name: grads[name] for name in new})[0]}

    return {**unread, **new}, pull
