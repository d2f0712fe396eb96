"""PFedRec: dual personalization (Zhang et al., IJCAI 2023)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    from fedjax_rec.algorithms import implicit
    from fedjax_rec.models import pfedrec

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class PFedRec:
    """A personal score function; item rows are fine-tuned on the client and averaged.

    Every batch takes one SGD step on the scorer, then one on the items it holds. The
    server takes the unweighted mean of the item tables; the scorer stays on the client.

    Attributes:
        dim: width of an item row.
        client_lr: learning rate of the scorer.
        item_lr_scale: factor in the items' rate `client_lr * num_items *
            item_lr_scale`, which the mean over clients divides again.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
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

    def __post_init__(self) -> None:
        check_numbers(self, ("dim", "batch_size", "local_epochs", "negatives"))

    def build(self, context: Context) -> Recipe:
        """The recipe for a catalog."""
        n = context.num_items
        model = pfedrec.personal_scorer(n, self.dim, self.init_scale, context.dtype)
        return implicit.implicit_recipe(
            self,
            model._replace(common_start=True),
            (implicit.sgd_on("scorer"), implicit.rows_only(n)),
            n,
        )
