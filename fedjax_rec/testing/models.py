"""Laws of models: a recommender, written for one client."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model, Params
from fedjax_rec.testing.compare import check_close, check_finite, require, shown
from fedjax_rec.testing.law import LawBroken, NotApplicable
from fedjax_rec.testing.system import System, first


class Examined:
    """A model with parameters and a batch.

    Args:
        model: the model.
        num_items: `I`.
        frozen: as in `Recipe`.
        hparams: as in `Recipe`.
        batch: whole groups of pairs; by default six pairs. If it is empty, none is
            known.
        group: consecutive pairs that belong together.
    """

    def __init__(
        self,
        model: Model,
        num_items: int,
        frozen: Any = (),
        hparams: Any = None,
        batch: Any = None,
        group: int = 1,
    ) -> None:
        self.model, self.num_items, self.frozen = model, num_items, frozen
        self.hparams = hparams or {}
        self.params: Params = jax.jit(model.init)(jax.random.key(0))
        self.scored = jax.jit(model.score)
        self.pairs = six_pairs(num_items) if batch is None else batch
        self.group = group

    @property
    def batch(self) -> dict[str, Any]:
        """The batch."""
        if not self.pairs:
            raise NotApplicable("local.draw is None, so that no batch is known")
        return self.pairs

    def loss(self, params: Params, batch: Any) -> Any:
        """The loss of a batch, without its metrics."""
        key = jax.random.key(0)
        return self.model.loss(params, self.frozen, batch, key, self.hparams)[0]

    @functools.cached_property
    def gradient(self) -> Any:
        """`(params, batch) -> (loss, gradient)`, compiled."""
        return jax.jit(jax.value_and_grad(self.loss))

    def score(self, params: Params, items: Any = None) -> Any:
        """Scores of user 0."""
        return self.scored(params, self.frozen, {"user": jnp.int32(0)}, items)


def six_pairs(num_items: int) -> dict[str, Any]:
    """Pairs of one user, two of which are masked."""
    items = np.random.default_rng(0).integers(0, num_items, 6)
    return {
        "item": jnp.asarray(items, jnp.int32),
        "user": jnp.zeros(6, jnp.int32),
        "label": jnp.asarray([1.0, 0, 0, 1, 0, 1]),
        "mask": jnp.asarray([True, True, False, True, False, True]),
    }


@functools.lru_cache(maxsize=1)
def of_system(system: System) -> Examined:
    """The model of a system, with the pairs that a client draws."""
    run, recipe = system.base, system.recipe
    if recipe.model.stack is not None:
        raise NotApplicable("the shared parameters are several models")
    client = min(5, len(run.everyone) - 1)
    examples = system.examples(client)
    draw = recipe.local.draw
    batch = {} if draw is None else dict(jax.jit(draw)(examples, jax.random.key(1)))
    group = 1 + recipe.local.negatives
    if batch:
        batch["mask"] &= jnp.arange(len(batch["mask"])) // group % 3 != 1
    facts = (run.data.num_items, recipe.frozen, recipe.hparams)
    model = Examined(recipe.model, *facts, batch, group)
    own = first(run.personal, client)
    personal = {name: own[name] for name in model.params.personal}
    model.params = Params(shared=run.start.shared, personal=personal)
    return model


def groups_are_apart(model: Examined) -> None:
    """Shared and personal parameters have no name in common"""
    both = set(model.params.shared) & set(model.params.personal)
    require(
        not both,
        f"{', '.join(sorted(both))} is both shared and personal: a group has one place",
    )


def masked_pairs_change_nothing(model: Examined) -> None:
    """Masked pairs change neither the loss nor the gradient"""
    mask = np.asarray(model.batch["mask"])
    kept = {
        name: column[mask] if np.shape(column)[:1] == mask.shape else column
        for name, column in model.batch.items()
    }
    loss, gradient = model.gradient(model.params, model.batch)
    alone, expected = model.gradient(model.params, kept)
    what = f"with {(~mask).sum()} masked pairs, and without them"
    require(
        np.isclose(loss, alone, atol=1e-6),
        f"the loss is {float(loss):.6g} {what.replace('and', f'and {alone:.6g}')}: it "
        "has to average over batch['mask'] only",
    )
    check_close(gradient, expected, f"the gradient {what}", atol=1e-6, rtol=1e-5)


def empty_batches_have_no_loss(model: Examined) -> None:
    """A batch without pairs has loss 0 and gradient 0"""
    batch = {**model.batch, "mask": jnp.zeros_like(model.batch["mask"])}
    loss, gradient = model.gradient(model.params, batch)
    require(
        float(loss) == 0,
        f"the loss of a batch in which all pairs are masked is {float(loss)}: divide "
        "by jnp.maximum(mask.sum(), 1)",
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        require(
            (np.asarray(leaf) == 0).all(),
            f"the gradient of {shown(path)} is {np.abs(leaf).max():.3g} for a batch in "
            "which all pairs are masked: a penalty has to be weighted by the mask, too",
        )


def every_item_has_a_score(model: Examined) -> None:
    """`score` without candidates returns one finite score for each item"""
    every = model.score(model.params)
    require(
        every.shape == (model.num_items,),
        f"score(..., candidates=None) has shape {every.shape}; expected "
        f"({model.num_items},)",
    )
    check_finite(every, "the scores of all items")


def candidates_are_scored_as_among_all(model: Examined) -> None:
    """The scores of candidates are those of all items at the candidates"""
    at = jnp.asarray([3, 3, 0, model.num_items - 1])
    scores = model.score(model.params, at)
    require(
        scores.shape == at.shape,
        f"score of candidates [4] has shape {scores.shape}; expected (4,)",
    )
    check_close(
        scores,
        model.score(model.params)[at],
        "scores of the items 3, 3, 0 and the last, and of all items at these",
        atol=1e-6,
        rtol=1e-5,
    )


def an_item_is_scored_by_its_own_row(model: Examined) -> None:
    """An item's score reads no other item's row"""
    params, every = model.params, model.score(model.params)
    tables = {
        name: leaf
        for name, leaf in params.shared.items()
        if rows.is_table(leaf) and leaf.space == "item"
    }
    if not tables:
        raise NotApplicable("no shared group is a table with a row per item")
    for name, table in tables.items():
        values = table.values.at[5].add(9.0)
        other = {**params.shared, name: dataclasses.replace(table, values=values)}
        scores = model.score(dataclasses.replace(params, shared=other))
        same = np.isclose(scores, every, rtol=0, atol=0, equal_nan=True)
        changed = np.flatnonzero(~same).tolist()
        if set(changed) - {5}:
            raise LawBroken(
                f"another row of item 5 in {name!r} changes the scores of the items "
                f"{changed}: look rows up with rows.lookup(table, candidates)"
            )


LAWS_OF_MODELS = (
    groups_are_apart,
    masked_pairs_change_nothing,
    empty_batches_have_no_loss,
    every_item_has_a_score,
    candidates_are_scored_as_among_all,
    an_item_is_scored_by_its_own_row,
)


def _of_system(law: Any) -> Any:
    @functools.wraps(law)
    def examined(system: System) -> None:
        law(of_system(system))

    return examined


LAWS = tuple(map(_of_system, LAWS_OF_MODELS))
