"""IFCA: several models, of which each client takes the one that fits it best."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.clusters import by_cluster, select
from fedjax_rec.algorithms.stacked import stacked
from fedjax_rec.core import rows, trees
from fedjax_rec.core.contracts import ClientResult, Params, Recipe

CLUSTER = "cluster"
"""The personal group `[S]`: a one where the client's cluster is."""


def clustered(recipe: Recipe, num_clusters: int) -> Recipe:
    """Trains `S` models where a recipe trains one.

    Each round a client takes the model with the least loss on its pairs, trains it, and
    sends its delta and which it was; the server averages within clusters (option II of
    the paper, model averaging). Models start from draws of their own. A client is
    evaluated by the model it took last, one that never trained by the first.

    A client receives all models, and computes the loss of each: that is the price. A
    shared table is copied for each client of a chunk, so catalogs must not be large.

    Args:
        recipe: of one model, with `draw`, and not lifted.
        num_clusters: `S`.

    Returns:
        A recipe of the same system.

    Raises:
        ValueError: the recipe is lifted, has a codec or an attack, or no `draw`.

    References:
        Ghosh et al., An Efficient Framework for Clustered Federated Learning, NeurIPS
        2020, algorithm 1.
    """
    draw, model = recipe.draw, recipe.model
    if draw is None:
        raise ValueError("clusters by loss need a recipe that draws its pairs")

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        own = dict(params.personal)
        before = own.pop(CLUSTER)
        # The pairs that local training draws too.
        pairs = draw(examples, jax.random.split(key, 3)[0])

        def fits(index):
            shared = select(params.shared, index)
            spaces = {
                leaf.space: pairs[leaf.space]
                for leaf in jax.tree.leaves(shared, is_leaf=rows.is_table)
                if rows.is_table(leaf)
            }
            here = Params(shared=rows.gather(shared, spaces), personal=own)
            batch = {**pairs, **dict.fromkeys(spaces)}
            return model.loss(here, frozen, batch, key)[0]

        losses = jax.lax.map(fits, jnp.arange(num_clusters))
        index = jnp.argmin(losses)
        chosen = Params(shared=select(params.shared, index), personal=own)
        result = recipe.client_update(chosen, frozen, examples, hparams, key)
        took = (jnp.arange(num_clusters) == index).astype(before.dtype)
        took = trees.where(result.weight > 0, took, before)
        personal = {**result.personal, CLUSTER: took}
        return dataclasses.replace(result, personal=personal, profile=took)

    rule = by_cluster(recipe.aggregator, num_clusters)
    made = stacked(
        recipe,
        num_clusters,
        lambda params: jnp.argmax(params.personal[CLUSTER]),
        personal={CLUSTER: jnp.zeros(num_clusters).at[0].set(1)},
        received=num_clusters,
    )
    return made._replace(client_update=update, aggregator=rule)
