"""Novelty of the items that a user is shown first."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from etils import epy

from fedjax_rec.core.checks import check_ranges

if TYPE_CHECKING:
    from fedjax_rec.evaluation.ranking import Measure

with epy.lazy_imports():
    import jax.numpy as jnp
    import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Novelty:
    """`novelty@k`: mean self-information of the items in a user's top k, in bits.

    An item that `n` of `U` users have in training has `log2(U / n)` bits; an item that
    no user has counts as if one had it, so that all cold items are alike. The value
    does not depend on the positives, and is no measure of quality.

    Attributes:
        k: cut-off.

    References:
        Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender
        systems", PNAS 2010 (surprisal).
    """

    k: int = 10

    def __post_init__(self) -> None:
        check_ranges(self, k="[1, inf)")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the results."""
        return (f"novelty@{self.k}",)

    def build(self, train: Any) -> Measure:
        """The metric for the popularity of the training items."""
        users = len(np.unique(train.user))
        count = np.bincount(train.item, minlength=train.num_items)
        bits = np.log2(users / np.maximum(count, 1)).astype(np.float32)

        def measure(ranking):
            top = ranking.top(self.k)
            total = jnp.sum(jnp.where(top.filled, jnp.asarray(bits)[top.items], 0))
            mean = total / jnp.maximum(jnp.sum(top.filled), 1)
            return {self.names[0]: mean}

        return measure
