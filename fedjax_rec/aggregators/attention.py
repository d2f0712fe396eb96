"""FedAtt: each layer's mean favours the clients that are far away in it."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.norms import squared_norms
from fedjax_rec.aggregators.reweighted import MOST
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class AttentionSums:
    """Sums over clients, of attention `e_i^l = exp(s_i^l / temperature)` by layer `l`.

    Attributes:
        total: like the shared parameters, of `e_i^l delta_i^l`.
        attention: `[leaves]`, of `e_i^l`.
        lengths: `I` of each table.
    """

    total: Tree
    attention: Array
    lengths: tuple[int, ...] = static()


def attentive(step: float = 1.0, temperature: float = 1.0) -> Aggregator:
    """`epsilon sum_i alpha_i^l delta_i^l`, `alpha^l = softmax_i ||delta_i^l||_2`.

    A layer is a leaf; a row table is one. The weights know no number of examples. With
    an infinite temperature and `step = 1` it is the uniform mean. Exponents are cut to
    `reweighted.MOST`: beyond it clients attend alike.

    Args:
        step: `epsilon`.
        temperature: of the softmax, 1 in the paper.

    Returns:
        An aggregator in O(1) memory in the cohort.

    Raises:
        ValueError: `temperature` is not positive.

    References:
        Ji et al., Learning Private Neural Language Modeling with Attentive
        Aggregation, IJCNN 2019.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}, expected a positive number")

    def init(shared: Tree, cohort_size: int) -> AttentionSums:
        del cohort_size
        lengths, dtype = rows.table_lengths(shared), jax.tree.leaves(shared)[0].dtype
        return AttentionSums(
            total=jax.tree.map(jnp.zeros_like, shared),
            attention=jnp.zeros(len(lengths), dtype),
            lengths=lengths,
        )

    def update(
        acc: AttentionSums, deltas: Tree, weights: Array, senders: Senders
    ) -> AttentionSums:
        del senders
        distance = jnp.sqrt(squared_norms(deltas, acc.lengths))
        attention = jnp.exp(jnp.minimum(distance / temperature, MOST))
        attention = jnp.where(weights[:, None] > 0, attention, 0)

        def add(total, delta, own: Array):
            if rows.is_rows(delta):
                values = rows.scatter_add(total.values, delta, own)
                return dataclasses.replace(total, values=values)
            return total + jnp.tensordot(own, delta, 1).astype(total.dtype)

        leaves, shape = jax.tree.flatten(acc.total, is_leaf=rows.is_table)
        sent = jax.tree.leaves(deltas, is_leaf=rows.is_rows)
        total = [add(*layer) for layer in zip(leaves, sent, attention.T, strict=True)]
        return AttentionSums(
            total=jax.tree.unflatten(shape, total),
            attention=acc.attention + attention.sum(0),
            lengths=acc.lengths,
        )

    def finish(acc: AttentionSums, state: Tree, shared: Tree):
        del shared
        leaves, shape = jax.tree.flatten(acc.total, is_leaf=rows.is_table)
        scale = step / jnp.where(acc.attention > 0, acc.attention, 1)
        delta = [
            jax.tree.map(lambda x, s=s: s * x, leaf)
            for leaf, s in zip(leaves, scale, strict=True)
        ]
        return jax.tree.unflatten(shape, delta), state, {}

    return Aggregator(init, update, finish)
