"""A synthetic world in which taste decides, and titles tell the taste."""

import jax
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.synthetic.entities import describe_items, describe_users
from fedjax_rec.data.synthetic.histories import activity, choose_items, moments
from fedjax_rec.data.synthetic.tastes import (
    ItemDraws,
    TasteDraws,
    item_tastes,
    rate,
    user_tastes,
)

LIMITS = (
    "Tastes are a few clean clusters; real ones nest, overlap and are many more.",
    "Given the taste, items are chosen independently: no sequences, series or baskets.",
    "Nothing is exposed or ranked: a missing interaction was not drawn, never disliked "
    "and never unseen, so there is no exposure, position or feedback-loop bias.",
    "Every item exists from the first second on: no launches, fashions or decay.",
    "Time has no days, weeks, seasons or sessions; tastes drift slowly, at one rate.",
    "Titles come from a few hundred words and depend on the taste alone: a language "
    "model's knowledge of the world is worth no more than knowing these words.",
    "No missing or wrong attributes, no spam, no shared accounts, no repeated pairs.",
    "Ratings are taste, quality and noise; real ones also anchor, inflate and drift.",
    "User attributes lean on taste a little and on nothing else.",
)
"""What real data have that these lack; `data describe` prints it."""

START = 1_577_836_800
"""The first second: 2020-01-01 UTC."""

SPAN = 3 * 365 * 86_400
"""Seconds the data cover, about."""


def synthetic(
    key: Array | int,
    *,
    num_users: int,
    num_items: int,
    num_interactions: int,
    num_tastes: int = 8,
    concentration: float = 0.04,
    item_exponent: float = 0.8,
    user_exponent: float = 0.5,
    explore: float = 0.05,
    drift: float = 0.1,
) -> Interactions:
    """Users with mixed tastes choose items of these tastes, popular ones more often.

    A user has a mixture `m ~ Dir(concentration)` of tastes; an item a taste, at times a
    second one, and a weight `rank ** -item_exponent`. Each interaction draws a taste
    from the mixture, then an item of it by weight that the user has not met. `LIMITS`
    lists what real data have beyond that.

    Items carry a title, `genre` (tastes joined by `|`), `era` and `maker`; users
    `region` and `age_group`, which lean on their taste. Ratings are 1 to 5.

    Args:
        key: typed key, or a seed for one. NumPy draws from it on the host, so the data
            are the same beside any accelerator.
        num_users: `U`.
        num_items: `I`.
        num_interactions: distinct (user, item) pairs, exactly.
        num_tastes: tastes; those beyond 8 have invented words.
        concentration: of a user's mixture: small is one taste each, large all alike.
        item_exponent: power law of popularity within a taste.
        user_exponent: power law of activity, by rank.
        explore: share of interactions that ignore taste.
        drift: share of interactions, at a stay's end, that follow a second mixture.

    Returns:
        The interactions. Should users run out of items of their tastes, the notes count
        `drawn_regardless_of_taste`.

    Raises:
        ValueError: sizes that do not fit, or a share outside [0, 1].

    >>> data = synthetic(0, num_users=20, num_items=30, num_interactions=200)
    >>> len(data), data.items.titles[0], data.items.attributes["genre"][0]
    (200, 'Prank of the Quiet Zoo', 'Comedy')
    """
    _check_sizes(num_users, num_items, num_interactions, num_tastes)
    _check_options(concentration, item_exponent, user_exponent, explore, drift)
    key = jax.random.key(key) if isinstance(key, int) else key
    seeds = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).tolist())
    # Each stage draws from its own stream: more users leave the items as they are.
    item_rng, text_rng, user_rng, rng = map(np.random.default_rng, seeds.spawn(4))

    taste, second = item_tastes(item_rng, num_items, num_tastes)
    weight = item_rng.permutation(np.arange(1, num_items + 1) ** -item_exponent)
    mixture, later = user_tastes(user_rng, num_users, num_tastes, concentration)
    generosity = user_rng.standard_normal(num_users)
    # A third of the items is the most a user meets, unless that leaves too little room.
    third = num_items // 3
    most = third if num_users * third >= num_interactions else num_items
    size = activity(user_rng, num_users, num_interactions, most, user_exponent)

    user = np.repeat(np.arange(num_users), size)
    timestamp, gone = moments(rng, size, START, SPAN)
    early, late = TasteDraws(mixture), TasteDraws(later)
    draw_items = ItemDraws(taste, second, weight, num_tastes)

    def propose(slots: np.ndarray) -> np.ndarray:
        owner = user[slots]
        wanted = early(owner, rng.random(len(slots)))
        moved = np.flatnonzero(rng.random(len(slots)) < drift * gone[slots])
        wanted[moved] = late(owner[moved], rng.random(len(moved)))
        wanted[rng.random(len(slots)) < explore] = num_tastes
        return draw_items(rng, wanted)

    item, regardless = choose_items(rng, user, num_items, propose)
    # Weights shrink too fast to show in ratings as they are; their ranks do not.
    fame = weight.argsort().argsort() / num_items
    liking = mixture[user, taste[item]]
    # Sorted and distinct by construction; make_interactions would sort it all again.
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=rate(rng, generosity[user], liking, fame[item]).astype(np.float32),
        timestamp=timestamp,
        position=np.arange(num_interactions),
        users=describe_users(user_rng, mixture),
        items=describe_items(text_rng, taste, second, num_tastes),
        name="synthetic",
        notes={"drawn_regardless_of_taste": regardless} if regardless else {},
    )


def _check_sizes(
    num_users: int, num_items: int, num_interactions: int, num_tastes: int
) -> None:
    if min(num_users, num_items, num_interactions, num_tastes) < 1:
        raise ValueError(
            f"num_users={num_users}, num_items={num_items}, num_interactions="
            f"{num_interactions}, num_tastes={num_tastes}: expected all at least 1"
        )
    if num_interactions > num_users * num_items:
        raise ValueError(
            f"num_interactions={num_interactions}, but {num_users} users and "
            f"{num_items} items have {num_users * num_items} distinct pairs. Ask for "
            "fewer interactions, or more users or items."
        )
    if num_tastes > num_items:
        raise ValueError(
            f"num_tastes={num_tastes}, expected at most num_items={num_items}, so that "
            "every taste has an item. Lower num_tastes."
        )


def _check_options(
    concentration: float,
    item_exponent: float,
    user_exponent: float,
    explore: float,
    drift: float,
) -> None:
    if not concentration > 0 or min(item_exponent, user_exponent) < 0:
        raise ValueError(
            f"concentration={concentration}, item_exponent={item_exponent}, "
            f"user_exponent={user_exponent}: expected a concentration above 0 and "
            "exponents of 0 or more"
        )
    if not (0 <= explore <= 1 and 0 <= drift <= 1):
        raise ValueError(
            f"explore={explore}, drift={drift}: expected shares from 0 to 1"
        )
