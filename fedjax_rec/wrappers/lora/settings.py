"""Settings that all rules for LoRA have in common."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from etils import epy

with epy.lazy_imports():
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Aggregator, Recipe


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

    weights: Literal["examples", "uniform"] = "examples"
    ranks: tuple[int, ...] = ()
    rank_shares: tuple[float, ...] = ()
    then: Any = None

    lora_base: ClassVar[bool] = False
    norms: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weights not in ("examples", "uniform"):
            raise ValueError(f"weights={self.weights!r}, expected examples or uniform")
        check_ranks(self.ranks, self.rank_shares)

    @property
    def uniform(self) -> bool:
        """Whether all clients count equally."""
        return self.weights == "uniform"

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        raise NotImplementedError

    def build(self, context: Context) -> Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: a factor is not shared or not trained, or a rank is larger than
                the server's.
        """
        assert context.recipe is not None
        recipe = rule.wrap(context.recipe, self)
        if self.then is None:
            return recipe
        return self.then.build(context.with_recipe(recipe))


def check_ranks(ranks: Sequence[int], shares: Sequence[float]) -> None:
    """Raises a ValueError unless there is one share for each rank, 1 in all."""
    if ranks and min(ranks) < 1:
        raise ValueError(f"ranks={tuple(ranks)}, expected ranks of at least 1")
    if not shares:
        return
    if len(shares) != len(ranks) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"rank_shares={tuple(shares)} for ranks={tuple(ranks)}: expected one share "
            "per rank, none negative, with a sum of 1"
        )
