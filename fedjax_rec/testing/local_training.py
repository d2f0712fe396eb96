"""Laws of local training: what `Recipe.local` declares is true."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Correction, Params
from fedjax_rec.testing.compare import require, shown
from fedjax_rec.testing.law import LawBroken, NotApplicable
from fedjax_rec.testing.system import System

CLIENT = 5


def weight_counts_examples(system: System) -> None:
    """`ClientResult.weight` is the number of the client's examples"""
    result, examples, _ = _trained(system)
    weight, count = float(result.weight), int(examples["mask"].sum())
    require(
        weight == count, f"the weight of a client with {count} examples is {weight:g}"
    )


def empty_clients_weigh_nothing(system: System) -> None:
    """A client without examples has weight 0"""
    result, *_ = _trained(system, client=len(system.base.everyone))
    require(
        float(result.weight) == 0,
        f"the weight of a client without examples is {float(result.weight):g}: count "
        "examples['mask']",
    )


def pairs_are_drawn_with_the_first_key(system: System) -> None:
    """Local training draws its pairs by `local.draw`, with the first of three keys"""
    local = system.recipe.local
    if local.draw is None:
        raise NotApplicable("local.draw is None")
    if local.every_row:
        raise NotApplicable("local.every_row: all rows are trained")
    result, examples, key = _trained(system)
    pairs = local.draw(examples, jax.random.split(key, 3)[0])
    tables = {n: x for n, x in result.delta.items() if rows.is_rows(x)}
    if not tables:
        raise NotApplicable("clients send no rows of a table")
    for name, delta in tables.items():
        moved = np.asarray(delta.values).reshape(len(delta.ids), -1).any(1)
        length = len(system.base.start.shared[name].values)
        ids = np.asarray(delta.ids)[moved]
        trained = set(ids[ids < length].tolist())
        mask = np.asarray(pairs["mask"])
        drawn = set(np.asarray(pairs[delta.space])[mask].tolist())
        require(
            trained <= drawn,
            f"rows {sorted(trained - drawn)[:5]} of {name!r} are trained, and "
            "local.draw(examples, jax.random.split(key, 3)[0]) does not hold them: "
            "wrappers and baselines draw a client's pairs again that way",
        )


def negatives_are_counted(system: System) -> None:
    """`local.negatives` is the number of negatives for each example"""
    local = system.recipe.local
    if local.draw is None:
        raise NotApplicable("local.draw is None")
    _, examples, key = _trained(system)
    pairs = int(local.draw(examples, key)["mask"].sum())
    count = int(examples["mask"].sum())
    require(
        pairs == (1 + local.negatives) * count,
        f"local.draw gives {pairs} pairs for {count} examples, and local.negatives="
        f"{local.negatives}: costs, chunks and buckets are computed from it",
    )


def steps_and_rates_are_true(system: System) -> None:
    """`local.steps` and `local.rate` are the steps of SGD and their length"""
    recipe, local = system.recipe, system.recipe.local
    if not local.corrections or local.steps is None or local.rate is None:
        raise NotApplicable("local.corrections, steps or rate are not declared")
    if local.momentum:
        raise NotApplicable("local.momentum is not 0")
    # With small rates the gradients are those at the start, so that a constant added
    # to each of them moves the parameters by -rate * steps * constant.
    hparams = {name: 1e-4 * x for name, x in recipe.hparams.items()}
    shared = system.base.start.shared
    free = {n: x for n, x in shared.items() if n not in recipe.model.fixed}
    plain, examples, key = _trained(system, hparams)
    drift = jax.tree.map(lambda x: jnp.full_like(x, 100.0), free)
    train: Callable = recipe.client_update
    update = functools.partial(train, correction=Correction(drift=drift))
    own = system.personal_of(min(CLIENT, len(system.base.everyone) - 1))
    params = Params(shared=shared, personal=own)
    shifted = jax.jit(update)(params, recipe.frozen, examples, hparams, key)
    steps = float(local.steps(examples["mask"].sum().astype(jnp.float32)))
    moves = jax.tree.map(
        lambda a, b: np.asarray(a) - np.asarray(b),
        _dense(shifted.delta, shared),
        _dense(plain.delta, shared),
    )
    for path, moved in jax.tree_util.tree_leaves_with_path(moves):
        table = rows.is_table(shared[path[0].key])
        rate = (local.row_rate or local.rate) if table else local.rate
        expected = -100.0 * steps * float(rate(hparams))
        largest = moved.ravel()[np.abs(moved).argmax()]
        if not np.isclose(largest, expected, rtol=0.02):
            kind = "row_rate" if table else "rate"
            raise LawBroken(
                f"100 was added to each gradient of {shown(path)}, which moved by "
                f"{largest:.4g}; local.steps={steps:g} and local.{kind} give "
                f"{expected:.4g}"
            )


def _dense(delta: Any, shared: Any) -> Any:
    """A delta with the rows of tables in dense arrays."""

    def leaf(table: Any, sent: Any) -> Any:
        if not rows.is_rows(sent):
            return sent
        return rows.scatter_add(jnp.zeros_like(table.values), sent)

    like = {name: shared[name] for name in delta}
    return jax.tree.map(leaf, like, delta, is_leaf=rows.is_table)


def _trained(system: System, hparams: Any = None, client: int | None = None) -> Any:
    """`(result, examples, key)` of one client's local training."""
    n = len(system.base.everyone)
    client = min(CLIENT, n - 1) if client is None else client
    hparams = system.recipe.hparams if hparams is None else hparams
    key, own = jax.random.key(11), system.personal_of(min(client, n - 1))
    result = system.train(jnp.int32(client), own, hparams, key)
    return result, system.examples(client), key


LAWS = (
    weight_counts_examples,
    empty_clients_weigh_nothing,
    pairs_are_drawn_with_the_first_key,
    negatives_are_counted,
    steps_and_rates_are_true,
)
