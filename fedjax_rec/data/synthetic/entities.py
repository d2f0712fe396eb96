"""Users and items of the synthetic world: attributes, and titles that fit the taste."""

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np

from fedjax_rec.data.interactions import Entities

NO_TASTE = -1
"""Marks an item without a second taste."""

_REGIONS = ("Coast", "East", "Islands", "North", "South", "West")
_AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
_ERAS = ("1960s", "1970s", "1980s", "1990s", "2000s", "2010s", "2020s")

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

# Each taste: name, nouns, adjectives, places. No word belongs to two tastes.
_TASTES = """
Fantasy
Ember Dragon Crown Wizard Oath Sword Rune Throne Griffin Prophecy
Northern Enchanted Ancient Shattered Emerald Mythic Runed Elven Fabled Cursed
Reach Kingdom Citadel Vale Keep Moor Tower Glade Realm Dominion
Noir
Detective Alibi Cipher Witness Suspect Revolver Ledger Informer Killer Motive
Midnight Crooked Smoky Silent Guilty Shadowed Cold Unsolved Missing Dead
Alley Precinct Harbor Backstreet Motel Courtroom Pier District Cellar Casino
Space
Star Comet Android Signal Starship Orbit Nebula Colony Astronaut Photon
Quantum Stellar Galactic Lunar Cosmic Interstellar Robotic Zero Binary Solar
Station Galaxy Horizon Outpost Planet Void Asteroid Frontier Moonbase Rift
Romance
Kiss Letter Bride Promise Heart Waltz Rose Sweetheart Wedding Embrace
Tender Forbidden Summer Secret Longing Velvet Gentle Blushing Devoted Starlit
Garden Ballroom Cottage Paris Orchard Balcony Vineyard Seaside Chapel Lagoon
War
Soldier Battalion Trench General Sniper Siege Medic Regiment Bugle Bayonet
Last Fallen Iron Marching Armoured Burning Wounded Decorated Muddy Valiant
Front Bunker Beachhead Bridge Battlefield Barracks Ridge Garrison Fort Line
Nature
Wolf River Whale Fern Eagle Glacier Otter Seed Coral Migration
Wild Green Blooming Untamed Migrating Feathered Rooted Tidal Mossy Frozen
Forest Savanna Reef Wetland Canopy Tundra Delta Meadow Canyon Rainforest
Music
Song Drummer Ballad Guitar Chorus Rhythm Melody Symphony Encore Trumpet
Electric Acoustic Jazzy Syncopated Loud Harmonic Sung Soulful Tuned Bluesy
Stage Studio Jukebox Opera Bandstand Festival Rehearsal Hall Club Choir
Comedy
Clown Neighbour Prank Uncle Roommate Goose Sandwich Dentist Boss Mishap
Silly Awkward Clumsy Ridiculous Bumbling Giggling Absurd Goofy Hapless Wacky
Office Diner Rooftop Campsite Carpool Circus Laundromat Suburb Canteen Zoo
"""
_PLAIN_ADJECTIVES = "Great Little New Old Long Second Other Lost First Final Open Quiet"

# Syllables of the invented words of further tastes.
_SYLLABLES = tuple(onset + vowel for vowel in "aeiou" for onset in "bdfgklmnrstvz")

_SURNAMES = (
    "Adler Barro Castell Dunmore Ekholm Farrow Greaves Hollis Ibarra Jessup Kader "
    "Lindqvist Moran Nwosu Okafor Pereira Quint Rasmus Solano Tanaka Ueda Varga "
    "Whitlow Yilmaz"
)
_FIRMS = "House Works Studio Press Brothers Company Guild Union"


class Vocabulary(NamedTuple):
    """The words of one taste.

    Attributes:
        name: Name of the taste, and genre of its items.
        nouns: Nouns of its titles.
        adjectives: Adjectives of its titles.
        places: Places of its titles.
    """

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]


def make_users(rng: np.random.Generator, mixture: np.ndarray) -> Entities:
    """Makes users with a `region` and an `age_group`.

    Half of the regions and a fifth of the age groups follow the main taste.

    Args:
        rng: Source of randomness.
        mixture: `[U, T]` tastes of the users.
    """
    main = mixture.argmax(1)
    region = _leaning(rng, main, len(_REGIONS), 0.5)
    age = _leaning(rng, main, len(_AGES), 0.2)
    return Entities(
        ids=[f"u{u}" for u in range(len(main))],
        attributes={
            "region": [_REGIONS[r] for r in region.tolist()],
            "age_group": [_AGES[a] for a in age.tolist()],
        },
    )


def make_items(
    rng: np.random.Generator, taste: np.ndarray, second: np.ndarray, num_tastes: int
) -> Entities:
    """Makes items with titles, `genre`, `era` and `maker`; most makers keep to a taste.

    Args:
        rng: Source of randomness.
        taste: `[I]` main taste of each item.
        second: `[I]` second taste, or `NO_TASTE`.
        num_tastes: `T`.
    """
    num_items = len(taste)
    recency = np.arange(1.0, len(_ERAS) + 1)
    era = rng.choice(len(_ERAS), num_items, p=recency / recency.sum())
    # Makers of a taste have numbers of its remainder; the first ones make most.
    per_taste = 2 + int((num_items / num_tastes) ** 0.5 / 2)
    rank = (per_taste * rng.random(num_items) ** 2).astype(np.int64)
    keeps = rng.random(num_items) < 0.8
    maker_taste = np.where(keeps, taste, rng.integers(0, num_tastes, num_items))
    makers = make_makers(per_taste * num_tastes)
    vocabulary = vocabularies(num_tastes)
    names = [words.name for words in vocabulary]
    return Entities(
        ids=[f"i{i}" for i in range(num_items)],
        titles=_titles(rng, taste, second, vocabulary),
        attributes={
            "genre": [
                names[t] if s == NO_TASTE else f"{names[t]}|{names[s]}"
                for t, s in zip(taste.tolist(), second.tolist(), strict=True)
            ],
            "era": [_ERAS[e] for e in era.tolist()],
            "maker": [makers[m] for m in (rank * num_tastes + maker_taste).tolist()],
        },
    )


def _leaning(
    rng: np.random.Generator, main: np.ndarray, size: int, share: float
) -> np.ndarray:
    """Returns `main % size` for a share of the users, uniform values for the others."""
    follows = rng.random(len(main)) < share
    return np.where(follows, main % size, rng.integers(0, size, len(main)))


def vocabularies(num_tastes: int) -> list[Vocabulary]:
    """Returns English words for the first tastes and invented ones for the others.

    >>> [v.name for v in vocabularies(9)][-2:]
    ['Comedy', 'Babalic']
    """
    lines = _TASTES.strip().split("\n")
    english = [
        Vocabulary(lines[i], *(tuple(line.split()) for line in lines[i + 1 : i + 4]))
        for i in range(0, len(lines), 4)
    ]
    invented = [_invented(index) for index in range(num_tastes - len(english))]
    return [*english, *invented][:num_tastes]


def _invented(index: int) -> Vocabulary:
    """Makes words of syllables that no other index has: its number in base `len`."""
    base = len(_SYLLABLES)
    stem = _SYLLABLES[index % base] + _SYLLABLES[index // base % base]
    stem += str(index // base**2) if index >= base**2 else ""
    endings = ("lon", "mir", "dra", "vek", "thas", "rune", "gal", "posh", "wen", "zor")
    nouns = tuple((stem + end).capitalize() for end in endings)
    adjectives = tuple((stem + end + "ish").capitalize() for end in endings)
    places = tuple((stem + end + "stead").capitalize() for end in endings)
    return Vocabulary((stem + "lic").capitalize(), nouns, adjectives, places)


def _titles(
    rng: np.random.Generator,
    taste: np.ndarray,
    second: np.ndarray,
    vocabulary: list[Vocabulary],
) -> list[str]:
    """Makes one title per item, unique by Roman numerals.

    Nouns and places come from the item's taste. Adjectives come from its second taste,
    if it has one, or in a quarter of the titles from words that fit any taste.
    """
    plain_adjectives = _PLAIN_ADJECTIVES.split()
    draws = rng.integers(0, 2**31, (len(taste), 5)).tolist()
    described = np.where(second == NO_TASTE, taste, second).tolist()
    plain = (rng.random(len(taste)) < 0.25).tolist()
    seen: Counter[str] = Counter()
    titles = []
    for t, s, is_plain, (form, a, b, c, d) in zip(
        taste.tolist(), described, plain, draws, strict=True
    ):
        nouns, places = vocabulary[t].nouns, vocabulary[t].places
        adjectives = plain_adjectives if is_plain else vocabulary[s].adjectives
        title = _TEMPLATES[form % len(_TEMPLATES)].format(
            noun=nouns[a % len(nouns)],
            # Two different nouns: the second is some steps after the first.
            other=nouns[(a + 1 + d % (len(nouns) - 1)) % len(nouns)],
            adjective=adjectives[b % len(adjectives)],
            place=places[c % len(places)],
        )
        seen[title] += 1
        titles.append(_numbered(title, seen[title]))
    return titles


def _numbered(title: str, count: int) -> str:
    if count == 1:
        return title
    return f"{title} {_NUMERALS[count] if count < len(_NUMERALS) else count}"


def make_makers(num: int) -> list[str]:
    """Returns distinct names of makers, which do not reveal a taste.

    >>> make_makers(2)
    ['Adler House', 'Adler Works']
    """
    pairs = itertools.product(_SURNAMES.split(), _FIRMS.split())
    names = [" ".join(pair) for pair in pairs]
    return [
        names[i % len(names)] + (f" {i // len(names) + 1}" if i >= len(names) else "")
        for i in range(num)
    ]
