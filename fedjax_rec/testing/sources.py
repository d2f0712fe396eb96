"""Laws of data."""

from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.returned import check_interactions
from fedjax_rec.testing.compare import check_same, require
from fedjax_rec.testing.law import LawBroken, NotApplicable


class Loaded:
    """The interactions that some settings load."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.data: Interactions = settings.load(False)


def builds(loaded: Loaded) -> None:
    """`load(progress)` returns sorted Interactions with ids in range"""
    name = type(loaded.settings).__name__
    try:
        check_interactions(loaded.data, f"{name}.load(False)")
    except ValueError as error:
        raise LawBroken(str(error)) from error
    require(len(loaded.data), "there is no interaction")


def numbers_are_valid(loaded: Loaded) -> None:
    """Ratings are finite"""
    rating = np.asarray(loaded.data.rating, np.float64)
    bad = np.flatnonzero(~np.isfinite(rating))
    require(
        not len(bad),
        f"{len(bad)} of {len(rating)} ratings are not finite, such as row {bad[:1]}",
    )


def pairs_are_unique(loaded: Loaded) -> None:
    """A user has an item at most once"""
    data = loaded.data
    pairs = np.stack([data.user, data.item], 1)
    unique, count = np.unique(pairs, axis=0, return_counts=True)
    repeated = unique[count > 1]
    require(
        not len(repeated),
        f"{len(repeated)} pairs of user and item occur more than once, such as "
        f"{repeated[:1].tolist()}: fedjax_rec.from_frame keeps the last of each",
    )


def entities_fit(loaded: Loaded) -> None:
    """Users and items have distinct ids, and as many titles and attributes"""
    for kind, entities in (("users", loaded.data.users), ("items", loaded.data.items)):
        n = len(entities.ids)
        require(
            len(set(entities.ids)) == n,
            f"{kind} have {n} ids, of which {len(set(entities.ids))} are distinct",
        )
        columns = dict(entities.attributes)
        if entities.titles is not None:
            columns["titles"] = entities.titles
        for name, column in columns.items():
            require(
                len(column) == n, f"{kind} have {n} ids and {len(column)} of {name}"
            )


def the_same_twice(loaded: Loaded) -> None:
    """Loading twice gives the same interactions"""
    again = loaded.settings.load(False)
    columns = ("user", "item", "rating", "timestamp")
    one, other = ({c: getattr(x, c) for c in columns} for x in (again, loaded.data))
    check_same(one, other, "a second load, and the first")


def origin_is_a_text(loaded: Loaded) -> None:
    """`origin(progress)`, if there is one, returns the same text each time"""
    if not hasattr(loaded.settings, "origin"):
        raise NotApplicable("there is no `origin`: data are cached by their content")
    one, other = (loaded.settings.origin(False) for _ in range(2))
    require(
        isinstance(one, str) and one,
        f"it returned {one!r}; expected a text that identifies the data",
    )
    require(
        one == other,
        f"it returned {one!r}, and {other!r} the second time: the cache would never "
        "find the data again",
    )


LAWS = (
    builds,
    numbers_are_valid,
    pairs_are_unique,
    entities_fit,
    the_same_twice,
    origin_is_a_text,
)
