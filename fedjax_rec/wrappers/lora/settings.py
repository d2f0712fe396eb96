"""Settings that all rules for LoRA have in common."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from etils import epy

with epy.lazy_imports():
    from fedjax_rec.wrappers.lora import ranks as ranking

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRARule:
    """Rule for LoRA's factors, next to the rule for all other groups.

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

    def __post_init__(self) -> None:
        if self.weights not in ("examples", "uniform"):
            raise ValueError(f"weights={self.weights!r}, expected examples or uniform")
        if self.rank_shares and not self.ranks:
            raise ValueError(f"rank_shares={self.rank_shares} need ranks")
        if self.ranks and min(self.ranks) < 1:
            raise ValueError(f"ranks={self.ranks}, expected ranks of at least 1")
        if self.rank_shares:
            ranking.check_ranks(self.ranks, self.rank_shares)

    @property
    def uniform(self) -> bool:
        """Whether all clients count equally."""
        return self.weights == "uniform"

    def next(self, recipe: Recipe, context: Context) -> Recipe:
        """Applies the wrapper that follows, if there is one."""
        if self.then is None:
            return recipe
        return self.then.build(context.with_recipe(recipe))
