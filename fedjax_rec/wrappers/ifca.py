"""IFCA: several models, and each client trains the one that fits it best."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import clusters
    from fedjax_rec.core import contracts, rows, stacks, trees

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context

CLUSTER = "cluster"
"""Personal group `[S]`: 1 for the client's cluster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IFCA:
    """Trains `clusters` models, of which each client takes the one with least loss.

    Each round a client computes the loss of every model on its pairs, trains the best
    one, and sends its delta with the number of the model; the server averages within
    clusters (option II of the paper, model averaging). Models start from draws of their
    own. A client is evaluated by the model it took last, a client that never trained by
    the first one.

    A client receives all models and computes the loss of each. A shared table is copied
    for each client of a chunk, so catalogs have to be small.

    Attributes:
        clusters: number of models.

    References:
        Ghosh et al., An Efficient Framework for Clustered Federated Learning, NeurIPS
        2020, algorithm 1.
    """

    clusters: int = 2

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"clusters={self.clusters}, expected at least 1")

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`, which needs `local.draw`."""
        recipe = context.recipe
        assert recipe is not None
        made = stacks.stacked(
            recipe,
            self.clusters,
            lambda params: jnp.argmax(params.personal[CLUSTER]),
            personal={CLUSTER: jnp.zeros(self.clusters).at[0].set(1)},
            received=self.clusters,
        )
        return made._replace(
            client_update=best_of(recipe, self.clusters),
            aggregator=clusters.by_cluster(recipe.aggregator, self.clusters),
        )


def best_of(recipe: contracts.Recipe, num_clusters: int) -> contracts.ClientUpdate:
    """Local training of the model with the least loss, for parameters of a stack.

    Raises:
        ValueError: the recipe's local training draws no pairs.
    """
    draw, model = recipe.local.draw, recipe.model
    if draw is None:
        raise ValueError("IFCA compares losses on drawn pairs: local.draw is None")

    def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
        personal = dict(params.personal)
        previous = personal.pop(CLUSTER)
        # The pairs that local training draws, too.
        pairs = draw(examples, jax.random.split(key, 3)[0])

        def loss_of(index):
            shared = stacks.select(params.shared, index)
            spaces = {
                leaf.space: pairs[leaf.space]
                for leaf in jax.tree.leaves(shared, is_leaf=rows.is_table)
                if rows.is_table(leaf)
            }
            view = contracts.Params(
                shared=rows.gather(shared, spaces), personal=personal
            )
            batch = {**pairs, **dict.fromkeys(spaces)}
            return model.loss(view, frozen, batch, key)[0]

        index = jnp.argmin(jax.lax.map(loss_of, jnp.arange(num_clusters)))
        chosen = contracts.Params(
            shared=stacks.select(params.shared, index), personal=personal
        )
        result = recipe.client_update(chosen, frozen, examples, hparams, key)
        member = (jnp.arange(num_clusters) == index).astype(previous.dtype)
        member = trees.where(result.weight > 0, member, previous)
        return dataclasses.replace(
            result,
            personal={**result.personal, CLUSTER: member},
            extras={**result.extras, clusters.MEMBER: member},
        )

    return update
