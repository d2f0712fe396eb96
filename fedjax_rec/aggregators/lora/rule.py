"""A rule for LoRA's factors beside any other rule for all else."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.lora.factors import (
    BASE,
    A,
    B,
    FactorSums,
    Means,
    add,
    gap,
    means,
    zero_sums,
)
from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator, Senders

Reach = Callable[[Means, Tree, Tree], tuple[dict[str, Tree], Tree]]
"""`(means, shared, state) -> (groups, state)`: what the groups of LoRA become."""

NOTHING = Aggregator(
    init=lambda shared, cohort_size: (),
    update=lambda acc, deltas, weights, senders: acc,
    finish=lambda acc, state, shared: ({}, state, {}),
)
"""The rule for other groups where there are none."""


def lora_rule(
    inner: Aggregator,
    reach: Reach | None = None,
    *,
    uniform: bool = False,
    base: bool = False,
    read: Callable[[Array, Array], tuple[Array, Array]] | None = None,
    start: Callable[[Tree], Tree] = lambda shared: (),
) -> Aggregator:
    """Lets `reach` decide on LoRA's groups, and `inner` on all others.

    Every such rule tells the `lora_gap` (`factors.gap`) of its cohort. The delta of
    LoRA's groups is exact if the server takes it as it is, by a step of 1.

    Args:
        inner: the rule for the other groups; for those of LoRA too without `reach`,
            but for the base, which clients do not train.
        reach: what becomes of LoRA's groups.
        uniform: every client weighs the same in the means, else its examples.
        base: whether `reach` writes to a base, which must then be there.
        read: `(profiles [V, p], weights [V]) -> (weights [V], mask [V, r])`: the
            clients' weights in the means, and the columns that each has.
        start: `(shared) -> state` of `reach`.

    Returns:
        An aggregator; its accumulator holds a dense `[layers, in, out]` for each
        adapted map. Its `init` raises a ValueError where a group is missing.
    """

    def others(tree: Tree) -> Tree:
        left_out = (BASE,) if reach is None else (A, B, BASE)
        return {name: part for name, part in tree.items() if name not in left_out}

    def rule_for(tree: Tree) -> Aggregator:
        return inner if others(tree) else NOTHING

    def init(shared: Tree, cohort_size: int) -> tuple[Tree, FactorSums]:
        if base and BASE not in shared:
            raise ValueError(
                f"the rule adds to the dense correction {BASE!r}, which is not among "
                f"the shared groups {', '.join(sorted(shared))}: make the adapter with "
                "lora(base=True)"
            )
        sums = zero_sums(shared)
        return rule_for(shared).init(others(shared), cohort_size), sums

    def update(acc, deltas: Tree, weights: Array, senders: Senders):
        rest, sums = acc
        n = (weights > 0).astype(weights.dtype) if uniform else weights
        mask = None
        if read is not None:
            if senders.profile is None:
                raise ValueError(
                    "clients of different ranks tell theirs in ClientResult.profile, "
                    "which is None: wrap their update in clients.ranks.with_ranks"
                )
            n, mask = read(senders.profile, n)
        rest = rule_for(deltas).update(rest, others(deltas), weights, senders)
        return rest, add(sums, deltas, n, mask)

    def finish(acc, state, shared: Tree):
        rest, sums = acc
        kept, own = state
        delta, kept, info = rule_for(shared).finish(rest, kept, others(shared))
        found = means(sums, shared)
        info = {**info, "lora_gap": gap(found)}
        if BASE in shared:
            delta[BASE] = jax.tree.map(jnp.zeros_like, shared[BASE])
        if reach is not None:
            groups, new = reach(found, shared, own)
            moved = {
                name: jax.tree.map(jnp.subtract, groups.get(name, part), part)
                for name, part in shared.items()
                if name in (A, B, BASE)
            }
            # Nobody took part: nothing moves, nothing restarts.
            some, still = sums.weight > 0, jax.tree.map(jnp.zeros_like, moved)
            delta |= trees.where(some, moved, still)
            own = trees.where(some, new, own)
        return delta, (kept, own), info

    def both(shared: Tree):
        return rule_for(shared).start(others(shared)), start(shared)

    def begin(acc, state):
        return inner.begin(acc[0], state[0]), acc[1]

    # Not linear even where the delta is: products are of what each client sends.
    return Aggregator(init, update, finish, both, begin=begin)
