"""A small grammar of titles: each taste has its own words."""

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np

from fedjax_rec.data.synthetic import words

NO_TASTE = -1
"""Marks an item without a second taste."""

_TEMPLATES = (
    "{noun} of the {adjective} {place}",
    "The {adjective} {noun}",
    "{noun} and {other}",
    "{adjective} {place}",
    "The {noun} at {adjective} {place}",
    "A {noun} in the {place}",
    "{place} of the {noun}",
    "The {place} and the {noun}",
)
_NUMERALS = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


class Vocabulary(NamedTuple):
    """The words of one taste.

    Attributes:
        name: of the taste; the genre of its items.
        nouns, adjectives, places: what its titles are made of.
    """

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]


def vocabularies(num_tastes: int) -> tuple[Vocabulary, ...]:
    """English words for the first tastes, invented ones for the others.

    >>> [v.name for v in vocabularies(9)][-2:]
    ['Comedy', 'Babalic']
    """
    known = [
        Vocabulary(name, *(tuple(group.split()) for group in groups))
        for name, groups in words.TASTE_WORDS.items()
    ]
    return tuple(
        known[t] if t < len(known) else _invented(t - len(known))
        for t in range(num_tastes)
    )


def titles(
    rng: np.random.Generator, taste: np.ndarray, second: np.ndarray, num_tastes: int
) -> list[str]:
    """One title an item, unique by Roman numerals.

    Nouns and places come from the item's taste, adjectives from its second taste where
    it has one, or, a quarter of the time, from plain words that tell nothing.

    Args:
        rng: source of randomness.
        taste: `[I]`, the main taste of each item.
        second: `[I]`, the second one, or `NO_TASTE`.
        num_tastes: the number of tastes.

    Returns:
        `[I]` titles.
    """
    vocabulary = vocabularies(num_tastes)
    plain_adjectives = words.PLAIN_ADJECTIVES.split()
    draws = rng.integers(0, 2**31, (len(taste), 5)).tolist()
    described = np.where(second == NO_TASTE, taste, second).tolist()
    plain = (rng.random(len(taste)) < 0.25).tolist()
    made = []
    for t, s, is_plain, (form, a, b, c, d) in zip(
        taste.tolist(), described, plain, draws, strict=True
    ):
        nouns, places = vocabulary[t].nouns, vocabulary[t].places
        adjectives = plain_adjectives if is_plain else vocabulary[s].adjectives
        # Two different nouns: the second is some steps after the first.
        other = nouns[(a + 1 + d % (len(nouns) - 1)) % len(nouns)]
        made.append(
            _TEMPLATES[form % len(_TEMPLATES)].format(
                noun=nouns[a % len(nouns)],
                other=other,
                adjective=adjectives[b % len(adjectives)],
                place=places[c % len(places)],
            )
        )
    return _numbered(made)


def genres(taste: np.ndarray, second: np.ndarray, num_tastes: int) -> list[str]:
    """The names of each item's tastes, joined by `|`, the main one first."""
    names = [vocabulary.name for vocabulary in vocabularies(num_tastes)]
    return [
        names[t] if s == NO_TASTE else f"{names[t]}|{names[s]}"
        for t, s in zip(taste.tolist(), second.tolist(), strict=True)
    ]


def _numbered(made: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    result = []
    for title in made:
        seen[title] += 1
        count = seen[title]
        result.append(title if count == 1 else f"{title} {_numeral(count)}")
    return result


def _numeral(count: int) -> str:
    return _NUMERALS[count] if count < len(_NUMERALS) else str(count)


def _invented(index: int) -> Vocabulary:
    """Words of syllables that no other index shares: its number in base `len`."""
    base = len(words.SYLLABLES)
    stem = words.SYLLABLES[index % base] + words.SYLLABLES[index // base % base]
    stem += str(index // base**2) if index >= base**2 else ""
    endings = ("lon", "mir", "dra", "vek", "thas", "rune", "gal", "posh", "wen", "zor")
    nouns = tuple((stem + end).capitalize() for end in endings)
    adjectives = tuple((stem + end + "ish").capitalize() for end in endings)
    places = tuple((stem + end + "stead").capitalize() for end in endings)
    return Vocabulary((stem + "lic").capitalize(), nouns, adjectives, places)


def makers(num: int) -> list[str]:
    """Names of makers, all different, that tell nothing of a taste.

    >>> makers(2)
    ['Adler House', 'Adler Works']
    """
    pairs = itertools.product(words.SURNAMES.split(), words.FIRMS.split())
    names = [" ".join(pair) for pair in pairs]
    return [
        names[i % len(names)] + (f" {i // len(names) + 1}" if i >= len(names) else "")
        for i in range(num)
    ]
