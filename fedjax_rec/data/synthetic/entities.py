"""What is known of users and items beside their interactions."""

import numpy as np

from fedjax_rec.data.interactions import Entities
from fedjax_rec.data.synthetic import grammar

REGIONS = ("Coast", "East", "Islands", "North", "South", "West")
AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
ERAS = ("1960s", "1970s", "1980s", "1990s", "2000s", "2010s", "2020s")


def describe_users(rng: np.random.Generator, mixture: np.ndarray) -> Entities:
    """Users with a `region` and an `age_group`; half the regions follow the main taste.

    Args:
        rng: source of randomness.
        mixture: `[U, T]`.
    """
    main = mixture.argmax(1)
    region = _leaning(rng, main, len(REGIONS), 0.5)
    age = _leaning(rng, main, len(AGES), 0.2)
    return Entities(
        ids=[f"u{u}" for u in range(len(main))],
        attributes={
            "region": [REGIONS[r] for r in region.tolist()],
            "age_group": [AGES[a] for a in age.tolist()],
        },
    )


def describe_items(
    rng: np.random.Generator, taste: np.ndarray, second: np.ndarray, num_tastes: int
) -> Entities:
    """Items with titles, `genre`, `era` and `maker`; most makers keep to one taste.

    Args:
        rng: source of randomness.
        taste, second: `[I]`.
        num_tastes: `T`.
    """
    num_items = len(taste)
    era = rng.choice(len(ERAS), num_items, p=_increasing(len(ERAS)))
    # Makers of a taste are those whose number has its remainder; the first make most.
    per_taste = 2 + int((num_items / num_tastes) ** 0.5 / 2)
    rank = (per_taste * rng.random(num_items) ** 2).astype(np.int64)
    loyal = np.where(rng.random(num_items) < 0.8, taste, _any(rng, taste, num_tastes))
    makers = grammar.makers(per_taste * num_tastes)
    return Entities(
        ids=[f"i{i}" for i in range(num_items)],
        titles=grammar.titles(rng, taste, second, num_tastes),
        attributes={
            "genre": grammar.genres(taste, second, num_tastes),
            "era": [ERAS[e] for e in era.tolist()],
            "maker": [makers[m] for m in (rank * num_tastes + loyal).tolist()],
        },
    )


def _leaning(
    rng: np.random.Generator, main: np.ndarray, size: int, share: float
) -> np.ndarray:
    """`main % size` for a share of the users, for the others whatever."""
    follows = rng.random(len(main)) < share
    return np.where(follows, main % size, _any(rng, main, size))


def _any(rng: np.random.Generator, like: np.ndarray, size: int) -> np.ndarray:
    return rng.integers(0, size, len(like))


def _increasing(size: int) -> np.ndarray:
    share = np.arange(1.0, size + 1)
    return share / share.sum()
