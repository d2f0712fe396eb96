"""A rule for LoRA's groups, next to any other rule for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.groups import by_group, unchanged
from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import LORA_A, LORA_B, LORA_BASE
from fedjax_rec.core.contracts import Aggregator, Recipe, Senders
from fedjax_rec.wrappers.lora import factors

if TYPE_CHECKING:
    from fedjax_rec.wrappers.lora.rules import LoRARule

GROUPS = (LORA_A, LORA_B, LORA_BASE)


def wrap(recipe: Recipe, settings: LoRARule) -> Recipe:
    """A recipe with a rule for LoRA's groups; see `LoRARule.build`."""
    ranks, shares = settings.ranks, settings.rank_shares
    shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    missing = [
        g for g in (LORA_A, LORA_B) if g not in shared or g in recipe.model.fixed
    ]
    if missing:
        raise ValueError(
            f"{type(settings).__name__} is a rule for LoRA and needs both factors "
            f"trained and shared, but {' and '.join(missing)} is not: leave it out of "
            "personal and fixed, of a system with algorithm=FedFM(adapter=LoRA())"
        )
    rank = jax.tree.leaves(shared[LORA_A])[0].shape[-1]
    if ranks and max(ranks) > rank:
        raise ValueError(f"ranks={ranks} exceed rank={rank} of the server")
    update = recipe.client_update
    if ranks or settings.norms:
        update = factors.with_ranks(
            update, factors.draw_ranks(ranks or (rank,), shares)
        )
    server = recipe.server_optimizer
    if settings.exact:
        server = unchanged(GROUPS, server)
    local = recipe.local
    reason = "the rule for LoRA reads each client's factors"
    return recipe._replace(
        client_update=update,
        aggregator=settings.aggregator(recipe.aggregator),
        server_optimizer=server,
        local=local._replace(
            per_client=(*local.per_client, reason),
            reconstructs=local.reconstructs and not ranks,
        ),
    )


def lora_rule(settings: LoRARule, inner: Aggregator) -> Aggregator:
    """Sets LoRA's groups to `settings.new_groups`, and leaves all others to `inner`.

    The metric `lora_gap` is `factors.gap` of the cohort. The delta of LoRA's groups is
    exact if the server applies it unchanged.

    Args:
        settings: weights and ranks of the clients; new values of LoRA's groups, and
            whether they change the dense correction, which then has to exist.
        inner: rule for the other groups.

    Returns:
        An aggregator. Its accumulator holds a dense `[layers, in, out]` for each
        adapted map. Its `init` raises a ValueError if a group is missing.

    Raises:
        ValueError: `inner` treats clients differently than a mean does, such as a
            robust rule, which LoRA's groups would bypass.
    """
    if not inner.linear:
        raise ValueError(
            f"wrapper={type(settings).__name__} sets LoRA's groups to weighted means, "
            "which would bypass an aggregation rule that reads each client's delta or "
            "loss: use a mean as aggregation, or FedIT without ranks as wrapper"
        )
    mixed, norms = bool(settings.ranks), settings.norms

    def init(shared: Tree, cohort_size: int) -> factors.FactorSums:
        if settings.lora_base and LORA_BASE not in shared:
            raise ValueError(
                f"the rule adds to the dense correction {LORA_BASE!r}, which the "
                "shared parameters do not have: build the adapter with base=True"
            )
        return factors.zero_sums(shared)

    def update(acc: factors.FactorSums, deltas: Tree, weights: Array, senders: Senders):
        n = (weights > 0).astype(weights.dtype) if settings.uniform else weights
        if norms:
            n = n * senders.extras[factors.NORM]
        columns = senders.extras[factors.COLUMNS] if mixed or norms else None
        return factors.add(acc, deltas, n, columns)

    def finish(acc: factors.FactorSums, state: Tree, shared: Tree):
        mean = factors.means(acc, shared)
        groups, new_state = settings.new_groups(mean, shared, state)
        moved = {
            name: jax.tree.map(jnp.subtract, groups.get(name, part), part)
            for name, part in shared.items()
        }
        # Without clients no group moves, and no factor restarts.
        present, still = acc.weight > 0, jax.tree.map(jnp.zeros_like, moved)
        delta = trees.where(present, moved, still)
        state = trees.where(present, new_state, state)
        return delta, state, {"lora_gap": factors.gap(mean)}

    # Not linear even if the delta is: products are of the factors of one client.
    numbers = 1 if norms else 0
    rule = Aggregator(init, update, finish, settings.start, numbers=numbers)
    return by_group(GROUPS, rule, inner)


def with_gap(inner: Aggregator, *, uniform: bool = False) -> Aggregator:
    """`inner` for all groups, with the metric `lora_gap`.

    Args:
        inner: rule for all groups.
        uniform: clients have equal weights in the gap, instead of their examples.
    """

    def init(shared: Tree, cohort_size: int) -> Tree:
        return inner.init(shared, cohort_size), factors.zero_sums(shared)

    def update(acc: Tree, deltas: Tree, weights: Array, senders: Senders) -> Tree:
        n = (weights > 0).astype(weights.dtype) if uniform else weights
        rest = inner.update(acc[0], deltas, weights, senders)
        return rest, factors.add(acc[1], deltas, n)

    def finish(acc: Tree, state: Tree, shared: Tree):
        delta, state, info = inner.finish(acc[0], state, shared)
        return (
            delta,
            state,
            {**info, "lora_gap": factors.gap(factors.means(acc[1], shared))},
        )

    def begin(acc: Tree, state: Tree) -> Tree:
        return inner.begin(acc[0], state), acc[1]

    return inner._replace(
        init=init, update=update, finish=finish, begin=begin, linear=False
    )
