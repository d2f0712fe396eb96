"""How a result is obtained, as data: recorded with every number."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from fedjax_rec.evaluation import own_metric

Ties = Literal["pessimistic", "optimistic", "random"]
Rounds = Literal["first", "last"]
"""The first among equal scores: the negatives, the positives, or a random one."""

CUTOFF_METRICS = ("hr", "ndcg", "recall", "recall_capped", "precision", "mrr", "map")
"""Metrics with a cut-off, reported as `name@k`; `auc` has none."""


def metric_names(cutoffs: Sequence[int]) -> tuple[str, ...]:
    """Names of the metrics of one user, in order.

    >>> metric_names((5,))[:3]
    ('hr@5', 'ndcg@5', 'recall@5')
    """
    names = [f"{name}@{k}" for k in cutoffs for name in CUTOFF_METRICS]
    return (*names, "auc")


def main_cutoff(cutoffs: Sequence[int]) -> int:
    """The cut-off of metrics that stand for all: 10, else the smallest."""
    return 10 if 10 in cutoffs else min(cutoffs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """An evaluation protocol, by default one that cannot leak.

    Attributes:
        candidates: `full` ranks every item the user has in no earlier part (neither in
            train nor, for the test, in validation, nor among the interactions shown of
            held-out users); `sampled` ranks the positives among `num_candidates` items
            the user never touched. Sampled metrics can order models differently from
            the full ones [1]. `cold` ranks the items that a `cold_items` split held out
            for the part, and no others: that split takes no other candidates, since
            held-out items are never drawn as negatives.
        num_candidates: number of negatives per user, for `sampled`.
        disjoint_candidates: the sampled negatives of validation and test are two halves
            of one draw, for `sampled`; otherwise they are drawn independently.
        candidate_seed: seed of the sampled negatives, the same for every model, and of
            the users drawn under `max_users`.
        max_users: evaluate at most this number of users of each part, drawn at random;
            0 is all. For populations large enough to be sampled.
        negative_pool: source of training negatives. `not_train` is known to a client;
            `not_interacted` also leaves out validation and test items, which leaks
            them, and is refused outside `paper_compat`.
        ties: order of equal scores; `pessimistic` gives a constant scorer no credit.
        evaluated: the `aggregated` parameters with the personal ones as the client left
            them; all the client's own, `tuned` by local training; or the aggregated
            ones with the personal ones `reconstructed` from them.
        metric: a further metric of each user's ranking, such as `Novelty()`.
        selection: the validation metric that chooses the best round, `rmse` of explicit
            ratings and the names of `metric` included, or `last` for the last round.
            Never a test metric. `auto` is `rmse` where it is computed (of systems that
            predict ratings, with aggregated parameters and trained users), otherwise
            NDCG at 10 or the smallest cut-off.
        selection_ties: which of several rounds with the best value is chosen.
        cutoffs: the ks of the metrics.
        exposed_item: item with a measured exposure: the share of users that have it in
            their top k, in full rankings; -1 is none.
        preset: `clean` or `paper_compat`.

    Raises:
        ValueError: a field is outside its range, or would leak outside `paper_compat`.

    References:
        [1] Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020.
    """

    candidates: Literal["full", "sampled", "cold"] = "full"
    num_candidates: int = 99
    disjoint_candidates: bool = False
    candidate_seed: int = 0
    max_users: int = 0
    negative_pool: Literal["not_train", "not_interacted"] = "not_train"
    ties: Ties = "pessimistic"
    evaluated: Literal["aggregated", "tuned", "reconstructed"] = "aggregated"
    metric: Any = None
    selection: str = "auto"
    selection_ties: Rounds = "first"
    cutoffs: tuple[int, ...] = (5, 10, 20)
    exposed_item: int = -1
    preset: Literal["clean", "paper_compat"] = "clean"

    def __post_init__(self) -> None:
        # A list, as JSON gives it, becomes the tuple that hashing needs.
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal and value not in choices:
                raise ValueError(
                    f"{field.name}={value!r} is unknown; choose one of "
                    f"{', '.join(map(repr, choices))}"
                )
        self._check_numbers()
        if self.metric is not None:
            own_metric.check(self.metric, (*metric_names(self.cutoffs), "rmse"))
        self._check_selection()
        if self.negative_pool == "not_interacted" and self.preset != "paper_compat":
            raise ValueError(
                "negative_pool='not_interacted' keeps validation and test items out of "
                "the training negatives, which shows every client which items they "
                "are: a ranker with no model, scoring an item by minus its number of "
                "draws, reaches HR@10 = .58 after 10 rounds and 1.00 after 70 on "
                "ML-100K with 99 sampled candidates (chance: .10). Use 'not_train', "
                "or, to compare with published numbers only, paper_compat()"
            )

    def _check_numbers(self) -> None:
        for name, smallest, expected in (
            ("num_candidates", 1, "at least one negative to rank a positive against"),
            ("candidate_seed", 0, "an integer >= 0"),
            ("max_users", 0, "a number of users, or 0 for all"),
        ):
            value = getattr(self, name)
            if value < smallest:
                raise ValueError(f"{name}={value}: expected {expected}")
        positive = all(isinstance(k, int) and k >= 1 for k in self.cutoffs)
        increasing = list(self.cutoffs) == sorted(set(self.cutoffs))
        if not (self.cutoffs and positive and increasing):
            raise ValueError(
                f"cutoffs={self.cutoffs}: expected at least one integer >= 1, in "
                "increasing order without repeats, such as (5, 10, 20)"
            )
        item = self.exposed_item
        if item < -1 or (item >= 0 and self.candidates == "sampled"):
            raise ValueError(
                f"exposed_item={item}: expected an item that is ranked among all "
                "others (candidates other than 'sampled'), or -1"
            )

    def _check_selection(self) -> None:
        further = own_metric.names_of(self.metric)
        allowed = (*metric_names(self.cutoffs), *further, "rmse", "last", "auto")
        if self.selection in allowed:
            return
        cutoff = re.fullmatch(r"\w+@(\d+)", self.selection)
        hint = ""
        if cutoff and int(cutoff[1]) not in self.cutoffs:
            hint = f"; {cutoff[1]} is not among cutoffs={self.cutoffs}"
        raise ValueError(
            f"selection={self.selection!r} names no validation metric{hint}. Use one "
            f"of {', '.join(allowed)}; 'last' takes the last round"
        )


def without_rmse(protocol: Protocol, predicts_ratings: bool, cold_users: bool) -> str:
    """The reason why no error of validation ratings is computed; empty if one is.

    Args:
        protocol: the protocol.
        predicts_ratings: whether the system's scores are ratings.
        cold_users: whether the evaluated users take part in no round.
    """
    if not predicts_ratings:
        return (
            "RMSE needs a system that predicts ratings, such as "
            "FedMF(feedback='explicit')"
        )
    if protocol.evaluated != "aggregated":
        return (
            "RMSE is computed from aggregated parameters only, and "
            f"protocol.evaluated={protocol.evaluated!r} ranks with others"
        )
    if cold_users:
        return "RMSE is not computed for users who take part in no round"
    return ""


def settled(protocol: Protocol, reason: str = "") -> Protocol:
    """The protocol with `auto` replaced by the metric that it stands for.

    Args:
        protocol: the protocol.
        reason: see `without_rmse`.

    Raises:
        ValueError: `rmse` without validation errors.
    """
    if protocol.selection == "auto":
        metric = f"ndcg@{main_cutoff(protocol.cutoffs)}" if reason else "rmse"
        return dataclasses.replace(protocol, selection=metric)
    if protocol.selection == "rmse" and reason:
        raise ValueError(
            f"protocol.selection='rmse': {reason}. Choose a ranking metric, or 'auto'"
        )
    return protocol


def paper_compat(**overrides: Any) -> Protocol:
    """The protocol of widely used federated-recommendation code, leak included.

    99 sampled negatives for validation and 99 others for test, training negatives
    outside train, validation *and test*, each client evaluated with its own tuned
    parameters, the last round with the highest validation HR@10. For comparison with
    published figures, with an evaluation after every round and the order of rows that
    their code reads (`FileData.order`); a result under it is no evidence that a model
    learned anything.

    Args:
        **overrides: fields of `Protocol`.

    Returns:
        The protocol, marked `preset="paper_compat"`.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023, and
        its code, github.com/Zhangcx19/IJCAI-23-PFedRec.

    >>> paper_compat().negative_pool
    'not_interacted'
    """
    fields: dict[str, Any] = {
        "candidates": "sampled",
        "num_candidates": 99,
        "disjoint_candidates": True,
        "negative_pool": "not_interacted",
        "evaluated": "tuned",
        "selection": "hr@10",
        "selection_ties": "last",
        "preset": "paper_compat",
    }
    return Protocol(**{**fields, **overrides})
