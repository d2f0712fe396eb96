"""Exact aggregation of LoRA: the model becomes the mean of the clients' models."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.lora.factors import BASE, A, B, Means, columns
from fedjax_rec.aggregators.lora.rule import lora_rule
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator


def corrected(
    inner: Aggregator, *, uniform: bool = False, mixed: bool = False
) -> Aggregator:
    """FedEx-LoRA: means of the factors, and what they miss goes to the base.

    `A = mean(A_i)`, `B = mean(B_i)`, `C += mean(A_i B_i) - A B`, so that `C + A B` is
    the old `C` plus the mean product. Where the paper sends the residual to clients as
    factors of rank `r (C + 1)`, or cut to a smaller one, a client here receives `C`
    whole: nobody has to have taken part in every round.

    Args:
        inner: the rule for all other groups.
        uniform: every client weighs the same, else its number of examples.
        mixed: clients have different ranks, and are wrapped by
            `clients.ranks.with_ranks`.

    Returns:
        An aggregator in O(1) memory in the cohort.

    References:
        Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient
        Fine-Tuning of Foundation Models, ACL 2025.
    """

    def reach(found: Means, shared: Tree, state: Tree):
        base = {
            path: shared[BASE][path] + product - found.a[path] @ found.b[path]
            for path, product in found.product.items()
        }
        return {A: found.a, B: found.b, BASE: base}, state

    read = columns if mixed else None
    return lora_rule(inner, reach, uniform=uniform, base=True, read=read)


@struct
class Restarts:
    """Of which fresh factors are drawn.

    Attributes:
        seed: uint32 scalar, made of the first `A`.
        count: int32 scalar, restarts so far.
    """

    seed: Array
    count: Array


def stacked(
    inner: Aggregator, *, uniform: bool = False, mixed: bool = False
) -> Aggregator:
    """FLoRA: the clients' stacked factors are folded into the base, adapters restart.

    `[A_1 .. A_C] [n_1 B_1; ..; n_C B_C] / sum n_i` is the mean product, `C` gains it,
    and clients start the next round from a fresh `A`, uniform within `in ** -0.5` as
    in `models.adapters.lora`, and `B = 0`. The draws follow from the first `A`, so from
    the experiment's seed.

    Args:
        inner: the rule for all other groups.
        uniform: every client weighs the same, else its number of examples.
        mixed: clients have different ranks, and are wrapped by
            `clients.ranks.with_ranks`.

    Returns:
        An aggregator in O(1) memory in the cohort.

    References:
        Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with
        Heterogeneous Low-Rank Adaptations, NeurIPS 2024.
    """

    def start(shared: Tree) -> Restarts:
        leaves = jax.tree.leaves(shared[A])
        words = [
            jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
            for x in leaves
        ]
        return Restarts(
            seed=sum((w.sum(dtype=jnp.uint32) for w in words), jnp.uint32(0)),
            count=jnp.zeros((), jnp.int32),
        )

    def reach(found: Means, shared: Tree, state: Restarts):
        key = jax.random.fold_in(jax.random.key(state.seed), state.count)
        keys = jax.random.split(key, len(found.a))
        fresh, base = {}, {}
        for path_key, (path, a) in zip(keys, sorted(found.a.items()), strict=True):
            bound = a.shape[1] ** -0.5
            fresh[path] = jax.random.uniform(path_key, a.shape, a.dtype, -bound, bound)
            base[path] = shared[BASE][path] + found.product[path]
        zero = jax.tree.map(jnp.zeros_like, found.b)
        new = Restarts(seed=state.seed, count=state.count + 1)
        return {A: fresh, B: zero, BASE: base}, new

    read = columns if mixed else None
    return lora_rule(inner, reach, uniform=uniform, base=True, read=read, start=start)
