"""PFedRec: dual personalization (Zhang et al., IJCAI 2023)."""

import dataclasses

import jax.numpy as jnp
import optax

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.pairs import implicit_pairs
from fedjax_rec.models.pfedrec import personal_scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PFedRec:
    """A personal score function; item rows fine-tuned on the client, then averaged.

    Every batch takes one SGD step on the scorer, then one on the items it holds. The
    server takes the unweighted mean of the item tables; the scorer never leaves.

    Attributes:
        dim: width of an item row.
        client_lr: learning rate of the scorer.
        item_lr_scale: the items' rate is `client_lr * num_items * item_lr_scale`; so
            large because the mean over clients divides it again.
        batch_size: pairs a step.
        local_epochs: passes over the pairs a round.
        negatives: negatives a positive.
        init_scale: standard deviation of the initial item rows.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023,
        algorithm 1.
    """

    dim: int = 32
    client_lr: float = 0.1
    item_lr_scale: float = 80.0
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4
    init_scale: float = 1.0

    def build(self, *, num_items: int, num_users: int, dtype=jnp.float32) -> Recipe:
        """The recipe for a catalog of `num_items`."""
        del num_users
        model = personal_scorer(num_items, self.dim, self.init_scale, dtype)
        draw = implicit_pairs(num_items, self.negatives)
        scorer = Phase(lambda h: optax.sgd(h["client_lr"]), names=("scorer",))
        items = Phase(
            lambda h: optax.identity(),
            names=("item",),
            row_rate=lambda h: h["client_lr"] * num_items * h["item_lr_scale"],
        )
        return Recipe(
            model=model,
            client_update=local_update(
                model,
                draw,
                (scorer, items),
                batch_size=self.batch_size,
                epochs=self.local_epochs,
            ),
            aggregator=weighted_mean(uniform=True),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams={"client_lr": self.client_lr, "item_lr_scale": self.item_lr_scale},
            common_start=True,
            draw=draw,
            negatives=self.negatives,
        )
