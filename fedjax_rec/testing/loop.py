"""A round against a Python loop over its clients."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.aggregators.means import Mean, Sum
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Aggregator
from fedjax_rec.simulation.round import client_key
from fedjax_rec.testing import rules
from fedjax_rec.testing.compare import check_close
from fedjax_rec.testing.law import NotApplicable
from fedjax_rec.testing.system import System, first


def round_is_a_loop_over_clients(system: System) -> None:
    """A round equals a Python loop over clients, aggregated in NumPy"""
    if system.recipe.transform is not None:
        raise NotApplicable("messages are transformed, so the loop is not the round")
    run, rule = system.base, system.rule or find_mean(system.recipe.aggregator)
    recipe, shared = run.recipe, run.start.shared
    state, personal, _ = run(run.everyone, rounds=1)
    by_examples = getattr(rule, "weights", "") == "examples"
    sums = jax.tree.map(np.zeros_like, shared)
    weight_sum, touched = 0.0, {}

    for client in range(len(run.everyone)):
        key = client_key(run.key, jnp.int32(0), jnp.int32(client))
        own = system.personal_of(client)
        result = system.train(jnp.int32(client), own, recipe.hparams, key)
        check_close(
            first(personal, client),
            result.personal,
            f"personal parameters of client {client} after a round, and after "
            "client_update without it",
            atol=1e-6,
            rtol=1e-5,
        )
        weight = float(result.weight) if by_examples else 1.0
        weight_sum += weight
        for part, delta in result.delta.items():
            add = functools.partial(_added, weight)
            sums[part] = jax.tree.map(add, sums[part], delta, is_leaf=rows.is_table)
            if rows.is_rows(delta):
                length = len(sums[part].values)
                seen = touched.setdefault(part, np.zeros(length))
                ids = np.unique(delta.ids)
                seen[ids[ids < length]] += weight
    mean = sums
    if rule != Sum():
        mean = jax.tree.map(lambda x: x / weight_sum, sums)
        for part, seen in touched.items():
            if rule.per_row:
                mean[part] = rows.Table(
                    values=sums[part].values / np.maximum(seen, 1e-30)[:, None],
                    space=sums[part].space,
                )
    moves, _ = recipe.server_optimizer(recipe.hparams).update(
        jax.tree.map(lambda x: -jnp.asarray(x), mean), run.start.optimizer, shared
    )
    check_close(
        state.shared,
        optax.apply_updates(shared, moves),
        "shared parameters after a round, and after the loop",
        atol=2e-5,
        rtol=1e-4,
    )


def find_mean(aggregator: Aggregator) -> Any:
    """The mean or the sum that an aggregator computes.

    Raises:
        NotApplicable: it computes something else.
    """
    deltas, weights = rules.deltas(0, 6), jnp.arange(6.0)
    try:
        result = rules.aggregate(aggregator, rules.everyone(deltas, weights))
    except Exception as error:
        raise NotApplicable("the aggregator reads more than the deltas") from error
    for rule in (
        Mean(),
        Mean(weights="uniform"),
        Sum(),
        Mean(per_row=True),
        Mean(weights="uniform", per_row=True),
    ):
        mean = rule.build(rules.facts())
        expected = rules.aggregate(mean, rules.everyone(deltas, weights))
        pairs = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
        if all(np.allclose(a, b, atol=1e-6) for a, b in pairs):
            return rule
    raise NotApplicable("the aggregate is neither a mean nor a sum of the deltas")


def _added(weight: float, total: Any, delta: Any) -> Any:
    """`total + weight delta`, of a dense leaf or of some rows of a table."""
    if not rows.is_rows(delta):
        return total + weight * np.asarray(delta)
    real = np.asarray(delta.ids) < len(total.values)
    values = total.values.copy()
    sent = weight * np.asarray(delta.values)
    np.add.at(values, np.asarray(delta.ids)[real], sent[real])
    return dataclasses.replace(total, values=values)
