"""A personal linear score function over shared item rows."""

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model, Params
from fedjax_rec.models.losses import binary_cross_entropy


def personal_scorer(
    num_items: int, dim: int = 32, init_scale: float = 1.0, dtype=jnp.float32
) -> Model:
    """`score(i) = w . V_i + b`, with `w, b` personal and the item table `V` shared.

    There is no user vector: users differ in their score function.

    Args:
        num_items: `I`.
        dim: `d`.
        init_scale: standard deviation of the initial item rows.
        dtype: type of all parameters.

    Returns:
        A model with the shared table `item` and the personal `scorer`.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023.
    """

    def init(key):
        item_key, w_key, b_key = jax.random.split(key, 3)
        table = init_scale * jax.random.normal(item_key, (num_items, dim), dtype)
        bound = dim**-0.5
        scorer = {
            "w": jax.random.uniform(w_key, (dim,), dtype, -bound, bound),
            "b": jax.random.uniform(b_key, (), dtype, -bound, bound),
        }
        shared = {"item": rows.Table(values=table)}
        return Params(shared=shared, personal={"scorer": scorer})

    def logits(params, ids):
        scorer = params.personal["scorer"]
        return rows.lookup(params.shared["item"], ids) @ scorer["w"] + scorer["b"]

    def loss(params, frozen, batch, key):
        del frozen, key
        predicted = logits(params, batch["item"])
        return binary_cross_entropy(predicted, batch["label"], batch["mask"]), {}

    def score(params, frozen, query, candidates):
        del frozen, query
        return logits(params, candidates)

    return Model(init, loss, score)
