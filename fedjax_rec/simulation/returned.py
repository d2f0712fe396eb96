"""Parts from outside the package, traced with abstract arrays before a run compiles.

A wrong shape would otherwise surface in the engine, after other programs have compiled
and far from the class that returned it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import (
    Aggregator,
    ClientResult,
    Model,
    Params,
    Recipe,
    Senders,
)
from fedjax_rec.core.messages import MessageTransform, Sender
from fedjax_rec.simulation.messages import sent_groups, without_state
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import round_hparams
from fedjax_rec.storage.sources import PACKAGE, own_file

RESULTS: dict[str, type] = {
    "algorithm": Recipe,
    "wrapper": Recipe,
    "attack": Recipe,
    "aggregation": Aggregator,
    "codec": MessageTransform,
    "model": Model,
}
"""What `build` of a part returns, by slot."""


def built(part: Any, context: Any, slot: str) -> Any:
    """`part.build(context)`.

    Raises:
        ValueError: it takes other arguments, or returned something else than its slot
            takes.
    """
    try:
        inspect.signature(part.build).bind(context)
    except TypeError as error:
        raise ValueError(
            f"{type(part).__name__}.build cannot be called with a context: {error}; "
            "expected def build(self, context)"
        ) from error
    result, expected = part.build(context), RESULTS[slot]
    if not isinstance(result, expected):
        hint = ": does it end without `return`?" if result is None else ""
        raise ValueError(
            f"{type(part).__name__}.build(context) returned {_named(result)}; expected "
            f"a {expected.__name__} of fedjax_rec.core, since the part is "
            f"{slot}{hint}"
        )
    return result


def _named(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def check_shapes(experiment: Any, recipe: Recipe, context: Context) -> None:
    """Checks what the functions of parts from outside the package return.

    Args:
        experiment: its parts are looked at, and the package's own are trusted.
        recipe: the system of the experiment.
        context: facts about it; needs the clients' data.

    Raises:
        ValueError: a result has another shape or structure, or a function fails.
    """
    algorithm = experiment.algorithm
    trained = _own(algorithm, getattr(algorithm, "model", None), experiment.wrapper)
    coded = _own(experiment.codec)
    sent = _own(experiment.codec, experiment.attack)
    joined = _own(experiment.aggregation)
    if not (trained or sent or joined):
        return
    params = _params(recipe, jax.random.key(0))
    if trained:
        _check_scores(trained, recipe, params, context.num_items)
    result = _train(trained or type(algorithm).__name__, recipe, params, context)
    delta = result.delta
    if trained:
        _check_keys(f"{trained}: client_update", delta, params.shared)
    if recipe.transform is not None:
        owner = sent or trained or joined
        message = sent_groups(recipe.model, delta)
        decoded = _through(owner, recipe, params.shared, result)
        if coded:
            _compare(f"{coded}: the decoded delta", decoded, message)
        delta = {**decoded, **{n: x for n, x in delta.items() if n not in message}}
    if joined or trained:
        rule = joined or trained
        finished = _traced(
            f"{rule}: the aggregation of the deltas",
            lambda shared, delta: _fold(
                recipe.aggregator, context.cohort_size, shared, delta, result
            ),
            params.shared,
            delta,
        )
        _compare(f"{rule}: the aggregate `finish` returns", finished, params.shared)


def _own(*parts: Any) -> str:
    """The names of those parts that come from outside the package, with `+`."""
    chain = [part for part in parts if part is not None]
    for part in chain:
        if (then := getattr(part, "then", None)) is not None:
            chain.append(then)
    own = [type(part) for part in chain if own_file(type(part)) is not None]
    return "+".join(cls.__name__ for cls in own)


def _params(recipe: Recipe, key: Any) -> Params:
    """Shapes of one client's parameters."""
    shared = jax.eval_shape(recipe.model.init, key).shared
    personal = jax.eval_shape(lambda: initial_personal(recipe, key, 1))
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), personal)
    return Params(shared=shared, personal=without_state(one))


def _check_scores(owner: str, recipe: Recipe, params: Params, num_items: int) -> None:
    for candidates, count in ((None, num_items), (jnp.zeros(3, jnp.int32), 3)):

        def score(params: Params, frozen: Any, candidates=candidates) -> Any:
            query = {"user": jnp.int32(0)}
            return recipe.model.score(params, frozen, query, candidates)

        scores = _traced(f"{owner}: score", score, params, recipe.frozen)
        shape = getattr(scores, "shape", None)
        if shape != (count,):
            which = "all items" if candidates is None else "3 candidates"
            raise ValueError(
                f"{owner}: score of {which} returns {_shape(scores)}, expected "
                f"[{count}], one number for each item"
            )


def _train(
    owner: str, recipe: Recipe, params: Params, context: Context
) -> ClientResult:
    def train(data: Any, params: Params, frozen: Any, hparams: Any) -> ClientResult:
        key = jax.random.key(0)
        examples = data.examples(jnp.int32(0), 0)
        hparams = round_hparams(hparams, key, jnp.int32(0))
        return recipe.client_update(params, frozen, examples, hparams, key)

    hparams = jax.tree.map(jnp.asarray, recipe.hparams)
    arguments = context.clients, params, recipe.frozen, hparams
    result = _traced(f"{owner}: local training of a client", train, *arguments)
    if not isinstance(result, ClientResult):
        raise ValueError(
            f"{owner}: client_update returned {_named(result)}; expected a ClientResult"
        )
    return result


def _through(owner: str, recipe: Recipe, shared: Any, result: ClientResult) -> Any:
    """The delta after encoding and decoding."""
    transform = recipe.transform
    assert transform is not None

    def code(shared: Any, result: ClientResult) -> Any:
        sender = Sender(
            id=jnp.int32(0),
            key=jax.random.key(0),
            round_key=jax.random.key(1),
            weight=result.weight,
            personal=result.personal,
        )
        state = transform.init(sent_groups(recipe.model, shared))
        delta = rows_of(result.delta, shared)
        message, _ = transform.encode(sent_groups(recipe.model, delta), state, sender)
        return transform.decode(message)

    return _traced(f"{owner}: encoding and decoding a delta", code, shared, result)


def rows_of(delta: Any, shared: Any) -> Any:
    """A delta with the lengths of its tables, as messages have them."""

    def leaf(table: Any, change: Any) -> Any:
        if not rows.is_table(table) or not rows.is_rows(change):
            return change
        return rows.merge_repeats(change, table.values.shape[0])

    return {
        name: jax.tree.map(leaf, shared[name], part, is_leaf=rows.is_table)
        for name, part in delta.items()
    }


def _fold(
    rule: Aggregator, slots: int, shared: Any, delta: Any, result: ClientResult
) -> Any:
    """The delta of a cohort with one client in its slots."""
    state = rule.start(shared)
    acc = rule.begin(rule.init(shared, slots), state)
    extras = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), result.extras)
    first = jnp.zeros(1, jnp.int32)
    loss = jnp.zeros(1, jax.tree.leaves(shared)[0].dtype)
    senders = Senders(slots=first, ids=first, loss=loss, extras=extras)
    deltas = jax.tree.map(lambda x: x[None], delta)
    acc = rule.update(acc, deltas, jnp.ones(1, loss.dtype), senders)
    return rule.finish(acc, state, shared)[0]


def _traced(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Shapes of a function's result; an error of it with its place in a user's file."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        raise ValueError(f"{what} fails: {failure(error)}") from error


def failure(error: BaseException) -> str:
    """An error in one line, with the last line of a user's file that it passed."""
    places = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if PACKAGE not in path.resolve().parents and "site-packages" not in path.parts:
            places = f" ({path.name}, line {frame.lineno})"
    text = " ".join(str(error).partition("\n\n")[0].split())
    return f"{type(error).__name__}: {text}{places}"


def _check_keys(what: str, groups: Any, expected: Any) -> None:
    if not isinstance(groups, dict) or set(groups) != set(expected):
        names = ", ".join(groups) if isinstance(groups, dict) else _named(groups)
        raise ValueError(f"{what} has {names}; expected {', '.join(expected)}")


def _compare(what: str, groups: Any, expected: Any) -> None:
    _check_keys(what, groups, expected)
    for name, group in groups.items():
        _compare_leaves(what, name, group, expected[name])


def _compare_leaves(what: str, name: str, group: Any, expected: Any) -> None:
    """Compares shapes; of rows only those of a row."""

    def is_leaf(x: Any) -> bool:
        return rows.is_table(x) or rows.is_rows(x)

    actual = jax.tree.leaves(group, is_leaf=is_leaf)
    wanted = jax.tree.leaves(expected, is_leaf=is_leaf)
    for x, y in zip(actual, wanted, strict=False):
        whole = y.values.shape if is_leaf(y) else y.shape
        shape = x.values.shape if is_leaf(x) else x.shape
        if rows.is_rows(x):
            shape, whole = shape[1:], whole[1:]
        if shape != whole:
            raise ValueError(
                f"{what} has {list(shape)} in {name}; expected {list(whole)}"
            )
    if len(actual) != len(wanted):
        raise ValueError(
            f"{what} has {len(actual)} arrays in {name}; expected {len(wanted)}"
        )


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return _named(value) if shape is None else str(list(shape))
