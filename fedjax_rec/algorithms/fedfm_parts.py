"""Choices of FedFM: the user's part of the model, and how clients train."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from etils import epy

from fedjax_rec.core.optimizers import SGD, check_numbers, hparams_of, with_hparams

with epy.lazy_imports():
    import jax
    import optax

    from fedjax_rec.clients import local as local_training
    from fedjax_rec.clients import reconstruct
    from fedjax_rec.core import backbone, contracts
    from fedjax_rec.models import two_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserVector:
    """A vector for each user, which stays on the client."""

    kind: ClassVar[Literal["vector"]] = "vector"
    length: ClassVar[int] = 1
    heads: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """Attention over the last items of a user; serves users not seen in training.

    Attributes:
        length: number of items.
        heads: heads of the attention.
    """

    length: int = 20
    heads: int = 4

    kind: ClassVar[Literal["history", "both"]] = "history"

    def __post_init__(self) -> None:
        check_numbers(self, ("length", "heads"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorAndHistory(History):
    """The sum of a user's vector and attention over the last items.

    Attributes:
        length: number of items.
        heads: heads of the attention.
    """

    kind: ClassVar[Literal["history", "both"]] = "both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint:
    """Every local step moves personal and shared parameters by one gradient.

    Attributes:
        epochs: passes over the pairs in a round.
        optimizer: optimizer of the local steps; its rate is that of shared parameters.
    """

    epochs: int = 1
    optimizer: Any = SGD(lr=1.0)

    reconstructs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers(self, ("epochs",))

    @property
    def one_step(self) -> bool:
        """Whether a client with one batch of pairs takes one step of plain SGD."""
        return self.epochs == 1 and self.optimizer.momentum == 0

    @property
    def hparams(self) -> dict[str, float]:
        """Traced rates, by their field."""
        return hparams_of(self.optimizer, "training.optimizer")

    def build(
        self, model: contracts.Model, local: contracts.Local, personal: tuple[str, ...]
    ) -> tuple[contracts.Local, contracts.ClientUpdate]:
        """Properties of local training, and one client's.

        Args:
            model: the recommender.
            local: `draw`, `negatives` and `batch_size`.
            personal: groups that move by the rate `user_lr`.
        """
        optimizer, group = self.optimizer, 1 + local.negatives
        assert local.draw is not None
        plain = optimizer.momentum == 0
        steps_of = local_training.local_steps(
            local.batch_size, self.epochs, group, group
        )

        def kinds_of(tree) -> dict[str, str]:
            return {k: "personal" if k in personal else "shared" for k in tree}

        def rates(h) -> optax.GradientTransformation:
            own = dataclasses.replace(optimizer, lr=0.0)
            by_group: Any = {
                "personal": with_hparams(
                    own, "personal", {"personal.lr": h["user_lr"]}
                ),
                "shared": with_hparams(optimizer, "training.optimizer", h),
            }
            return optax.partition(by_group, kinds_of)

        names = None
        if backbone.LORA_BASE in model.fixed:
            # Left out, not just without a gradient: under `vmap` each client would
            # have a copy of the dense correction.
            params = jax.eval_shape(model.init, jax.random.key(0))
            groups = {**params.shared, **params.personal}
            names = tuple(name for name in groups if name != backbone.LORA_BASE)
        phase = local_training.Phase(
            rates, names, row_rate=_row_rates if plain else None
        )
        update = local_training.local_update(
            model,
            local.draw,
            (phase,),
            batch_size=local.batch_size,
            epochs=self.epochs,
            group=group,
        )
        return local._replace(
            epochs=self.epochs,
            encodings=self.epochs,
            steps=None if optimizer.momentum is None else steps_of,
            momentum=optimizer.momentum or 0.0,
            rate=lambda h: h["training.optimizer.lr"],
            row_rate=lambda h: h["training.optimizer.lr"] * h["item_lr_scale"],
            corrections=plain,
            optimizer_states=optimizer.states,
        ), update


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The user's vector is fitted from zero, then shared parameters take one step.

    Attributes:
        steps: gradient steps of the fit, over all pairs.
        query: share of a user's positives that only the shared step sees, drawn anew
            each round.
        lr: learning rate of the shared step.

    References:
        Singhal et al., Federated Reconstruction: Partially Local Federated Learning,
        NeurIPS 2021.
    """

    steps: int = 1
    query: float = 0.0
    lr: float = 1.0

    reconstructs: ClassVar[bool] = True
    one_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers(self, ("steps",))
        if not self.query < 1:
            raise ValueError(f"query={self.query}, expected a share in [0, 1)")

    @property
    def hparams(self) -> dict[str, float]:
        """Traced rates, by their field."""
        return {"training.lr": self.lr}

    def build(
        self, model: contracts.Model, local: contracts.Local, personal: tuple[str, ...]
    ) -> tuple[contracts.Local, contracts.ClientUpdate]:
        """See `Joint.build`; `personal` is the user's vector."""
        assert local.draw is not None
        update = reconstruct.reconstruct_update(
            model,
            local.draw,
            rate=lambda h: h["training.lr"],
            steps=self.steps,
            query=self.query,
            group=1 + local.negatives,
        )
        return local._replace(
            epochs=self.steps,
            batch_size=1,  # all pairs are one batch, whatever their number
            steps=lambda examples: (examples > 0).astype(examples.dtype),
            rate=lambda h: h["training.lr"],
            row_rate=lambda h: h["training.lr"] * h["item_lr_scale"],
            reconstructs=True,
        ), update


def _row_rates(hparams) -> dict[str, Any]:
    """Rows of the ID residual have a rate of their own; lifted vectors have not."""
    rate = hparams["training.optimizer.lr"]
    return {"item": rate * hparams["item_lr_scale"], two_tower.VECTORS: rate}
