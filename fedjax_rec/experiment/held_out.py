"""Checks that a split holds out what the protocol evaluates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from fedjax_rec.core.rows import tables_of
from fedjax_rec.evaluation.protocol import Protocol

if TYPE_CHECKING:
    from fedjax_rec.core.contracts import Recipe
    from fedjax_rec.data.newcomers import Newcomers
    from fedjax_rec.data.splits import Split


def check_candidates(held_out: Any, protocol: Protocol) -> None:
    """Raises a ValueError if held-out items are ranked among trained ones.

    No held-out item is ever drawn as a negative, so they would all rank above the
    items that were: even a ranker without a model finds them.

    Args:
        held_out: whether the split holds items out of training.
        protocol: the protocol.
    """
    if held_out and protocol.candidates != "cold":
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: the split holds items out "
            "of all training, negatives included. Ranked among trained items they "
            "would be found by whether an item was ever drawn as a negative, without "
            "any model. Use protocol.candidates='cold', which ranks the held-out items "
            "only"
        )


def check_newcomers(
    recipe: Recipe,
    protocol: Protocol,
    split: Split,
    newcomers: Newcomers | None,
    num_clients: int,
) -> tuple[str, ...]:
    """Checks that users without training data are scored by what is known of them.

    Args:
        recipe: the system.
        protocol: the protocol.
        split: the split.
        newcomers: its evaluated users without training data.
        num_clients: `N`.

    Returns:
        Sentences about them, for the log.

    Raises:
        ValueError: the system reads parameters of a user that it can fit on no data.
    """
    model = recipe.model
    shared = jax.eval_shape(model.init, jax.random.key(0)).shared
    fitted = model.single_user or any(t.space == "user" for t in tables_of(shared))
    if newcomers is None or not (fitted or model.stack is not None):
        return ()
    count = len(newcomers.user)
    if recipe.constants and newcomers.ids.max() >= num_clients:
        raise ValueError(
            f"{count} evaluated users have no training data and no client, so that the "
            "system lacks the facts that it reads of each client "
            f"({', '.join(recipe.constants)}): use partition=PerUser()"
        )
    if "query" not in split.info:
        return (
            f"{count:,} evaluated users have no training data: they are scored with "
            "the parameters that a client starts from",
        )
    unfit = f"{split.name} evaluates {count} users who take part in no round, and "
    if model.stack and recipe.constants:
        raise ValueError(
            f"{unfit}the system assigns its models by facts of each trained client "
            f"({', '.join(recipe.constants)}), which these users lack: use a system "
            "with one model for all clients, IFCA, with which a user chooses the model "
            "by its own data, or a split of trained users' items, such as LeaveOneOut"
        )
    if protocol.evaluated == "aggregated":
        raise ValueError(
            f"{unfit}protocol.evaluated='aggregated' would score them with parameters "
            "that were never fitted. Use protocol.evaluated='tuned' or "
            "'reconstructed' (one model for all clients), which fit a user's own part "
            "on the query that the split shows, or a model of histories, such as "
            "FedFM(users=History())"
        )
    return (
        f"{count:,} users take part in no round: their parameters are fitted on what "
        "the split shows of them",
    )


def untimed(split: Split) -> str:
    """The warning about a split by time of data without timestamps, else empty."""
    missing = split.train.notes.get("timestamps_missing", 0)
    if not (missing and split.by_time):
        return ""
    return (
        f"{missing:,} interactions of {split.train.name!r} have no timestamps, and "
        f"{split.name} orders them by time: their order in the source was taken. In a "
        "table sorted by user and item the latest interaction is then the largest item "
        "id. Name the column of timestamps, or use split=Ratio(by='random')"
    )
