"""FedAvg for any recommender, with FedProx and adaptive servers."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epy

from fedjax_rec.algorithms import implicit
from fedjax_rec.core import optimizers
from fedjax_rec.core.checks import check_settings, check_unread
from fedjax_rec.core.context import Context
from fedjax_rec.models.settings import MatrixFactorization

with epy.lazy_imports():
    from fedjax_rec.aggregators import means
    from fedjax_rec.clients import local
    from fedjax_rec.core import contracts


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Local training, a mean, a server optimizer.

    The rule is the mean of all clients by examples, as published, in which a row that
    few clients touched moves little: `aggregation=Mean(per_row=True)` averages each row
    over the clients that touched it.

    Attributes:
        model: matrix factorization (`mf`), its MLP form (`ncf`), or a personal linear
            score over item rows (`scorer`).
        client_optimizer: optimizer of the local steps; all but SGD keep a state for
            every row that a client touches, which starts anew each round.
        item_lr_scale: factor in the rows' rate `client_optimizer.lr * item_lr_scale`,
            for SGD.
        proximal: `mu` of FedProx, `mu / 2 |w - w_t|^2` on shared parameters; 0 for
            none.
        server_optimizer: optimizer of the pseudo-gradient.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from
        Decentralized Data, AISTATS 2017. Li et al., Federated Optimization in
        Heterogeneous Networks (FedProx), MLSys 2020.
    """

    model: Any = MatrixFactorization()
    client_optimizer: Any = optimizers.SGD(lr=0.5)
    item_lr_scale: float = 1.0
    proximal: float = 0.0
    server_optimizer: Any = optimizers.SGD(lr=1.0)
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4

    def __post_init__(self) -> None:
        check_settings(self)
        optimizers.check_numbers(self, ("batch_size", "local_epochs", "negatives"))
        if getattr(self.client_optimizer, "momentum", 0) != 0:
            check_unread(self, "another optimizer than SGD()", "item_lr_scale")

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""
        optimizer, own = self.client_optimizer, getattr(self.model, "hparams", {})
        plain = optimizer.momentum == 0
        counted = optimizer.momentum is not None and not self.proximal

        def row_rate(h):
            return h["client_optimizer.lr"] * h["item_lr_scale"]

        phase = local.Phase(
            lambda h: optimizers.with_hparams(optimizer, "client_optimizer", h),
            row_rate=row_rate if plain else None,
            proximal=(lambda h: h["proximal"]) if self.proximal else None,
        )
        model = self.model.build(context)
        if not isinstance(model, contracts.Model):
            raise ValueError(
                f"{type(self.model).__name__}.build(context) returned {model!r}; "
                "expected a Model of fedjax_rec.core.contracts"
            )
        model = _with_scalars(model, tuple(own))
        recipe = implicit.on_pairs(self, model, (phase,), context.num_items)
        return recipe._replace(
            aggregator=means.weighted_mean(),
            server_optimizer=lambda h: optimizers.with_hparams(
                self.server_optimizer, "server_optimizer", h
            ),
            hparams={
                **optimizers.hparams_of(optimizer, "client_optimizer"),
                "item_lr_scale": self.item_lr_scale,
                "proximal": self.proximal,
                **{f"model.{name}": value for name, value in own.items()},
                **optimizers.hparams_of(self.server_optimizer, "server_optimizer"),
            },
            local=recipe.local._replace(
                steps=recipe.local.steps if counted else None,
                momentum=optimizer.momentum or 0.0,
                rate=lambda h: h["client_optimizer.lr"],
                row_rate=row_rate,
                corrections=plain and not self.proximal,
                proximal=bool(self.proximal),
                optimizer_states=optimizer.states,
            ),
        )


def _with_scalars(model: contracts.Model, names: tuple[str, ...]) -> contracts.Model:
    """The model with a loss that reads its scalars by the names of its own fields."""
    if not names:
        return model

    def loss(params, frozen, batch, key, hparams):
        own = {name: hparams[f"model.{name}"] for name in names}
        return model.loss(params, frozen, batch, key, own)

    return model._replace(loss=loss)
