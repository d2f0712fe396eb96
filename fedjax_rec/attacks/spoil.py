"""Attacks that spoil the model: the opposite of a delta, or noise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.checks import check_ranges

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.attacks import transform
    from fedjax_rec.core import rows

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignFlip:
    """Attackers send `-scale` times their delta.

    With a small `scale` it is inner product manipulation (Xie et al., Fall of Empires,
    UAI 2019) by attackers that do not cooperate: each takes its own delta for the
    honest mean. With a large one it is easy to see, and as easy to clip.

    Attributes:
        share: share of the population that attacks.
        scale: length of the false delta relative to the honest one.
        seed: seed of the attackers.

    References:
        Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019.
    """

    share: float = 0.1
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, share="[0, 1]", scale="(0, inf)")

    def build(self, context: Context) -> Recipe:
        """Attacks `context.recipe`."""

        def falsify(delta, sender, key):
            return rows.map_values(lambda x: -self.scale * x, delta)

        return transform.attacked(context, self, falsify)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Attackers send Gaussian noise, on the rows that they touched.

    Its standard deviation is `scale` times the root mean square of the leaf's delta.

    Attributes:
        share: share of the population that attacks.
        scale: size of the noise relative to the honest delta.
        seed: seed of the attackers.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """

    share: float = 0.1
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, share="[0, 1]", scale="(0, inf)")

    def build(self, context: Context) -> Recipe:
        """Attacks `context.recipe`."""

        def draw(x, real, key):
            square = jnp.where(real, jnp.square(x), 0).sum()
            size = jnp.sqrt(square / jnp.maximum(real.sum(), 1).astype(x.dtype))
            return self.scale * size * jax.random.normal(key, x.shape, x.dtype)

        def leaf(delta, key):
            if not rows.is_rows(delta):
                return draw(delta, jnp.ones(delta.shape, bool), key)
            real = delta.ids < delta.num_rows
            real = real.reshape(-1, *[1] * (delta.values.ndim - 1))
            real = jnp.broadcast_to(real, delta.values.shape)
            return dataclasses.replace(delta, values=draw(delta.values, real, key))

        def falsify(delta, sender, key):
            leaves, structure = jax.tree.flatten(delta, is_leaf=rows.is_rows)
            keys = jax.random.split(key, len(leaves))
            return structure.unflatten(map(leaf, leaves, keys))

        return transform.attacked(context, self, falsify)
