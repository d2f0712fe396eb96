"""An algorithm that is no SGD: clients count their items, the server adds the counts.

    fedjax-rec train fedavg_synthetic --plugin examples/own_recipe.py --algorithm counts

`fr.System` is shorter for a score, a loss and SGD. A recipe may have any local
training, aggregation and server step.
"""

import dataclasses

import jax.numpy as jnp
import optax

import fedjax_rec as fr
from fedjax_rec.aggregators import means
from fedjax_rec.core.contracts import ClientResult, Model, Recipe
from fedjax_rec.core.rows import Rows, Table, lookup


@fr.kind("algorithm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Ranks items by the number of clients that have them, with a decay by round.

    Attributes:
        decay: factor of the counts of the rounds before.
    """

    decay: float = 0.5

    def build(self, context):
        def init(key):
            return fr.Params(shared={"count": Table(values=jnp.zeros(n))}, personal={})

        def loss(params, frozen, batch, key, hparams):
            return jnp.zeros(()), {}

        def score(params, frozen, query, candidates):
            return lookup(params.shared["count"], candidates)

        def client_update(params, frozen, examples, hparams, key):
            mask = examples["mask"]
            ids = jnp.where(mask, examples["item"], n)  # n is padding
            return ClientResult(
                delta={"count": Rows(ids=ids, values=1.0 * mask)},
                personal={},
                weight=1.0 * mask.sum(),
                metrics={"loss": jnp.zeros(())},
            )

        def server(hparams):
            decay = optax.add_decayed_weights(1 - hparams["decay"])
            return optax.chain(decay, optax.sgd(1.0))

        n, model = context.num_items, Model(init, loss, score, single_user=False)
        hparams = {"decay": self.decay}
        return Recipe(model, client_update, means.total(), server, hparams)
