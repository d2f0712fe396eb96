"""Clients that hold and train only the first columns of a shared LoRA.

A client of rank `k` receives `A[:, :k]` and `B[:k]`. All clients have equal shapes
here, and other columns hold zeros: a zero column of `A` meets a zero row of `B`, so
that neither has a gradient, and both stay zero through any local optimizer.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import LORA_A as A
from fedjax_rec.core.backbone import LORA_B as B
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Params

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
