"""The variety of a user's list: the share of all genres among its first items.

fedjax-rec train quickstart --plugin examples/own_metric.py --protocol.metric variety
fedjax-rec sweep quickstart --plugin examples/own_metric.py --protocol.metric variety \\
    --protocol.selection variety@10 --grid algorithm.dim=8,16

It appears next to the other metrics in every file, table and paired test of a run.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

import fedjax_rec as fr


@fr.kind("metric")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Variety:
    """`variety@k`: the share of an attribute's values among the top k items.

    Attributes:
        k: cut-off.
        attribute: an attribute of the items, with several values joined by `|`.
    """

    k: int = 10
    attribute: str = "genre"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the results."""
        return (f"variety@{self.k}",)

    def build(self, train: fr.Interactions):
        """The metric for the training items."""
        values = [text.split("|") for text in train.items.attributes[self.attribute]]
        every = sorted({value for several in values for value in several})
        has = np.array([[value in several for value in every] for several in values])

        def measure(ranking: fr.Ranking):
            top = ranking.top(self.k)
            shown = jnp.asarray(has)[top.items] & top.filled[:, None]
            return {self.names[0]: shown.any(axis=0).mean()}

        return measure
