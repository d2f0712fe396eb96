"""Several models side by side in the shared parameters; a client takes one of them."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.clusters import rows_first, select
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Model, Params, Recipe, Stack


def stacked(
    recipe: Recipe,
    count: int,
    index_of: Callable[[Params], Array],
    *,
    personal: Mapping[str, Array],
    shared: Mapping[str, Array] | None = None,
    alike: bool = False,
    received: int = 1,
) -> Recipe:
    """The recipe over a stack of models; who trains which is for the caller to say.

    Args:
        recipe: of one model.
        count: `S` models.
        index_of: which a client takes, by the parameters of the stack.
        personal: groups that it needs beside the model's, as they start.
        shared: shared groups that it needs, likewise; no model sees them.
        alike: all models start from one draw, not each from its own.
        received: models that a client receives in a round.

    Returns:
        The recipe with its `model` and its `stack` replaced.

    Raises:
        ValueError: the recipe is lifted, or has a codec or an attack.
    """
    if recipe.lifted or recipe.codec or recipe.attack:
        raise ValueError(
            "several models need a recipe that is not lifted and has no codec or "
            "attack, whose state is that of one model"
        )
    model, more = recipe.model, dict(shared or {})

    def init(key: Array) -> Params:
        first = model.init(key)
        if alike:
            models = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (count, *x.shape)), first.shared
            )
        else:
            keys = jax.random.split(jax.random.fold_in(key, 1), count)
            models = jax.vmap(lambda k: model.init(k).shared)(keys)
        return Params(
            shared={**rows_first(models), **more},
            personal={**first.personal, **personal},
        )

    def take(params: Params) -> Params:
        models = {n: part for n, part in params.shared.items() if n not in more}
        own = {n: part for n, part in params.personal.items() if n not in personal}
        return Params(shared=select(models, index_of(params)), personal=own)

    def loss(params: Params, frozen, batch, key):
        return model.loss(take(params), frozen, batch, key)

    def score(params: Params, frozen, query, candidates):
        return model.score(take(params), frozen, query, candidates)

    def lift(shared: Tree, frozen: Tree, axis: str | None = None) -> Tree:
        assert model.lift is not None
        models = {n: part for n, part in shared.items() if n not in more}
        each = [model.lift(select(models, s), frozen, axis=axis) for s in range(count)]
        lifted = rows_first(jax.tree.map(lambda *xs: jnp.stack(xs), *each))
        return {**lifted, **{name: shared[name] for name in more}}

    made = Model(init, loss, score, None if model.lift is None else lift)
    return recipe._replace(model=made, stack=Stack(model, take, received))
