"""FedFM: an adapter on a frozen foundation model, trained by federated averaging."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.aggregators.scaffold import scaffold
from fedjax_rec.algorithms import lora_rules
from fedjax_rec.algorithms.fedavg import CLIENT_OPTIMIZERS, SERVER_OPTIMIZERS
from fedjax_rec.algorithms.server_step import except_for
from fedjax_rec.clients.control import CONTROL, controlled_update, with_control
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.clients.reconstruct import reconstruct_update
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import Adapter
from fedjax_rec.core.contracts import ClientUpdate, Recipe
from fedjax_rec.data.pairs import text_pairs
from fedjax_rec.models.adapters.bottleneck import Bottleneck
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter, EmbeddingNet
from fedjax_rec.models.adapters.lora import LORA_BASE, LoRA
from fedjax_rec.models.adapters.prefix_tuning import PrefixTuning
from fedjax_rec.models.item_tower import ItemTower
from fedjax_rec.models.two_tower import VECTORS, two_tower

ADAPTER_GROUPS = ("lora_a", "lora_b", "bottleneck", "prompt", "embedding_adapter")
"""The groups of all adapters."""


class ItemTexts(NamedTuple):
    """A catalog as the frozen model sees it: what `FedFM.build` needs of it.

    Attributes:
        tower: `(adapter or None) -> ItemTower`, on the path that was chosen.
        projection: `[D, d]`, first value of the map to the vectors' space.
        center: `[D]`, the mean embedding.
    """

    tower: Callable[[Adapter | None], ItemTower]
    projection: Array
    center: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedFM:
    """Two towers over a frozen foundation model; clients send adapters, not tables.

    Every client trains, on what it has seen and on sampled negatives, its own user
    vector and the shared parts: the adapter in the backbone, the map from embeddings to
    the vectors' space (`head`), what all users have in common. Which parts are shared
    and which stay on the client is `personal`.

    Attributes:
        adapter: `lora`, `bottleneck` (Houlsby), `prefix` (tuning), inside the
            backbone's layers; `embedding`, a net on the final embedding; `none`.
        layers: how many of the last layers it is in; 0 is all of them. Those before
            them never change, and are computed once.
        rank: of LoRA, and of the embedding adapter.
        alpha: LoRA's products are scaled by `alpha / rank`.
        targets: linear maps that LoRA adapts, as patterns over paths
            (`attention/query`, `attention/*`, `ffn/up`, `*`).
        bottleneck: width of the bottleneck adapter.
        prefix: length of the prefix.
        hidden: width of the embedding adapter's hidden layer; 0 is linear of `rank`.
        users: a personal `vector`, attention over the `history`, or `both`. Only a
            history serves users never seen in training.
        history: items of a history.
        history_heads: heads of its attention.
        dim: width of user and item vectors.
        id_residual: whether items also have a vector of their own, a row table; it is
            no help for cold items.
        personal: groups that stay on their clients: `lora_b` (share A, keep B: FedSA),
            `lora_a` and `lora_b` (personal LoRA), `head`, `common`, ...
        loss: `bce`, `bpr`, or `softmax` with log-Q correction.
        client_optimizer: of the local steps.
        client_lr: of the shared parts, on the client.
        user_lr: of the personal parts.
        user_l2: pulls user vectors to zero.
        item_lr_scale: rows of the ID residual move by `client_lr * item_lr_scale`
            (under plain SGD; other client optimizers treat them like all else).
        local_epochs: passes over the pairs a round.
        shared_steps: the shared parts train in `every` local step, or `once` a round:
            the user's vector is then fitted from zero, by `local_epochs` steps over
            all pairs, before the shared parts take one (FedRecon).
        query: with `once`, the share of a user's positives that only the shared step
            sees, drawn anew each round.
        fixed: groups that nobody trains, such as `head`.
        batch_size: pairs a step; at least a client's pairs is full batch.
        negatives: negatives a positive.
        aggregation: as in `FedAvg`.
        lora_aggregation: of the factors of LoRA: like all else (`plain`, or `fedit`
            with the metric `lora_gap`, as all others); `fedex`, means with an exact
            correction in a dense base; `flora`, the mean product into the base and
            fresh factors each round; `flexlora`, the mean product cut to rank `rank`;
            `hetlora`, means weighted by the norm of a client's product. All but the
            first two move the adapter by what they say, without the server optimizer.
        ranks: of clients whose devices cannot hold all of `rank`; each has one of
            them for good. Empty: all have `rank`.
        rank_shares: the share of clients with each of `ranks`; empty for equal ones.
        control: `scaffold` corrects the local steps of all dense shared groups by
            control variates, which double what is sent of them.
        server_optimizer: of the pseudo-gradient.
        server_lr: learning rate of the server optimizer.
        adapter_lr_scale: what is left of the server's step for the adapter.
        server_momentum: momentum, and beta_1 of `adam` and `yogi`.
        server_tau: adaptivity of `adam`, `yogi` and `adagrad`.

    References:
        Hu et al., LoRA, ICLR 2022. Sun et al., Improving LoRA in Privacy-preserving
        Federated Learning, ICLR 2024. Guo et al., Selective Aggregation for Low-Rank
        Adaptation in Federated Learning (FedSA-LoRA), ICLR 2025. Singhal et al.,
        Federated Reconstruction, NeurIPS 2021 (`shared_steps="once"`). Karimireddy et
        al., SCAFFOLD, ICML 2020 (`control`). Those of `lora_aggregation` are named in
        `aggregators.lora`.
    """

    adapter: Literal["lora", "bottleneck", "prefix", "embedding", "none"] = "lora"
    layers: int = 1
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention/query", "attention/value")
    bottleneck: int = 32
    prefix: int = 8
    hidden: int = 0
    users: Literal["vector", "history", "both"] = "vector"
    history: int = 20
    history_heads: int = 4
    dim: int = 32
    id_residual: bool = False
    personal: tuple[str, ...] = ()
    loss: Literal["bce", "bpr", "softmax"] = "softmax"
    client_optimizer: Literal["sgd", "momentum", "adam", "adagrad"] = "sgd"
    client_lr: float = 1.0
    user_lr: float = 0.5
    user_l2: float = 0.0
    item_lr_scale: float = 1.0
    local_epochs: int = 1
    shared_steps: Literal["every", "once"] = "every"
    query: float = 0.0
    fixed: tuple[str, ...] = ()
    batch_size: int = 256
    negatives: int = 4
    aggregation: Literal["examples", "uniform", "per_row", "per_row_uniform", "sum"] = (
        "examples"
    )
    lora_aggregation: Literal[
        "plain", "fedit", "fedex", "flora", "hetlora", "flexlora"
    ] = "plain"
    ranks: tuple[int, ...] = ()
    rank_shares: tuple[float, ...] = ()
    control: Literal["none", "scaffold"] = "none"
    server_optimizer: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "sgd"
    server_lr: float = 1.0
    adapter_lr_scale: float = 1.0
    server_momentum: float = 0.9
    server_tau: float = 1e-8

    def __post_init__(self) -> None:
        if self.shared_steps == "once" and self.personal:
            raise ValueError(
                f"shared_steps='once' rebuilds the user's vector each round, and keeps "
                f"nothing else personal: personal={self.personal} needs 'every'"
            )
        if not 0 <= self.query < 1:
            raise ValueError(f"query={self.query}, expected a share in [0, 1)")
        if self.users != "vector" and min(self.history, self.history_heads) < 1:
            raise ValueError(
                f"users={self.users!r} needs items and heads of attention, got history="
                f"{self.history}, history_heads={self.history_heads}"
            )
        lora_rules.check(self)
        if self.control == "scaffold" and (
            self.users == "history"
            or self.shared_steps != "every"
            or self.client_optimizer != "sgd"
        ):
            raise ValueError(
                "control='scaffold' corrects several plain SGD steps of clients that "
                "are one user each: expected shared_steps='every', "
                "client_optimizer='sgd' and users other than 'history', got "
                f"{self.shared_steps!r}, {self.client_optimizer!r} and {self.users!r}"
            )

    @property
    def received_only(self) -> tuple[str, ...]:
        """Groups that clients receive and never send: nobody trains them."""
        return (*self.fixed, LORA_BASE) if lora_rules.with_base(self) else self.fixed

    @property
    def in_layers(self) -> bool:
        """Whether the adapter is inside the backbone's layers."""
        return self.adapter in ("lora", "bottleneck", "prefix")

    @property
    def linear(self) -> bool:
        """Whether the aggregate of the shared parts is linear in their gradients.

        So it is where a client takes one step of plain SGD on them a round; with
        `every`, given that its pairs are one batch; and where the aggregate is linear
        in what they send.
        """
        if self.control != "none" or not lora_rules.aggregator(self).linear:
            return False
        if self.shared_steps == "once":
            return True
        return self.local_epochs == 1 and self.client_optimizer == "sgd"

    def make_adapter(self) -> Adapter | None:
        """The adapter inside the layers, if it is there."""
        if self.adapter == "lora":
            base = lora_rules.with_base(self)
            adapter = LoRA(rank=self.rank, alpha=self.alpha, targets=self.targets)
            return adapter.build(base)
        if self.adapter == "bottleneck":
            return Bottleneck(size=self.bottleneck).build()
        if self.adapter == "prefix":
            return PrefixTuning(length=self.prefix).build()
        return None

    def make_embedding_adapter(self) -> EmbeddingNet | None:
        """The net on the final embedding, if it is there."""
        if self.adapter != "embedding":
            return None
        return EmbeddingAdapter(rank=self.rank, hidden=self.hidden).build()

    def build(
        self,
        *,
        num_items: int,
        num_users: int,
        texts: ItemTexts,
        lifted: bool = False,
        dtype=jnp.float32,
    ) -> Recipe:
        """The recipe for a catalog.

        Args:
            num_items: `I`.
            num_users: `U`, all clients there are where each is one user.
            texts: the catalog's texts behind the backbone.
            lifted: train through the table of all items' vectors (`Recipe.lifted`).
            dtype: of what is trained; float32.

        Raises:
            ValueError: another dtype, or groups that are not there.
        """
        if dtype != jnp.float32:
            raise ValueError(
                f"execution.dtype={jnp.dtype(dtype).name!r}: FedFM trains in float32; "
                "the backbone's own type is backbone.dtype"
            )
        group = 1 + self.negatives
        with_history = self.users != "vector"
        model = two_tower(
            texts.tower(self.make_adapter()),
            num_items=num_items,
            projection=texts.projection,
            center=texts.center,
            group=group,
            users=self.users,
            on_embedding=self.make_embedding_adapter(),
            id_residual=self.id_residual,
            loss=self.loss,
            personal=self.personal,
            fixed=self.received_only,
            history_length=self.history,
            history_heads=self.history_heads,
            user_l2=self.user_l2,
        )
        draw = text_pairs(
            num_items,
            self.negatives,
            history=self.history if with_history else 0,
            log_q=self.loss == "softmax",
        )
        own = (*self.personal, *(() if self.users == "history" else ("user",)))
        if self.shared_steps == "once":
            update = reconstruct_update(
                model,
                draw,
                steps=self.local_epochs,
                query=self.query,
                group=group,
            )
        else:
            update = self._joint_update(model, draw, own, group)
        update = lora_rules.ranked(self, update)
        aggregator = lora_rules.aggregator(self)
        if self.control == "scaffold":
            model = with_control(model, self.received_only)
            aggregator = scaffold(aggregator, num_users)
        scalars = (
            "client_lr",
            "user_lr",
            "item_lr_scale",
            "server_lr",
            "adapter_lr_scale",
            "server_momentum",
            "server_tau",
        )
        return Recipe(
            model=model,
            client_update=update,
            aggregator=aggregator,
            server_optimizer=self._server_optimizer,
            hparams={name: getattr(self, name) for name in scalars},
            common_start=True,
            single_user=bool(own),
            draw=draw,
            negatives=self.negatives,
            fixed=self.received_only,
            lifted=lifted,
        )

    def _server_optimizer(self, h) -> optax.GradientTransformation:
        server = SERVER_OPTIMIZERS[self.server_optimizer]
        moved = optax.chain(
            server(h["server_lr"], h["server_momentum"], h["server_tau"]),
            _scale_groups(ADAPTER_GROUPS, h["adapter_lr_scale"]),
        )
        given = lora_rules.given(self)
        given += (CONTROL,) if self.control == "scaffold" else ()
        return except_for(given, moved) if given else moved

    def _joint_update(self, model, draw, own: tuple[str, ...], group: int):
        """Every local step moves personal and shared parts by one gradient."""
        local = CLIENT_OPTIMIZERS[self.client_optimizer]

        def optimizer(h) -> optax.GradientTransformation:
            rates: dict = {"own": local(h["user_lr"]), "shared": local(h["client_lr"])}
            return optax.partition(
                rates, lambda tree: {k: "own" if k in own else "shared" for k in tree}
            )

        by_row = _row_rates if self.client_optimizer == "sgd" else None
        names = None
        if lora_rules.with_base(self):
            # Left out, not just without a gradient: under `vmap` each client would
            # have a copy of what is dense.
            params = jax.eval_shape(model.init, jax.random.key(0))
            groups = {**params.shared, **params.personal}
            names = tuple(name for name in groups if name != LORA_BASE)

        def train(model) -> ClientUpdate:
            return local_update(
                model,
                draw,
                (Phase(optimizer, names, row_rate=by_row),),
                batch_size=self.batch_size,
                epochs=self.local_epochs,
                group=group,
            )

        if self.control == "none":
            return train(model)
        steps = local_steps(self.batch_size, self.local_epochs, group, group)
        return controlled_update(
            train, model, steps=steps, rate=lambda h: h["client_lr"]
        )


def _row_rates(hparams) -> dict[str, Array]:
    """Rows of the ID residual have a rate of their own; lifted vectors have not."""
    rate = hparams["client_lr"]
    return {"item": rate * hparams["item_lr_scale"], VECTORS: rate}


def _scale_groups(names, scale) -> optax.GradientTransformation:
    """Multiplies the updates of some groups, where they are there."""

    def update(updates, state, params=None):
        del params
        return {
            name: jax.tree.map(lambda u: u * scale, part) if name in names else part
            for name, part in updates.items()
        }, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
