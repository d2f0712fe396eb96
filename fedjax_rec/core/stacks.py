"""Several models side by side in the shared parameters; each client has one of them.

In a stack of `S` models dense leaves are `[S, ...]` and tables `[I, S, ...]`, so that
rows come first.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Model, Params, Recipe, Stack


def select(stack: Tree, index: Array | int) -> Tree:
    """The model at `index` of a stack."""

    def one(leaf):
        if rows.is_table(leaf):
            values = jnp.take(leaf.values, index, 1)
            return dataclasses.replace(leaf, values=values)
        return jnp.take(leaf, index, 0)

    return jax.tree.map(one, stack, is_leaf=rows.is_table)


def rows_first(models: Tree) -> Tree:
    """A stack from models as `vmap` returns them, with tables `[S, I, ...]`."""
    return rows.map_tables(
        lambda t: dataclasses.replace(t, values=jnp.moveaxis(t.values, 0, 1)), models
    )


def stacked(
    recipe: Recipe,
    count: int,
    index_of: Callable[[Params], Array],
    *,
    personal: Mapping[str, Array],
    shared: Mapping[str, Array] | None = None,
    equal_start: bool = False,
    chosen_before: bool = True,
    received: int = 1,
) -> Recipe:
    """Replaces the model of a recipe by a stack of models.

    Args:
        recipe: a system with one model.
        count: `S`.
        index_of: the model of a client, from the parameters of the stack.
        personal: initial values of personal groups that `index_of` needs.
        shared: initial values of further shared groups; no model reads them, and
            clients do not send them.
        equal_start: all models start from one draw instead of one draw each.
        chosen_before: a client trains the model that `index_of` names before training;
            otherwise the one that it names after it.
        received: number of models that a client receives in a round.

    Returns:
        The recipe with `model` replaced; local training is left to the caller.

    Raises:
        ValueError: the recipe has a stack already, or a message transform.
    """
    if recipe.model.stack is not None or recipe.transform is not None:
        raise ValueError(
            "several models are built from a recipe with one model and without a "
            "message transform, since the state of a transform belongs to one model"
        )
    model, extra = recipe.model, dict(shared or {})

    def init(key: Array) -> Params:
        models, own = _draw(model, count, equal_start, key)
        return Params(shared={**models, **extra}, personal={**own, **personal})

    def take(params: Params) -> Params:
        return Params(
            shared=select(_without(params.shared, extra), index_of(params)),
            personal=_without(params.personal, personal),
        )

    def trained(params: Params, personal: Tree) -> Params:
        own = take(Params(shared=params.shared, personal=personal))
        if not chosen_before:
            return own
        return dataclasses.replace(take(params), personal=own.personal)

    def loss(params: Params, frozen, batch, key, hparams):
        return model.loss(take(params), frozen, batch, key, hparams)

    def score(params: Params, frozen, query, candidates):
        return model.score(take(params), frozen, query, candidates)

    def lift(shared: Tree, frozen: Tree, axis: str | None = None) -> Tree:
        assert model.lift is not None
        models = _without(shared, extra)
        each = [model.lift(select(models, s), frozen, axis=axis) for s in range(count)]
        lifted = rows_first(jax.tree.map(lambda *xs: jnp.stack(xs), *each))
        return {**lifted, **{name: shared[name] for name in extra}}

    local = recipe.local._replace(
        corrections=False,
        per_client=(*recipe.local.per_client, "each client has a model of its own"),
    )
    stacked_model = model._replace(
        init=init,
        loss=loss,
        score=score,
        lift=None if model.lift is None else lift,
        fixed=(*model.fixed, *extra),
        stack=Stack(model, take, trained, received),
    )
    return recipe._replace(model=stacked_model, local=local)


def _without(groups: Tree, names: Mapping[str, Array]) -> Tree:
    return {name: part for name, part in groups.items() if name not in names}


def _draw(model: Model, count: int, equal: bool, key: Array) -> tuple[Tree, Tree]:
    """A stack of models and the personal parameters, before the first round."""
    first = model.init(key)
    if equal:
        models = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (count, *x.shape)), first.shared
        )
    else:
        keys = jax.random.split(jax.random.fold_in(key, 1), count)
        models = jax.vmap(lambda k: model.init(k).shared)(keys)
    return rows_first(models), first.personal
