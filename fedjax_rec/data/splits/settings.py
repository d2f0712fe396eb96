"""Splits as settings, which are cheap to import."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from etils import epy

from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.data.splits.split import (
    Split,
    draw,
    rank_from_end,
    share_of,
    sizes_of,
    split_by,
    split_key,
)

if TYPE_CHECKING:
    from fedjax_rec.data.interactions import Interactions

with epy.lazy_imports():
    import jax
    import numpy as np


Ties = Literal["file_order", "reverse_file_order"]
Order = Literal["time", "random"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Each user's latest interaction is test, the one before it validation.

    Users with fewer than three interactions stay in train: info `users_too_short`.
    Info `ties` repeats the option.

    Attributes:
        ties: Which of equal timestamps counts as later: `file_order` the one later in
            the file, `reverse_file_order` the earlier one, as in published PFedRec
            code.

    References:
        He et al. 2017, Neural collaborative filtering, arXiv:1708.05031.
    """

    ties: Ties = "file_order"

    def __post_init__(self):
        check_settings(self)

    def split(self, data: Interactions) -> Split:
        """Splits `data`."""
        position = data.position if self.ties == "file_order" else -data.position
        order = np.lexsort((position, data.timestamp, data.user))
        from_end = rank_from_end(data, order)
        size = sizes_of(data)
        evaluated = size[data.user] >= 3
        short = int(((size > 0) & (size < 3)).sum())
        return split_by(
            data,
            val=evaluated & (from_end == 1),
            test=evaluated & (from_end == 0),
            name=f"leave_one_out(ties={self.ties})",
            info={"users_too_short": short, "ties": self.ties},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveLast:
    """Each user's latest interactions are test, by time and then file order.

    There is no validation, so no round can be selected and the last one is reported.
    Users with no more than `count` interactions stay in train: info `users_too_short`.

    Attributes:
        count: Number of test interactions per user.
    """

    count: int = 1

    def __post_init__(self):
        check_ranges(self, count="[1, inf)")

    def split(self, data: Interactions) -> Split:
        """Splits `data`."""
        from_end = rank_from_end(data)
        size = sizes_of(data)
        evaluated = size > self.count
        return split_by(
            data,
            val=from_end < 0,
            test=evaluated[data.user] & (from_end < self.count),
            name=f"leave_last(count={self.count})",
            info={"users_too_short": int(((size > 0) & ~evaluated).sum())},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Base of the splits that hold out shares of the data.

    Attributes:
        val: Share for validation.
        test: Share for test.
    """

    val: float = 0.1
    test: float = 0.1

    def __post_init__(self):
        if not (self.val >= 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(
                f"val={self.val} and test={self.test}: expected val >= 0, test > 0 and "
                "a sum below 1, so that train keeps something"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio(HeldOut):
    """Shares of each user's interactions, either the latest ones or random ones.

    A share is rounded down, but to no less than one interaction while train keeps one;
    test comes first. Users with a single interaction stay in train: info
    `users_too_short`.

    Attributes:
        val: Share for validation.
        test: Share for test.
        by: `time`: test is the latest share of each user, validation the one before
            it; `random`: both are drawn.
        seed: Seed of the draw for `random`.
    """

    by: Order = "time"
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_settings(self)

    def split(self, data: Interactions) -> Split:
        """Splits `data`."""
        order = None
        if self.by == "random":
            # Sorting 64 random bits within users is cheaper than a permutation of all.
            bits = np.asarray(jax.random.bits(split_key(self.seed), (len(data), 2)))
            order = np.lexsort((bits[:, 1], bits[:, 0], data.user))
        size = sizes_of(data)
        num_test = share_of(size, self.test, size - 1)
        num_val = share_of(size, self.val, size - 1 - num_test)
        from_end = rank_from_end(data, order)
        in_test = from_end < num_test[data.user]
        return split_by(
            data,
            val=~in_test & (from_end < (num_test + num_val)[data.user]),
            test=in_test,
            name=f"ratio(val={self.val}, test={self.test}, by={self.by})",
            info={"users_too_short": int((size == 1).sum())},
            by_time=self.by == "time",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalTime(HeldOut):
    """One cut in time for all users, so that no training data lie in the future.

    Interactions with equal timestamps are never separated; they belong to the later
    part. Info holds the first timestamps after the cuts, `val_from` and `test_from`.
    Users and items may occur only in test; info counts them.

    Attributes:
        val: Approximate share for validation.
        test: Approximate share for test.

    References:
        Ji et al. 2020, A critical study on data leakage in recommender system offline
        evaluation, arXiv:2010.11060.
    """

    def split(self, data: Interactions) -> Split:
        """Splits `data`.

        Raises:
            ValueError: Equal timestamps leave train empty.
        """
        n = len(data)
        times = np.sort(data.timestamp)
        held_out = max(round(n * self.test), 1)
        test_from = int(times[-held_out]) if n else 0
        val_from = int(times[-min(held_out + round(n * self.val), n)]) if n else 0
        if not n or val_from == times[0]:
            raise ValueError(
                f"{len(np.unique(times))} distinct timestamps in {n} interactions: "
                f"val={self.val} and test={self.test} would leave nothing for train. "
                "Lower them, or use Ratio with by='random'."
            )
        return split_by(
            data,
            val=(data.timestamp >= val_from) & (data.timestamp < test_from),
            test=data.timestamp >= test_from,
            name=f"global_time(val={self.val}, test={self.test})",
            info={"val_from": val_from, "test_from": test_from},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdItems(HeldOut):
    """Test consists of all interactions with held-out items, which are not trained on.

    The items are drawn uniformly from those that occur. Info `test_items` and
    `val_items` hold them (int32, ascending).

    Attributes:
        val: Share of the items held out for validation.
        test: Share of other items held out for test.
        seed: Seed of the draw.

    References:
        Schein et al. 2002, Methods and metrics for cold-start recommendations, SIGIR.
    """

    seed: int = 0
    holds_out: ClassVar[str] = "items"

    def split(self, data: Interactions) -> Split:
        """Splits `data`.

        Raises:
            ValueError: The shares leave no items to train on.
        """
        pool = np.unique(data.item)
        val_items, test_items = draw(pool, self.val, self.test, self.seed, "items")
        return split_by(
            data,
            val=np.isin(data.item, val_items),
            test=np.isin(data.item, test_items),
            name=f"cold_items(fraction={self.test}, val_fraction={self.val})",
            info={"val_items": val_items, "test_items": test_items},
            by_time=False,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdUsers(HeldOut):
    """Held-out users are not trained on; their history is a query, then targets.

    They are drawn uniformly from the users with at least two interactions. Test and
    validation hold only their targets. Info `query` holds the earlier interactions of
    both (`Interactions`), the only history that the model may read for them, and
    `test_users` and `val_users` the users (int32, ascending). Train, validation, test
    and query together are the data.

    Attributes:
        val: Share of the users held out for validation.
        test: Share of other users held out for test.
        query: Share of a held-out user's history that is query, rounded down, with at
            least one interaction for the query and one target.
        seed: Seed of the draw.

    References:
        Liang et al. 2018, Variational autoencoders for collaborative filtering,
        arXiv:1802.05814 (strong generalization).
    """

    query: float = 0.8
    seed: int = 0
    holds_out: ClassVar[str] = "users"

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, query="(0, 1)")

    def split(self, data: Interactions) -> Split:
        """Splits `data`.

        Raises:
            ValueError: The shares leave no users to train on.
        """
        size = sizes_of(data)
        pool = np.flatnonzero(size >= 2).astype(np.int32)
        val_users, test_users = draw(pool, self.val, self.test, self.seed, "users")
        targets = size - share_of(size, self.query, size)
        target = rank_from_end(data) < targets[data.user]
        in_val, in_test = np.isin(data.user, val_users), np.isin(data.user, test_users)
        return split_by(
            data,
            val=in_val & target,
            test=in_test & target,
            query=(in_val | in_test) & ~target,
            name=f"cold_users(fraction={self.test}, val_fraction={self.val}, "
            f"query={self.query})",
            info={"val_users": val_users, "test_users": test_users},
        )
