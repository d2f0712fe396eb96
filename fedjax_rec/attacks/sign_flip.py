"""Sending the opposite of what was learned."""

import dataclasses

import jax

from fedjax_rec.attacks.members import Attack, sent_by
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.rows import is_rows


def sign_flip(members: Array, *, scale: float = 1.0) -> Attack:
    """Members send `-scale` times their delta.

    With a small `scale` it is inner product manipulation (Xie et al., Fall of Empires,
    UAI 2019) by attackers that do not know of one another: each takes its own delta for
    the honest mean. With a large one it is easy to see, and as easy to clip.

    Args:
        members: `[N]` bool, who attacks.
        scale: how much longer the false delta is.

    Returns:
        A `Recipe.attack`.

    References:
        Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019.
    """

    def falsify(result, key):
        del key

        def flip(leaf):
            if is_rows(leaf):
                return dataclasses.replace(leaf, values=-scale * leaf.values)
            return -scale * leaf

        return jax.tree.map(flip, result.delta, is_leaf=is_rows)

    return sent_by(members, falsify)
