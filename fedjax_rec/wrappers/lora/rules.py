"""Rules for LoRA: their common settings, and the new factors that each one sets."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from etils import epy

from fedjax_rec.aggregators.means import Weights
from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import backbone, contracts
    from fedjax_rec.wrappers.lora import rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRARule:
    """Rule for LoRA's factors, next to the rule for all other groups.

    A subclass has `aggregator`. Its class attributes say whether the rule adds to the
    dense correction (`lora_base`), reads the norms of the clients' products (`norms`),
    and sets LoRA's groups without the server optimizer (`exact`).

    Attributes:
        weights: clients count by their number of `examples`, or all equally
            (`uniform`).
        ranks: ranks of clients whose devices cannot hold the server's rank; each client
            always has the same one. Empty: all have the server's.
        rank_shares: share of the clients with each rank; empty for equal ones.
        then: wrapper that is applied next.
    """

    weights: Weights = "examples"
    ranks: tuple[int, ...] = ()
    rank_shares: tuple[float, ...] = ()
    then: Any = None

    lora_base: ClassVar[bool] = False
    norms: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)
        ranks, shares = self.ranks, self.rank_shares
        if ranks and min(ranks) < 1:
            raise ValueError(f"ranks={ranks}, expected ranks of at least 1")
        if not shares:
            return
        if len(shares) != len(ranks) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"rank_shares={shares} for ranks={ranks}: expected one share per rank, "
                "none negative, with a sum of 1"
            )

    @property
    def uniform(self) -> bool:
        """Whether all clients count equally."""
        return self.weights == "uniform"

    def aggregator(self, inner: contracts.Aggregator) -> contracts.Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        return rule.lora_rule(self, inner)

    def start(self, shared: Any) -> Any:
        """State between rounds."""
        return ()

    def new_groups(self, mean, shared: Any, state: Any) -> tuple[dict[str, Any], Any]:
        """New values of LoRA's groups after a round, and the next state."""
        return {backbone.LORA_A: mean.a, backbone.LORA_B: mean.b}, state

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: a factor is not shared or not trained, or a rank is larger than
                the server's.
        """
        recipe = rule.wrap(context.recipe, self)
        if self.then is None:
            return recipe
        return self.then.build(context.with_recipe(recipe))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedIT(LoRARule):
    """Averages the factors by the rule for all groups, with the metric `lora_gap`.

    With different ranks, factors of a smaller rank are padded with zeros.

    References:
        Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning,
        ICASSP 2024.
    """

    exact: ClassVar[bool] = False

    def aggregator(self, inner: contracts.Aggregator) -> contracts.Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        if self.ranks:
            return super().aggregator(inner)
        return rule.with_gap(inner, uniform=self.uniform)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedEx(LoRARule):
    """`A = mean(A_i)`, `B = mean(B_i)`, `C += mean(A_i B_i) - A B`.

    `C + A B` is then the old `C` plus the mean product. The paper sends the residual to
    clients as factors of rank `r (C + 1)`, or cut to a smaller one; here a client
    receives `C` whole, and need not have taken part in every round.

    References:
        Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient
        Fine-Tuning of Foundation Models, ACL 2025.
    """

    lora_base: ClassVar[bool] = True

    def new_groups(self, mean, shared: Any, state: Any) -> tuple[dict[str, Any], Any]:
        """LoRA's groups after a round, and the unchanged state."""
        base = {
            path: shared[backbone.LORA_BASE][path]
            + product
            - mean.a[path] @ mean.b[path]
            for path, product in mean.product.items()
        }
        groups = {
            backbone.LORA_A: mean.a,
            backbone.LORA_B: mean.b,
            backbone.LORA_BASE: base,
        }
        return groups, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class FLoRA(LoRARule):
    """The dense correction gains the mean product, and clients start from new factors.

    `[A_1 .. A_C] [n_1 B_1; ..; n_C B_C] / sum n_i` is the mean product. The new `A` is
    uniform within `in ** -0.5`, as that of the `LoRA` adapter, and `B = 0`. The draws
    follow from the first `A`, hence from the experiment's seed.

    References:
        Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with
        Heterogeneous Low-Rank Adaptations, NeurIPS 2024.
    """

    lora_base: ClassVar[bool] = True

    def start(self, shared: Any) -> Any:
        """Seed of the new factors, from the first `A`, and a count of restarts."""
        words = [
            jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
            for x in jax.tree.leaves(shared[backbone.LORA_A])
        ]
        seed = sum((w.sum(dtype=jnp.uint32) for w in words), jnp.uint32(0))
        return {"seed": seed, "count": jnp.zeros((), jnp.int32)}

    def new_groups(self, mean, shared: Any, state: Any) -> tuple[dict[str, Any], Any]:
        """LoRA's groups after a round, and the next state."""
        key = jax.random.fold_in(jax.random.key(state["seed"]), state["count"])
        keys = jax.random.split(key, len(mean.a))
        fresh, base = {}, {}
        for path_key, (path, a) in zip(keys, sorted(mean.a.items()), strict=True):
            bound = a.shape[1] ** -0.5
            fresh[path] = jax.random.uniform(path_key, a.shape, a.dtype, -bound, bound)
            base[path] = shared[backbone.LORA_BASE][path] + mean.product[path]
        groups = {
            backbone.LORA_A: fresh,
            backbone.LORA_B: jax.tree.map(jnp.zeros_like, mean.b),
            backbone.LORA_BASE: base,
        }
        return groups, {"seed": state["seed"], "count": state["count"] + 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HetLoRA(LoRARule):
    """`A = sum_i s_i A_i / sum_i s_i` with `s_i = n_i ||A_i B_i||_F`, and `B` alike.

    Factors of a smaller rank are padded with zeros. Products that are small because of
    a low rank, or because a client learned little, weigh less. The paper has no `n_i`,
    which is `weights="uniform"`. Its self-pruning of ranks is left out: a client's rank
    is its device's.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024.
    """

    norms: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexLoRA(LoRARule):
    """`mean(A_i B_i) = U S V^T`, `A = U_r`, `B = S_r V_r^T`.

    Columns are in the order of their singular values, so the first `k` of them, which a
    client of rank `k` receives, are the best approximation of that rank (Eckart-Young).

    References:
        Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous
        Tasks and Client Resources (FlexLoRA), NeurIPS 2024.
    """

    def new_groups(self, mean, shared: Any, state: Any) -> tuple[dict[str, Any], Any]:
        """LoRA's factors after a round, and the unchanged state."""
        a, b = {}, {}
        for path, product in mean.product.items():
            u, s, vt = jnp.linalg.svd(product, full_matrices=False)
            sign = jnp.where(u.sum(-2) < 0, -1, 1)  # an SVD leaves it open
            u, vt = u * sign[..., None, :], vt * sign[..., None]
            r = mean.a[path].shape[-1]
            pad = max(0, r - s.shape[-1])  # a rank above that of any matrix
            u = jnp.pad(u[..., :r], ((0, 0), (0, 0), (0, pad)))
            b_path = s[..., :r, None] * vt[..., :r, :]
            a[path], b[path] = u, jnp.pad(b_path, ((0, 0), (0, pad), (0, 0)))
        return {backbone.LORA_A: a, backbone.LORA_B: b}, state
