"""FedFM: an adapter on a frozen foundation model, trained by federated averaging."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from etils import epy

from fedjax_rec.algorithms.fedfm_parts import Joint, UserVector
from fedjax_rec.core.checks import check_settings, check_unread
from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import SGD, check_numbers, hparams_of, with_hparams
from fedjax_rec.models.adapters.in_layers import LoRA

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import optax

    from fedjax_rec.aggregators import means
    from fedjax_rec.algorithms import text_path
    from fedjax_rec.core import contracts
    from fedjax_rec.data import pairs
    from fedjax_rec.models import two_tower


ADAPTER_GROUPS = ("lora_a", "lora_b", "bottleneck", "prompt", "embedding_adapter")
"""Parameter groups of all adapters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedFM:
    """Two towers over a frozen foundation model; clients send adapters, not tables.

    Every client trains its own user vector and the shared parts on its items and on
    sampled negatives: the adapter in the backbone, the map from embeddings to the
    vectors' space (`head`), and a vector that all users share (`common`).

    Attributes:
        adapter: LoRA, bottleneck or prefix tuning inside the backbone's layers, a net
            on the final embedding, or none.
        users: a personal vector, attention over the history, or both.
        dim: width of user and item vectors.
        id_residual: items also have a vector of their own, a row table; it does not
            help cold items.
        personal: groups that stay on their clients: `lora_b` (share A, keep B: FedSA),
            `lora_a` and `lora_b` (personal LoRA), `head`, `common`, ...
        fixed: groups that are not trained, such as `head`.
        loss: `bce`, `bpr`, or `softmax` with log-Q correction.
        training: joint local steps, or federated reconstruction.
        user_lr: learning rate of personal parts.
        user_l2: pulls user vectors to zero.
        item_lr_scale: rows of the ID residual move by the shared parts' rate times
            this, under plain SGD.
        batch_size: pairs of a step of joint training; at least a client's pairs is full
            batch.
        negatives: negatives per positive.
        server_optimizer: optimizer of the pseudo-gradient.
        adapter_lr_scale: factor on the server's step of the adapter.

    References:
        Hu et al., LoRA, ICLR 2022. Sun et al., Improving LoRA in Privacy-preserving
        Federated Learning, ICLR 2024. Guo et al., Selective Aggregation for Low-Rank
        Adaptation in Federated Learning (FedSA-LoRA), ICLR 2025.
    """

    adapter: Any = LoRA()
    users: Any = UserVector()
    dim: int = 32
    id_residual: bool = False
    personal: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    loss: Literal["bce", "bpr", "softmax"] = "softmax"
    training: Any = Joint()
    user_lr: float = 0.5
    user_l2: float = 0.0
    item_lr_scale: float = 1.0
    batch_size: int = 256
    negatives: int = 4
    server_optimizer: Any = SGD(lr=1.0)
    adapter_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, ("dim", "batch_size", "negatives"))
        check_settings(self)
        if self.training.reconstructs:
            check_unread(self, "training=Reconstruction()", "batch_size")
        elif self.training.optimizer.momentum != 0:
            check_unread(self, "another optimizer than SGD()", "item_lr_scale")
        if not self.id_residual:
            check_unread(self, "id_residual=False", "item_lr_scale")
        if self.adapter is None:
            check_unread(self, "adapter=None", "adapter_lr_scale")
        if self.training.reconstructs and self.personal:
            raise ValueError(
                "training=Reconstruction() rebuilds the user's vector each round and "
                f"has no other personal group: personal={self.personal} needs Joint()"
            )

    @property
    def own_groups(self) -> tuple[str, ...]:
        """Personal groups."""
        return (*self.personal, *(() if self.users.kind == "history" else ("user",)))

    @property
    def transfer_obstacle(self) -> str:
        """Why the trained parameters do not rank another catalog; empty if they do."""
        if self.users.kind != "history":
            return (
                f"algorithm.users={type(self.users).__name__}: target users have no "
                "vectors of their own; users=History() makes one from the last items"
            )
        if self.id_residual:
            return (
                "algorithm.id_residual=True: the target's items have no row in the "
                "source's table; turn it off"
            )
        if self.personal:
            return (
                f"algorithm.personal={self.personal}: no target user has these groups, "
                "which stay on the source's clients; set personal=()"
            )
        return ""

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog.

        Raises:
            ValueError: another type than float32, or the adapter or a group does not
                fit the backbone.
        """
        if context.dtype != jnp.float32:
            raise ValueError(
                f"execution.dtype={jnp.dtype(context.dtype).name!r}: FedFM trains in "
                "float32; the backbone's own type is backbone.dtype"
            )
        return self.on(text_path.choose(self, context), context)

    def on(self, path: text_path.TextPath, context: Context) -> contracts.Recipe:
        """The recipe on a chosen path of the texts."""
        group, fixed = 1 + self.negatives, (*self.fixed, *path.fixed)
        model = two_tower.two_tower(
            path.tower,
            num_items=context.num_items,
            projection=path.projection,
            center=path.center,
            group=group,
            users=self.users.kind,
            on_embedding=path.net,
            id_residual=self.id_residual,
            loss=self.loss,
            personal=self.personal,
            fixed=fixed,
            history_length=self.users.length,
            history_heads=self.users.heads,
            user_l2=self.user_l2,
        )._replace(fixed=fixed, common_start=True, single_user=bool(self.own_groups))
        draw = pairs.text_pairs(
            context.num_items,
            self.negatives,
            history=0 if self.users.kind == "vector" else self.users.length,
            log_q=self.loss == "softmax",
        )
        local = contracts.Local(
            draw=draw,
            negatives=self.negatives,
            batch_size=self.batch_size,
            text_flops=path.facts.get("pair_flops", 0.0),
            weight_bytes=path.facts.get("weight_bytes", 0),
            through_layers=path.name != "embedding",
            per_client=self._per_client(context, group),
        )
        local, update = self.training.build(model, local, self.own_groups)
        return contracts.Recipe(
            model=model,
            client_update=update,
            aggregator=means.weighted_mean(),
            server_optimizer=self._server_optimizer,
            hparams={
                **self.training.hparams,
                "user_lr": self.user_lr,
                "item_lr_scale": self.item_lr_scale,
                **hparams_of(self.server_optimizer, "server_optimizer"),
                "adapter_lr_scale": self.adapter_lr_scale,
            },
            local=local,
            frozen=path.frozen,
            notes={"backbone": path.facts},
            why=(path.why,),
        )

    def _per_client(self, context: Context, group: int) -> tuple[str, ...]:
        """Reasons why items cannot be encoded once a round for all clients."""
        reasons = []
        if adapters := sorted(set(ADAPTER_GROUPS) & set(self.personal)):
            reasons.append(f"{', '.join(adapters)} differ from client to client")
        largest = int(context.examples.max())
        if not self.training.one_step:
            reasons.append("clients take several steps on shared parameters")
        elif (
            not self.training.reconstructs
            and max(1, self.batch_size // group) < largest
        ):
            reasons.append(
                f"the largest client's {largest * group:,} pairs are more than one "
                f"batch of {self.batch_size:,}"
            )
        return tuple(reasons)

    def _server_optimizer(self, h) -> optax.GradientTransformation:
        return optax.chain(
            with_hparams(self.server_optimizer, "server_optimizer", h),
            _scale_groups(ADAPTER_GROUPS, h["adapter_lr_scale"]),
        )


def _scale_groups(names, scale) -> optax.GradientTransformation:
    """Multiplies the updates of some groups, if they are present."""

    def update(updates, state, params=None):
        return {
            name: jax.tree.map(lambda u: u * scale, part) if name in names else part
            for name, part in updates.items()
        }, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
