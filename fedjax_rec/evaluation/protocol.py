"""How a result was obtained, as data: recorded beside every number."""

import dataclasses
import re
from typing import Any, Literal, get_args

from fedjax_rec.evaluation.metrics import Ties, metric_names

Candidates = Literal["full", "sampled", "cold"]
NegativePool = Literal["not_train", "not_interacted"]
Evaluated = Literal["aggregated", "tuned", "reconstructed"]
PRESETS = ("clean", "paper_compat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """An evaluation protocol. The defaults are the ones nobody can cheat.

    Attributes:
        candidates: `full` ranks every item the user has in no earlier part (neither
            train nor, for the test, validation, nor in what is shown of held-out
            users); `sampled` ranks the positives among
            `num_candidates` items the user never touched. Sampled metrics can order
            models differently from the full ones [1]. `cold` ranks the items that a
            `cold_items` split held out for the part, and no others.
        num_candidates: negatives a user, for `sampled`.
        candidate_seed: of the sampled negatives, the same for every model, and of the
            users that `max_users` leaves.
        max_users: evaluate at most so many users of each part, drawn at random; 0 is
            all. For populations of which a sample says enough.
        negative_pool: what training may draw negatives from. `not_train` is what a
            client can know; `not_interacted` also leaves out validation and test
            items, which leaks them, and is refused outside `paper_compat`.
        ties: order of equal scores; `pessimistic` gives a constant scorer nothing.
        evaluated: the `aggregated` parameters with what is personal as the client
            left it; all the client's own, `tuned` by local training; or the aggregated
            ones with what is personal `reconstructed` from them.
        selection: the validation metric by which the best round is chosen, or `last`
            for the last round. Never a test metric.
        cutoffs: the ks of the metrics.
        exposed_item: an item whose exposure is told as well: the share of users in whose top
            k it stands, of full rankings; -1 is none.
        preset: `clean` or `paper_compat`.

    Raises:
        ValueError: a field has no meaning, or would leak outside `paper_compat`.

    References:
        [1] Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020.
    """

    candidates: Candidates = "full"
    num_candidates: int = 99
    candidate_seed: int = 0
    max_users: int = 0
    negative_pool: NegativePool = "not_train"
    ties: Ties = "pessimistic"
    evaluated: Evaluated = "aggregated"
    selection: str = "ndcg@10"
    cutoffs: tuple[int, ...] = (5, 10, 20)
    exposed_item: int = -1
    preset: str = "clean"

    def __post_init__(self) -> None:
        # A list, as JSON gives it, becomes the tuple that hashing needs.
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        for field, allowed in (
            ("candidates", get_args(Candidates)),
            ("negative_pool", get_args(NegativePool)),
            ("ties", get_args(Ties)),
            ("evaluated", get_args(Evaluated)),
            ("preset", PRESETS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field}={getattr(self, field)!r} is unknown; choose one of "
                    f"{', '.join(map(repr, allowed))}"
                )
        if self.num_candidates < 1:
            raise ValueError(
                f"num_candidates={self.num_candidates}: a positive needs at least one "
                "negative to be ranked against"
            )
        if self.candidate_seed < 0:
            raise ValueError(
                f"candidate_seed={self.candidate_seed}: a seed is an integer >= 0"
            )
        if self.max_users < 0:
            raise ValueError(
                f"max_users={self.max_users}: expected a number of users, or 0 for all"
            )
        _check_cutoffs(self.cutoffs)
        if self.exposed_item < -1 or (self.exposed_item >= 0 and self.candidates == "sampled"):
            raise ValueError(
                f"exposed_item={self.exposed_item}: expected an item that is ranked among all others "
                "(candidates other than 'sampled'), or -1"
            )
        allowed = (*metric_names(self.cutoffs), "last")
        if self.selection not in allowed:
            at = re.fullmatch(r"(\w+)@(\d+)", self.selection)
            hint = (
                f"; {at[2]} is not among cutoffs={self.cutoffs}"
                if at and int(at[2]) not in self.cutoffs
                else ""
            )
            raise ValueError(
                f"selection={self.selection!r} names no validation metric{hint}. Use "
                f"one of {', '.join(allowed)}; 'last' takes the last round"
            )
        if self.negative_pool == "not_interacted" and self.preset != "paper_compat":
            raise ValueError(
                "negative_pool='not_interacted' keeps validation and test items out of "
                "the training negatives, which tells every client what they are: a "
                "ranker with no model, scoring an item by minus its number of draws, "
                "reaches HR@10 = .58 after 10 rounds and 1.00 after 70 on ML-100K with "
                "99 sampled candidates (chance: .10). Use 'not_train', or, to compare "
                "with published numbers only, paper_compat()"
            )


def paper_compat(**overrides: Any) -> Protocol:
    """The protocol of widely used federated-recommendation code, leak included.

    99 sampled negatives, training negatives outside train, validation *and test*, each
    client evaluated with its own tuned parameters. For comparing with published
    figures; a result under it is no evidence that a model learned anything.

    Args:
        **overrides: fields of `Protocol`.

    Returns:
        The protocol, marked `preset="paper_compat"`.

    >>> paper_compat().negative_pool
    'not_interacted'
    """
    fields: dict[str, Any] = {
        "candidates": "sampled",
        "num_candidates": 99,
        "negative_pool": "not_interacted",
        "evaluated": "tuned",
        "preset": "paper_compat",
    }
    return Protocol(**{**fields, **overrides})


def _check_cutoffs(cutoffs: tuple[int, ...]) -> None:
    whole = all(isinstance(k, int) and k >= 1 for k in cutoffs)
    if not cutoffs or not whole or list(cutoffs) != sorted(set(cutoffs)):
        raise ValueError(
            f"cutoffs={cutoffs}: expected at least one integer >= 1, in increasing "
            "order without repeats, such as (5, 10, 20)"
        )
