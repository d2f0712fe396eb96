"""Local training that rebuilds what is personal, then takes one step on what is shared.

Federated reconstruction: a user's part is fitted from a common start on some of its
examples (the support), and the shared gradient is taken on the others (the query), as
they look to a user's part that has not seen them. A positive that its own user's part
was fitted on teaches the shared part to find what it already knows.
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
    personal part, and `item_lr_scale`, which multiplies the shared rate for row tables.
    The personal part that stays is then fitted on all pairs.

    Args:
        model: what is trained; something of it has to be personal. With `lift`, pairs'
            vectors are computed once.
        draw: as in `local_update`.
        rate: `(hparams) -> scalar`, the rate of the one step on the shared part.
        steps: gradient steps of a fit, each from zero on, since users start at zero.
        query: share of the positives, drawn anew each round, that only the shared step
            sees; 0 shows all of them to both.
        group: consecutive pairs that go to support or query together.

    Returns:
        The client update. Its delta is linear in the gradient of the shared part.

    Raises:
        ValueError: `query` is not in `[0, 1)`.

    References:
        Singhal et al., Federated Reconstruction: Partially Local Federated Learning,
        NeurIPS 2021.
    """
    if not 0 <= query < 1:
        raise ValueError(f"query={query}, expected a share in [0, 1)")

    unlifted = set(jax.eval_shape(model.init, jax.random.key(0)).shared)

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        draw_key, split_key, loss_key = jax.random.split(key, 3)
        pairs: Columns = draw(examples, draw_key)
        count = pairs["mask"].shape[0]
        spaces = _ids_by_space(params.shared, pairs)
        shared = rows.gather(params.shared, spaces)
        batch = {**pairs, **dict.fromkeys(spaces)}
        pull = None
        if model.lift is not None and unlifted <= set(params.shared):
            shared, pull = _lifted(model.lift, shared, frozen, pairs["text"])
            batch |= dict.fromkeys(_ids_by_space(shared, pairs))
        start = jax.tree.map(jnp.zeros_like, params.personal)

        def loss(shared, personal, mask):
            both = Params(shared=shared, personal=personal)
            return model.loss(both, frozen, {**batch, "mask": mask}, loss_key)

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
            draws = jax.random.uniform(split_key, (count // group,)) < query
            chosen = jnp.repeat(draws, group)
            # Whoever would have no support, or no query, uses all it has for both.
            some = (mask & chosen).any() & (mask & ~chosen).any()
            asked = jnp.where(some, mask & chosen, mask)
            fitted = fit(jnp.where(some, mask & ~chosen, mask))
        value, grads = jax.value_and_grad(
            lambda s: loss(s, fitted, asked), has_aux=True
        )(shared)
        if pull is not None:
            grads = pull(grads)

        def descend(name: str, part):
            lr = rate(hparams)
            scaled = lr * hparams["item_lr_scale"] if name == "item" else lr

            def one(leaf):
                if not rows.is_table(leaf):
                    return -lr * leaf
                ids = spaces[leaf.space]
                return rows.Rows(
                    ids=ids, values=-scaled * leaf.values, space=leaf.space
                )

            return jax.tree.map(one, part, is_leaf=rows.is_table)

        weight = asked[::group].sum().astype(value[0].dtype)
        return ClientResult(
            delta={name: descend(name, part) for name, part in grads.items()},
            personal=personal,
            weight=weight,
            metrics={"loss": value[0], **value[1]},
        )

    return update


def _ids_by_space(shared: Tree, pairs: Columns) -> Columns:
    """Rows will come in the order of the pairs: to a model their numbers are `None`."""
    return {
        leaf.space: pairs[leaf.space]
        for leaf in jax.tree.leaves(shared, is_leaf=rows.is_table)
        if rows.is_table(leaf)
    }


def _lifted(lift: Callable[..., Tree], shared: Tree, frozen: Tree, items: Array):
    """Item vectors of all pairs, computed once for all fits and the shared step.

    Returns:
        `(shared, pull)`: the parameters with a table of the pairs' vectors, in their
        order, and the gradient of the parameters from that of these.
    """
    lifted = jax.eval_shape(lambda: lift(shared, frozen))
    read = {name: part for name, part in shared.items() if name not in lifted}
    (table,) = (part for name, part in lifted.items() if name not in shared)
    # All clients of a chunk start from the same parameters: the way to all items is
    # taken once for them, and each goes its own way back alone.
    whole = 2 * len(items) >= table.values.shape[0]

    def vectors(read: Tree) -> Tree:
        found = lift({**shared, **read}, frozen, items=None if whole else items)
        new = {name: part for name, part in found.items() if name not in shared}
        return rows.gather(new, {"item": items if whole else None})

    new, pull = jax.vjp(vectors, read)
    kept = {name: part for name, part in shared.items() if name not in read}

    def back(grads: Tree) -> Tree:
        others = {name: grads[name] for name in kept}
        return {**others, **pull({name: grads[name] for name in new})[0]}

    return {**kept, **new}, back
