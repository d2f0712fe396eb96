"""Local training of one client: epochs of minibatch steps on rows and dense leaves.

Each step runs one or more *phases*: alternating optimisation of named parts, as many
personalised recommenders do. With a single phase this is the local SGD of FedAvg
(McMahan et al. 2017); with a proximal term, FedProx (Li et al. 2020).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import (
    ClientResult,
    ClientUpdate,
    Correction,
    Model,
    Params,
)

Columns = dict[str, Array]
Draw = Callable[[Columns, Array], Columns]

_NO_CORRECTION = Correction()


class Phase(NamedTuple):
    """One optimiser step on some named parts of the parameters.

    Attributes:
        optimizer: `(hparams) -> optax transformation`, for what `row_rate` leaves.
        names: top-level names in `Params.shared` and `Params.personal`; `None` is all.
        row_rate: `(hparams) -> scalar`, or a dict of them by name: tables take plain
            SGD of this rate, at a cost of the batch's rows. `None`: tables go through
            `optimizer` like all else, at a cost of all the client's rows a step.
        proximal: `(hparams) -> mu`, adding `mu / 2 |x - received|^2` to the loss of
            what `optimizer` handles (so it wants `row_rate=None`).
    """

    optimizer: Callable[[Tree], optax.GradientTransformation]
    names: tuple[str, ...] | None = None
    row_rate: Callable[[Tree], Array | float | dict[str, Any]] | None = None
    proximal: Callable[[Tree], Array | float] | None = None

    def part(self, tree: dict[str, Tree]) -> dict[str, Tree]:
        """What the phase trains."""
        names = tree if self.names is None else self.names
        return {name: tree[name] for name in names}

    def split(self, tree: dict[str, Tree]) -> tuple[Tree, Tree]:
        """`(tables under row_rate, leaves under optimizer)` of what it trains."""
        part = self.part(tree)
        if self.row_rate is None:
            return jax.tree.map(lambda _: None, part, is_leaf=rows.is_table), part
        return rows.split_tables(part)


def local_update(
    model: Model,
    draw: Draw,
    phases: tuple[Phase, ...],
    *,
    batch_size: int,
    epochs: int = 1,
    shuffle: bool = True,
    group: int = 1,
) -> ClientUpdate:
    """Builds a client's local training.

    Args:
        model: what is trained.
        draw: `(examples, key) -> pairs`: a dict of `[P, ...]` columns with `mask`, the
            ids of every space of the model, and what its loss reads. Called once a
            round.
        phases: run in order on every batch.
        batch_size: `B`; the last batch of an epoch may hold fewer.
        epochs: passes over the pairs.
        shuffle: a new uniform order each epoch; otherwise the order of `draw`.
        group: so many consecutive pairs (a positive and its negatives) stay together;
            the first of a group is real wherever another is.

    Returns:
        The client update. Its delta holds a `rows.Rows` for each table.
    """

    def update(
        params: Params,
        frozen,
        examples,
        hparams,
        key,
        correction: Correction = _NO_CORRECTION,
    ) -> ClientResult:
        draw_key, order_key, loss_key = jax.random.split(key, 3)
        pairs = draw(examples, draw_key)
        num_groups = pairs["mask"].shape[0] // group
        batch_groups = min(max(1, batch_size // group), num_groups)
        steps = -(-num_groups // batch_groups)
        tables, _ = rows.split_tables(correction.drift)
        once = steps * epochs == 1 and _adds_up(phases, params)
        once = once and not jax.tree.leaves(tables)  # it is added to a row once
        ids, pairs = _touch(params.shared, pairs, merge=not once)
        start = {**rows.gather(params.shared, ids), **params.personal}
        _check_plain(phases, start, correction)
        correction = dataclasses.replace(
            correction, drift=_touched_rows(correction.drift, ids)
        )
        names = frozenset(params.shared)
        step = _make_step(model, phases, frozen, hparams, correction, start, names)
        carry = (start, [p.optimizer(hparams).init(p.split(start)[1]) for p in phases])

        def batches_of(order):
            def cut(column):
                column = column.reshape(num_groups, group, *column.shape[1:])[order]
                shape = (steps, batch_groups * group, *column.shape[2:])
                return column.reshape(shape)

            batches = {name: cut(column) for name, column in pairs.items()}
            real = jnp.repeat(jnp.arange(len(order)) < num_groups, group)
            batches["mask"] &= real.reshape(steps, -1)
            return batches

        def epoch(carry, keys):
            order_key, loss_key = keys
            if steps == 1:
                return step(carry, (pairs, loss_key))
            order = _order(order_key, pairs["mask"][::group], shuffle)
            order = jnp.pad(order, (0, steps * batch_groups - num_groups))
            keys = jax.random.split(loss_key, steps)
            return jax.lax.scan(step, carry, (batches_of(order), keys))

        if epochs == 1:
            (trained, _), sums = epoch(carry, (order_key, loss_key))
        else:
            keys = (
                jax.random.split(order_key, epochs),
                jax.random.split(loss_key, epochs),
            )
            (trained, _), sums = jax.lax.scan(epoch, carry, keys)
        totals = jax.tree.map(jnp.sum, sums)
        count = totals.pop("count")
        return ClientResult(
            delta=_delta(
                params.shared, {n: start[n] for n in names}, trained, ids, not once
            ),
            personal={name: trained[name] for name in params.personal},
            weight=examples["mask"].sum().astype(count.dtype),
            metrics={name: x / jnp.maximum(count, 1) for name, x in totals.items()},
        )

    return update


def _check_plain(phases: tuple[Phase, ...], flat: Tree, correction: Correction):
    tables, _ = rows.split_tables(correction.drift)
    corrected = {n for n, part in tables.items() if jax.tree.leaves(part)}
    corrected |= set(correction.basis)
    for phase in phases:
        both = sorted(corrected & set(phase.part(flat)))
        if phase.row_rate is None and both:
            raise ValueError(
                f"a correction of the tables {', '.join(both)} needs plain SGD on "
                "their rows; another local optimizer does not step along its gradient"
            )


def _touched_rows(tables: Tree, ids: Columns) -> Tree:
    """As `rows.gather`, with zeros for padding."""

    def rows_of(table: rows.Table) -> rows.Table:
        values = table.values.at[ids[table.space]].get(mode="fill", fill_value=0)
        return dataclasses.replace(table, values=values)

    return rows.map_tables(rows_of, tables)


def _adds_up(phases: tuple[Phase, ...], params: Params) -> bool:
    """Whether steps on a repeated row just add up within one batch.

    So they do where a single phase descends the tables by plain SGD: every occurrence
    takes its gradient at the row's initial value.
    """
    flat = {**params.shared, **params.personal}
    trains = [bool(_spaces(phase.part(flat))) for phase in phases]
    plain = all(p.row_rate for p, t in zip(phases, trains, strict=True) if t)
    return sum(trains) <= 1 and plain


def _spaces(tree: Tree) -> set[str]:
    leaves = jax.tree.leaves(tree, is_leaf=rows.is_table)
    return {leaf.space for leaf in leaves if rows.is_table(leaf)}


def _touch(shared: Tree, pairs: Columns, merge: bool):
    """Ids of the local tables' rows `[R]`; the pairs with row numbers in ids' place.

    Without `merge` the rows come in the order of the pairs, and their numbers are
    `None`: nothing is gathered or scattered. With it, each row comes once, in ascending
    order, as many as there are pairs, but no more than the table has; what is left of
    them is padding.
    """
    ids: Columns = {}
    local: dict[str, Any] = dict(pairs)
    for leaf in jax.tree.leaves(shared, is_leaf=rows.is_table):
        if not rows.is_table(leaf) or leaf.space in ids:
            continue
        space, length = leaf.space, leaf.values.shape[0]
        touched = pairs[space]
        if not merge:
            ids[space], local[space] = touched, None
        else:
            place = local[space] = rows.places_in_order(touched, length)
            empty = jnp.full(min(len(place), length), length, jnp.int32)
            ids[space] = empty.at[place].set(touched, mode="drop")
    return ids, local


_POSITION_BITS = 14


def _order(key: Array, mask: Array, shuffle: bool) -> Array:
    """A permutation `[P]` int32 with the real pairs first.

    One sort of packed words (padding flag, 16 random bits, position), 4 times as fast
    as an argsort. Equal random bits fall back on the position. The order of the real
    pairs does not depend on how much padding follows, so neither do results.
    """
    n = mask.shape[0]
    position = jnp.arange(n, dtype=jnp.uint32)
    words = (~mask).astype(jnp.uint32) << 31
    if shuffle:
        halves = jax.random.bits(key, (-(-n // 2), 1), jnp.uint32)
        halves = jnp.concatenate([halves >> 16, halves & 0xFFFF], axis=1)
        words |= halves.reshape(-1)[:n] << _POSITION_BITS
    if n <= 1 << _POSITION_BITS:
        order = jax.lax.sort(words | position) & ((1 << _POSITION_BITS) - 1)
    else:
        order = jax.lax.sort((words, position), num_keys=1, is_stable=True)[1]
    return order.astype(jnp.int32)


def _make_step(model, phases, frozen, hparams, correction, start, shared_names):
    """One batch: every phase's step, in order."""

    def as_params(flat) -> Params:
        shared = {k: v for k, v in flat.items() if k in shared_names}
        return Params(
            shared=shared,
            personal={k: v for k, v in flat.items() if k not in shared_names},
        )

    def step(carry, inputs):
        local, states = carry
        batch, key = inputs
        spaces = _spaces(local)
        at = {space: batch[space] for space in spaces}
        # Rows are gathered in the batch's order: for the model its ids are "all".
        aligned = {**batch, **dict.fromkeys(spaces)}
        count = batch["mask"].sum()
        new_states, sums = [], {}
        for phase, state in zip(phases, states, strict=True):
            view = rows.gather(local, at)

            def loss_of(part, rest):
                return model.loss(as_params({**rest, **part}), frozen, aligned, key)

            grad = jax.value_and_grad(loss_of, has_aux=True)
            (loss, metrics), grads = grad(phase.part(view), view)
            if not sums:
                count = count.astype(loss.dtype)
                sums = {k: v * count for k, v in {"loss": loss, **metrics}.items()}
            new, state = _descend(
                phase, local, grads, at, state, hparams, correction, start, count
            )
            local = {**local, **new}
            new_states.append(state)
        return (local, new_states), {**sums, "count": count}

    return step


def _descend(phase: Phase, local, grads, at, state, hparams, correction, start, count):
    """One step of a phase, given gradients of the batch's rows and dense leaves."""

    def add(table, step):
        number = at[table.space]
        if number is None:
            values = table.values + step.values
        else:
            values = table.values.at[number].add(step.values, mode="drop")
        return dataclasses.replace(table, values=values)

    tables, dense = phase.split(local)
    row_grads, dense_grads = phase.split(grads)
    if phase.row_rate is not None:
        rate = phase.row_rate(hparams)
        rates = rate if isinstance(rate, dict) else dict.fromkeys(row_grads, rate)
        # A batch of padding has zero gradients: nothing moves.
        steps = {
            name: jax.tree.map(
                partial(_plain_step, rates.get(name, 0), correction.basis.get(name)),
                part,
            )
            for name, part in row_grads.items()
        }
        tables = rows.map_tables(add, tables, steps)
        drifts, _ = rows.split_tables(correction.drift)
        for name, drift in drifts.items():
            if name not in tables or not jax.tree.leaves(drift):
                continue
            step = -jnp.where(count > 0, rates.get(name, 0), 0)
            tables[name] = jax.tree.map(
                lambda x, c, step=step: (x + step * c).astype(x.dtype),
                tables[name],
                drift,
            )
    zeros, _ = rows.split_tables(jax.tree.map(jnp.zeros_like, dense))
    row_grads, dense_grads = rows.split_tables(dense_grads)
    dense_grads = rows.merge_tables(rows.map_tables(add, zeros, row_grads), dense_grads)
    _, drifts = rows.split_tables(correction.drift)
    for name, drift in drifts.items():
        if name in dense_grads and jax.tree.leaves(drift):
            dense_grads[name] = jax.tree.map(jnp.add, dense_grads[name], drift)
    if phase.proximal is not None:
        pull, anchor = phase.proximal(hparams), phase.split(start)[1]
        dense_grads = jax.tree.map(
            lambda g, x, a: g + pull * (x - a), dense_grads, dense, anchor
        )
    updates, new_state = phase.optimizer(hparams).update(dense_grads, state, dense)
    # Momentum and weight decay move parameters without a gradient: not on padding.
    live = count > 0
    dense = trees.where(live, optax.apply_updates(dense, updates), dense)
    return rows.merge_tables(tables, dense), trees.where(live, new_state, state)


def _plain_step(rate, basis: Array | None, gradient: Array) -> Array:
    if basis is not None:
        r, d = basis.shape
        gradient = (d / r) ** 0.5 * (gradient @ basis.T) @ basis
    return (-rate * gradient).astype(gradient.dtype)


def _delta(
    shared: Tree, start: Tree, trained: Tree, ids: dict[str, Array], merged: bool
) -> Tree:
    def difference(whole, before, after):
        if not rows.is_table(before):
            return after - before
        at, values = ids[before.space], after.values - before.values
        change = rows.Rows(ids=at, values=values, space=before.space)
        if not merged:
            return change
        length = whole.values.shape[0]
        real = (at < length).reshape(-1, *(1,) * (values.ndim - 1))
        values = jnp.where(real, values, 0)
        return dataclasses.replace(change, values=values, num_rows=length, ordered=True)

    after = {name: trained[name] for name in start}
    return jax.tree.map(difference, shared, start, after, is_leaf=rows.is_table)
