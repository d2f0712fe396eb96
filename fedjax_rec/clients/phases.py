"""Phases of a local step: one optimizer step on named parts of the parameters."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Correction


class Phase(NamedTuple):
    """One optimizer step on named parts of the parameters.

    Attributes:
        optimizer: `(hparams) -> optax transformation`, for all leaves that `row_rate`
            does not cover.
        names: top-level names in `Params.shared` and `Params.personal`; `None` is all.
        row_rate: `(hparams) -> scalar`, or a dict of them by name: tables take plain
            SGD with this rate, at the cost of the batch's rows. `None`: tables go
            through `optimizer`, at the cost of all the client's rows per step.
        proximal: `(hparams) -> mu`, adds `mu / 2 |x - received|^2` to the loss of the
            shared groups, in a table over all rows that the client touches in a round.
    """

    optimizer: Callable[[Tree], optax.GradientTransformation]
    names: tuple[str, ...] | None = None
    row_rate: Callable[[Tree], Array | float | dict[str, Any]] | None = None
    proximal: Callable[[Tree], Array | float] | None = None

    def part(self, tree: dict[str, Tree]) -> dict[str, Tree]:
        """The groups that the phase trains."""
        names = tree if self.names is None else self.names
        return {name: tree[name] for name in names}

    def split(self, tree: dict[str, Tree]) -> tuple[Tree, Tree]:
        """`(tables under row_rate, leaves under optimizer)` of the trained groups."""
        part = self.part(tree)
        if self.row_rate is None:
            return jax.tree.map(lambda _: None, part, is_leaf=rows.is_table), part
        return rows.split_tables(part)

    def descend(
        self, local, grads, at, state, hparams, correction: Correction, received, count
    ) -> tuple[Tree, Tree]:
        """One step.

        Args:
            local: parameters of the client, by group.
            grads: gradients of the phase's groups, with tables of the batch's rows.
            at: row numbers of the batch in the client's tables `[B]`, by space; `None`
                if the tables are the batch's rows.
            state: state of the optimizer.
            hparams: traced scalars.
            correction: changes of the gradients.
            received: shared parameters that the client received.
            count: scalar, number of real pairs of the batch.

        Returns:
            `(groups, state)` after the step.
        """
        tables, dense = self.split(local)
        row_grads, dense_grads = self.split(grads)
        pulls = self._pulls(local, received, hparams)
        if self.row_rate is not None:
            rates = self.row_rate(hparams)
            if not isinstance(rates, dict):
                rates = dict.fromkeys(row_grads, rates)
            drifts = [rows.split_tables(x)[0] for x in (correction.drift, pulls)]
            tables = _descend_rows(
                tables, row_grads, rates, at, correction.basis, drifts, count
            )
            _, pulls = rows.split_tables(pulls)
        zeros, _ = rows.split_tables(jax.tree.map(jnp.zeros_like, dense))
        row_grads, dense_grads = rows.split_tables(dense_grads)
        row_grads = rows.map_tables(partial(_add, at), zeros, row_grads)
        dense_grads = rows.merge_tables(row_grads, dense_grads)
        _, drifts = rows.split_tables(correction.drift)
        for name, drift in (*drifts.items(), *pulls.items()):
            if name in dense_grads and jax.tree.leaves(drift):
                dense_grads[name] = jax.tree.map(jnp.add, dense_grads[name], drift)
        updates, new_state = self.optimizer(hparams).update(dense_grads, state, dense)
        # Momentum and weight decay move parameters without a gradient: not on padding.
        live = count > 0
        dense = trees.where(live, optax.apply_updates(dense, updates), dense)
        return rows.merge_tables(tables, dense), trees.where(live, new_state, state)

    def _pulls(self, local: Tree, received: Tree, hparams: Tree) -> Tree:
        """Gradients of the proximal term, by shared group that the phase trains."""
        if self.proximal is None:
            return {}
        mu = self.proximal(hparams)
        return {
            name: jax.tree.map(lambda x, a: mu * (x - a), part, received[name])
            for name, part in self.part(local).items()
            if name in received
        }


def _descend_rows(
    tables: Tree, grads: Tree, rates: dict, at: dict, basis: dict, drifts: list, count
) -> Tree:
    """Tables after plain SGD on the batch's rows, and drifts on all rows."""
    # A batch of padding has zero gradients: no row moves.
    steps = {
        name: jax.tree.map(
            partial(_plain_step, rates.get(name, 0), basis.get(name)), part
        )
        for name, part in grads.items()
    }
    tables = rows.map_tables(partial(_add, at), tables, steps)
    for name, drift in (pair for groups in drifts for pair in groups.items()):
        if name not in tables or not jax.tree.leaves(drift):
            continue
        step = -jnp.where(count > 0, rates.get(name, 0), 0)
        tables[name] = jax.tree.map(
            lambda x, c, step=step: (x + step * c).astype(x.dtype), tables[name], drift
        )
    return tables


def _add(at: dict[str, Array | None], table: rows.Table, step: rows.Table):
    """A table with `step` added to the batch's rows."""
    number = at[table.space]
    if number is None:
        values = table.values + step.values
    else:
        values = table.values.at[number].add(step.values, mode="drop")
    return dataclasses.replace(table, values=values)


def _plain_step(rate, basis: Array | None, gradient: Array) -> Array:
    if basis is not None:
        r, d = basis.shape
        gradient = (d / r) ** 0.5 * (gradient @ basis.T) @ basis
    return (-rate * gradient).astype(gradient.dtype)


def check_corrected(phases: tuple[Phase, ...], local: Tree, correction: Correction):
    """Raises a ValueError if a corrected table is not under plain SGD."""
    tables, _ = rows.split_tables(correction.drift)
    corrected = {name for name, part in tables.items() if jax.tree.leaves(part)}
    corrected |= set(correction.basis)
    for phase in phases:
        both = sorted(corrected & set(phase.part(local)))
        if phase.row_rate is None and both:
            raise ValueError(
                f"a correction of the tables {', '.join(both)} needs plain SGD on "
                "their rows; another local optimizer does not step along its gradient"
            )
