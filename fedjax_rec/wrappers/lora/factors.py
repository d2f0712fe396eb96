"""Means of the clients' LoRA factors and of their products, as a fold.

Clients of a LoRA train two factors of one matrix, and the mean of the matrices is not
the product of the factors' means. A rule that accounts for the difference needs the
mean product, a dense `[in, out]` for each adapted map, whatever the size of the cohort.
From deltas it is

    mean(A_i B_i) = A mean(m) B + A mean(dB_i) + mean(dA_i) B + mean(dA_i dB_i)

with the factors `A`, `B` that were sent out, and the share `mean(m)` of clients that
have each of their `r` columns: all of them, if ranks do not differ.

A client of rank `k` receives `A[:, :k]` and `B[:k]`. All clients have equal shapes
here, and other columns hold zeros: a zero column of `A` meets a zero row of `B`, so
that neither has a gradient, and both stay zero through any local optimizer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.backbone import LORA_A as A
from fedjax_rec.core.backbone import LORA_B as B
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Params

ByPath = dict[str, Array]


@struct
class FactorSums:
    """Running sums over clients of weight `n_i`; leaves by path, `[layers, ...]`.

    Attributes:
        a: sum of `n_i dA_i`.
        b: sum of `n_i dB_i`.
        product: sum of `n_i dA_i dB_i`.
        columns: `[r]` summed weights of the clients that have a column.
        weight: scalar, sum of `n_i`.
    """

    a: ByPath
    b: ByPath
    product: ByPath
    columns: Array
    weight: Array


class Means(NamedTuple):
    """Means over clients; factors of a smaller rank are padded with zeros.

    Attributes:
        a: `{path: [layers, in, r]}`.
        b: `{path: [layers, r, out]}`.
        product: `{path: [layers, in, out]}`.
    """

    a: ByPath
    b: ByPath
    product: ByPath


def zero_sums(shared: Tree) -> FactorSums:
    """Sums over no clients.

    Raises:
        ValueError: the shared parameters have no `lora_a` and `lora_b`.
    """
    if missing := {A, B} - set(shared):
        raise ValueError(
            f"{', '.join(sorted(missing))} is not among the shared groups "
            f"{', '.join(sorted(shared))}: a rule for LoRA expects both factors there, "
            "so neither may be personal or fixed"
        )
    a, b = shared[A], shared[B]
    dtype = jax.tree.leaves(a)[0].dtype
    return FactorSums(
        a=jax.tree.map(jnp.zeros_like, a),
        b=jax.tree.map(jnp.zeros_like, b),
        product={p: jnp.zeros((*a[p].shape[:2], b[p].shape[2]), dtype) for p in a},
        columns=jnp.zeros(jax.tree.leaves(a)[0].shape[-1], dtype),
        weight=jnp.zeros((), dtype),
    )


def add(
    sums: FactorSums, deltas: Tree, weights: Array, columns: Array | None = None
) -> FactorSums:
    """Adds clients.

    Args:
        sums: the sums so far.
        deltas: both groups, with leaves `[V, layers, ...]`.
        weights: `[V]`, 0 for absent clients.
        columns: `[V, r]`, 1 for the columns that a client has; `None` for all. Deltas
            of other columns are zero.
    """
    if columns is None:
        columns = jnp.ones((len(weights), len(sums.columns)))

    def mean(total: Array, x: Array) -> Array:
        return total + jnp.tensordot(weights, x, 1).astype(total.dtype)

    def product(total: Array, a: Array, b: Array) -> Array:
        # The factors of all clients stacked along the rank: one matmul.
        return total + jnp.einsum("v,vlir,vlro->lio", weights, a, b).astype(total.dtype)

    return FactorSums(
        a=jax.tree.map(mean, sums.a, deltas[A]),
        b=jax.tree.map(mean, sums.b, deltas[B]),
        product=jax.tree.map(product, sums.product, deltas[A], deltas[B]),
        columns=sums.columns + (weights @ columns).astype(sums.columns.dtype),
        weight=sums.weight + weights.sum().astype(sums.weight.dtype),
    )


def means(sums: FactorSums, shared: Tree) -> Means:
    """Means of the factors that clients ended with, having started from `shared`.

    Over no clients they are those of clients that did not move.
    """
    present = sums.weight > 0
    n = jnp.where(present, sums.weight, 1)
    share = jnp.where(present, sums.columns / n, 1)
    a, b, product = {}, {}, {}
    for path in sums.a:
        a0, b0 = shared[A][path], shared[B][path]
        da, db = sums.a[path] / n, sums.b[path] / n
        a[path] = a0 * share + da
        b[path] = share[:, None] * b0 + db
        product[path] = a[path] @ b0 + a0 @ db + sums.product[path] / n
    return Means(a, b, product)


def gap(mean: Means) -> Array:
    """`||mean(A_i B_i) - mean(A_i) mean(B_i)||_F / ||mean(A_i B_i)||_F`, a scalar.

    Over all adapted maps together; 0 if all products are.
    """
    difference = total = jnp.zeros(())
    for path, product in mean.product.items():
        difference += jnp.sum((product - mean.a[path] @ mean.b[path]) ** 2)
        total += jnp.sum(product**2)
    return jnp.sqrt(difference / jnp.where(total > 0, total, 1))


COLUMNS, NORM = "lora_columns", "lora_norm"
"""Entries of `ClientResult.extras`: `[r]`, 1 for the columns that the client has, and
the scalar `||A_i B_i||_F` after training, over all adapted maps."""


def draw_ranks(
    ranks: Sequence[int], shares: Sequence[float] = (), seed: int = 0
) -> Callable[[Array], Array]:
    """Draws ranks from the users' ids, so that a user always has the same one.

    Args:
        ranks: possible ranks.
        shares: share of the users with each rank; empty for equal ones.
        seed: seed of the assignment.

    Returns:
        `(user id) -> rank`, int32 scalars.
    """
    shares = tuple(shares) or (1 / len(ranks),) * len(ranks)
    ends, values = np.cumsum(shares)[:-1], jnp.asarray(ranks, jnp.int32)

    def rank_of(user: Array) -> Array:
        word = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), user))
        return values[jnp.searchsorted(jnp.asarray(ends), word, side="right")]

    return rank_of


def with_ranks(update: ClientUpdate, rank_of: Callable[[Array], Array]) -> ClientUpdate:
    """Restricts each client to its own rank, a function of its (first) user's id.

    Args:
        update: local training over shared `lora_a` and `lora_b`.
        rank_of: from `draw_ranks`.

    Returns:
        Local training of the client's columns, with `COLUMNS` and `NORM` among its
        `extras`.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024.
    """

    def ranked(params: Params, frozen, examples, hparams, key, **more) -> ClientResult:
        shared = params.shared
        widest = jax.tree.leaves(shared[A])[0].shape[-1]
        columns = jnp.arange(widest) < rank_of(examples["user"][0])
        received = {
            **shared,
            A: jax.tree.map(lambda x: jnp.where(columns, x, 0), shared[A]),
            B: jax.tree.map(lambda x: jnp.where(columns[:, None], x, 0), shared[B]),
        }
        start = Params(shared=received, personal=params.personal)
        result = update(start, frozen, examples, hparams, key, **more)
        squares = jnp.zeros(())
        for path in received[A]:
            a, b = (received[g][path] + result.delta[g][path] for g in (A, B))
            # ||A B||^2 = <A^T A, B B^T>, without the dense product.
            grams = jnp.einsum("lir,lis->lrs", a, a), jnp.einsum("lro,lso->lrs", b, b)
            squares += jnp.sum(grams[0] * grams[1])
        norm = jnp.sqrt(jnp.maximum(squares, 0))
        return result.extended(extras={COLUMNS: columns.astype(norm.dtype), NORM: norm})

    return ranked
