"""Laws of splits."""

from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.returned import check_split
from fedjax_rec.data.splits import Split
from fedjax_rec.testing import world
from fedjax_rec.testing.compare import check_same, require
from fedjax_rec.testing.law import LawBroken, NotApplicable


class Made:
    """The split of the interactions of 160 users by some settings."""

    def __init__(self, settings: Any) -> None:
        self.settings, self.data = settings, world.population()
        self.split: Split = settings.split(self.data)

    @property
    def parts(self) -> dict[str, Interactions]:
        """The parts by name; `query` holds the history of held-out users."""
        split = self.split
        parts = {"train": split.train, "val": split.val, "test": split.test}
        query = split.info.get("query")
        return parts if query is None else {**parts, "query": query}


def builds(made: Made) -> None:
    """`split(data)` returns a Split of the data"""
    name = type(made.settings).__name__
    try:
        check_split(made.split, made.data, name)
    except ValueError as error:
        raise LawBroken(str(error)) from error


def parts_are_disjoint(made: Made) -> None:
    """No interaction is in two parts, and all are from the data"""
    owner: dict[tuple[int, int], str] = {}
    rating = dict(zip(_pairs(made.data), made.data.rating, strict=True))
    for name, part in made.parts.items():
        for pair, value in zip(_pairs(part), part.rating, strict=True):
            if pair in owner:
                raise LawBroken(
                    f"the interaction of user {pair[0]} with item {pair[1]} is in "
                    f"{owner[pair]} and in {name}"
                )
            if rating.get(pair) != value:
                raise LawBroken(
                    f"{name} has user {pair[0]} with item {pair[1]} and rating "
                    f"{value}, and the data do not"
                )
            owner[pair] = name


def train_and_test_hold_something(made: Made) -> None:
    """Train and test are not empty"""
    for name in ("train", "test"):
        require(len(made.parts[name]), f"{name} is empty for {len(made.data)} rows")


def held_out_is_true(made: Made) -> None:
    """What `holds_out` declares is absent from train"""
    kind = getattr(made.settings, "holds_out", "interactions")
    if kind == "interactions":
        raise NotApplicable("holds_out='users' or 'items' is not declared")
    require(kind in ("users", "items"), f"holds_out={kind!r}; expected users or items")
    column = kind.removesuffix("s")
    train = getattr(made.split.train, column)
    for name in ("val", "test"):
        both = np.intersect1d(train, getattr(made.parts[name], column))
        require(
            not len(both),
            f"holds_out={kind!r} is declared, and {len(both)} {kind} of {name} are in "
            f"train, such as {column} {both[:1]}",
        )


def time_is_kept(made: Made) -> None:
    """With `by_time`, a user's test interactions do not come before its train ones"""
    if not made.split.by_time:
        raise NotApplicable("by_time=False is declared")
    last = np.full(made.data.num_users, np.iinfo(np.int64).min)
    train, test = made.split.train, made.split.test
    np.maximum.at(last, train.user, train.timestamp)
    early = np.flatnonzero(test.timestamp < last[test.user])
    if len(early):
        raise LawBroken(
            f"by_time=True is declared (the default), and {len(early)} of {len(test)} "
            f"test interactions come before a train interaction of the same user, such "
            f"as one of user {test.user[early[0]]}"
        )


def counts_are_true(made: Made) -> None:
    """`info` counts the test users and test items that train lacks"""
    split = made.split
    for kind in ("user", "item"):
        name = f"test_{kind}s_without_train"
        a, b = (getattr(part, kind) for part in (split.test, split.train))
        count = len(np.setdiff1d(a, b))
        require(
            split.info.get(name) == count,
            f"info[{name!r}] is {split.info.get(name)}, and there are {count}: "
            "fedjax_rec.data.splits.split.split_by counts them",
        )


def the_same_twice(made: Made) -> None:
    """The same settings and data give the same split"""
    again = made.settings.split(made.data)
    for name, part in made.parts.items():
        if name != "query":
            other = getattr(again, name)
            one, two = ((x.user, x.item) for x in (other, part))
            check_same(one, two, f"{name} of a second call, and of the first")


def _pairs(part: Interactions) -> list[tuple[int, int]]:
    return list(zip(part.user.tolist(), part.item.tolist(), strict=True))


LAWS = (
    builds,
    parts_are_disjoint,
    train_and_test_hold_something,
    held_out_is_true,
    time_is_kept,
    counts_are_true,
    the_same_twice,
)
