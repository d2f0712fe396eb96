"""Clients that hold and train only the first columns of a shared LoRA.

A client of rank `k` receives `A[:, :k]` and `B[:k]`. Here all have the same shapes, and
the others' places hold zeros: what a zero column of `A` meets is a zero row of `B`, so
neither gets a gradient, and both stay zero through any local optimizer.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Params

A, B = "lora_a", "lora_b"


def draw_ranks(
    ranks: Sequence[int], shares: Sequence[float] = (), seed: int = 0
) -> Callable[[Array], Array]:
    """Ranks as random words of the users' ids: a user's is its own for good.

    Args:
        ranks: that there are.
        shares: of the users that have each; empty for equal ones.
        seed: of the assignment.

    Returns:
        `(user id) -> rank`, scalars of int32.

    Raises:
        ValueError: a rank below 1, or shares that are not one for each rank or do not
            add up to 1.
    """
    shares = tuple(shares) or (1 / max(len(ranks), 1),) * len(ranks)
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks={tuple(ranks)}, expected one or more of at least 1")
    bad = len(shares) != len(ranks) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6
    if bad:
        raise ValueError(
            f"rank_shares={shares} for ranks={tuple(ranks)}: expected one share for "
            "each, none negative, 1 in all"
        )
    ends, values = np.cumsum(shares)[:-1], jnp.asarray(ranks, jnp.int32)

    def rank_of(user: Array) -> Array:
        word = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), user))
        return values[jnp.searchsorted(jnp.asarray(ends), word, side="right")]

    return rank_of


def with_ranks(update: ClientUpdate, rank_of: Callable[[Array], Array]) -> ClientUpdate:
    """Gives each client its own rank, a function of its (first) user's id.

    Args:
        update: local training over shared `lora_a` and `lora_b`.
        rank_of: from `draw_ranks`.

    Returns:
        The update on the client's own columns. Its `profile` `[r + 1]` tells which
        these are, then `||A_i B_i||_F` after training, over all adapted maps.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024.
    """

    def ranked(params: Params, frozen, examples, hparams, key) -> ClientResult:
        shared = params.shared
        widest = jax.tree.leaves(shared[A])[0].shape[-1]
        mask = jnp.arange(widest) < rank_of(examples["user"][0])
        received = {
            **shared,
            A: jax.tree.map(lambda x: jnp.where(mask, x, 0), shared[A]),
            B: jax.tree.map(lambda x: jnp.where(mask[:, None], x, 0), shared[B]),
        }
        result = update(
            Params(shared=received, personal=params.personal),
            frozen,
            examples,
            hparams,
            key,
        )
        squares = jnp.zeros(())
        for path in received[A]:
            a, b = (received[g][path] + result.delta[g][path] for g in (A, B))
            # ||A B||^2 = <A^T A, B B^T>, without the dense product.
            grams = jnp.einsum("lir,lis->lrs", a, a), jnp.einsum("lro,lso->lrs", b, b)
            squares += jnp.sum(grams[0] * grams[1])
        norm = jnp.sqrt(jnp.maximum(squares, 0))
        profile = jnp.append(mask.astype(norm.dtype), norm)
        return dataclasses.replace(result, profile=profile)

    return ranked
