"""Ratings that a system predicts, and whether their error can select a round."""

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol, settled, without_rmse


def settled_for(
    recipe: Recipe, split: Split, protocol: Protocol
) -> tuple[Protocol, tuple[str, ...]]:
    """The protocol with a metric for `auto`, and a sentence about a choice of it.

    Raises:
        ValueError: `rmse` without validation errors.
    """
    predicts = recipe.local.predicts_ratings
    reason = without_rmse(protocol, predicts, "query" in split.info)
    settled_protocol = settled(protocol, reason)
    if not (predicts and reason and protocol.selection == "auto"):
        return settled_protocol, ()
    metric = settled_protocol.selection
    return settled_protocol, (f"rounds are compared by {metric}: {reason}",)


def rated_parts(recipe: Recipe, split: Split, protocol: Protocol) -> tuple[str, ...]:
    """Parts with ratings to predict; users who take part in no round have none."""
    if without_rmse(protocol, recipe.local.predicts_ratings, cold_users=False):
        return ()
    parts = ("train",) if "query" in split.info else ("train", "val", "test")
    return tuple(part for part in parts if len(getattr(split, part)))
