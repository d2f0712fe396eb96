"""Means of the clients' LoRA factors and of their products, as a fold.

Clients of a LoRA train two factors of one matrix, and the mean of the matrices is not
the product of the factors' means. A rule that minds the difference needs the mean
product, a dense `[in, out]` for each adapted map, whatever the size of the cohort. From
deltas it is

    mean(A_i B_i) = A mean(m) B + A mean(dB_i) + mean(dA_i) B + mean(dA_i dB_i)

with the factors `A`, `B` that were sent out, and the share `mean(m)` of clients that
have each of their `r` columns: all of them, if ranks do not differ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree, struct

A, B, BASE = "lora_a", "lora_b", "lora_base"
"""The groups of `models.adapters.lora`."""

ByPath = dict[str, Array]


@struct
class FactorSums:
    """Running sums over clients of weight `n_i`; leaves by path, `[layers, ...]`.

    Attributes:
        a: of `n_i dA_i`.
        b: of `n_i dB_i`.
        product: of `n_i dA_i dB_i`.
        mask: `[r]`, of the weights of the clients that have a column.
        weight: scalar, of `n_i`.
    """

    a: ByPath
    b: ByPath
    product: ByPath
    mask: Array
    weight: Array


class Means(NamedTuple):
    """Of the clients' factors, where one of a smaller rank is padded with zeros.

    Attributes:
        a: `{path: [layers, in, r]}`.
        b: `{path: [layers, r, out]}`.
        product: `{path: [layers, in, out]}`.
    """

    a: ByPath
    b: ByPath
    product: ByPath


def zero_sums(shared: Tree) -> FactorSums:
    """No client yet.

    Raises:
        ValueError: the shared parameters have no `lora_a` and `lora_b`.
    """
    if missing := {A, B} - set(shared):
        raise ValueError(
            f"{', '.join(sorted(missing))} is not among the shared groups "
            f"{', '.join(sorted(shared))}: a rule for LoRA expects both factors there, "
            "so neither personal nor of another adapter"
        )
    a, b = shared[A], shared[B]
    dtype = jax.tree.leaves(a)[0].dtype
    return FactorSums(
        a=jax.tree.map(jnp.zeros_like, a),
        b=jax.tree.map(jnp.zeros_like, b),
        product={p: jnp.zeros((*a[p].shape[:2], b[p].shape[2]), dtype) for p in a},
        mask=jnp.zeros(jax.tree.leaves(a)[0].shape[-1], dtype),
        weight=jnp.zeros((), dtype),
    )


def add(
    sums: FactorSums, deltas: Tree, weights: Array, mask: Array | None = None
) -> FactorSums:
    """Adds clients.

    Args:
        sums: so far.
        deltas: with leaves `[V, layers, ...]` in both groups.
        weights: `[V]`, 0 for the absent.
        mask: `[V, r]`, 1 where a client has a column; `None` is everywhere. Deltas of
            other columns are zero.
    """
    mask = jnp.ones((len(weights), len(sums.mask))) if mask is None else mask

    def mean(total: Array, x: Array) -> Array:
        return total + jnp.tensordot(weights, x, 1).astype(total.dtype)

    def product(total: Array, a: Array, b: Array) -> Array:
        # The factors of all clients stacked along the rank: one matmul.
        return total + jnp.einsum("v,vlir,vlro->lio", weights, a, b).astype(total.dtype)

    return FactorSums(
        a=jax.tree.map(mean, sums.a, deltas[A]),
        b=jax.tree.map(mean, sums.b, deltas[B]),
        product=jax.tree.map(product, sums.product, deltas[A], deltas[B]),
        mask=sums.mask + (weights @ mask).astype(sums.mask.dtype),
        weight=sums.weight + weights.sum().astype(sums.weight.dtype),
    )


def means(sums: FactorSums, shared: Tree) -> Means:
    """Of the factors that clients ended with, which started from `shared`'s.

    Args:
        sums: over all clients.
        shared: what they received.

    Returns:
        The means; nobody's are those of clients that did not move.
    """
    some = sums.weight > 0
    n = jnp.where(some, sums.weight, 1)
    share = jnp.where(some, sums.mask / n, 1)
    a, b, product = {}, {}, {}
    for path in sums.a:
        a0, b0 = shared[A][path], shared[B][path]
        da, db = sums.a[path] / n, sums.b[path] / n
        a[path] = a0 * share + da
        b[path] = share[:, None] * b0 + db
        product[path] = a[path] @ b0 + a0 @ db + sums.product[path] / n
    return Means(a, b, product)


def gap(found: Means) -> Array:
    """`||mean(A_i B_i) - mean(A_i) mean(B_i)||_F / ||mean(A_i B_i)||_F`, a scalar.

    Over all adapted maps together; 0 where all products are.
    """
    missed = whole = jnp.zeros(())
    for path, product in found.product.items():
        missed += jnp.sum((product - found.a[path] @ found.b[path]) ** 2)
        whole += jnp.sum(product**2)
    return jnp.sqrt(missed / jnp.where(whole > 0, whole, 1))


def columns(profile: Array, weights: Array) -> tuple[Array, Array]:
    """What `clients.ranks.with_ranks` tells: `(weights [V], columns had [V, r])`."""
    return weights, profile[:, :-1]
