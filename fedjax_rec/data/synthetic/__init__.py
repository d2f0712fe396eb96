"""A synthetic data set of any size: users choose by taste, titles reveal the taste."""

import jax
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.synthetic import histories
from fedjax_rec.data.synthetic.entities import make_items, make_users

LIMITS = (
    "Tastes are a few clean clusters; real ones nest, overlap and are many more.",
    "Given the taste, items are chosen independently: no sequences, series or baskets.",
    "Nothing is exposed or ranked: a missing interaction was not drawn, never disliked "
    "and never unseen, so there is no exposure, position or feedback-loop bias.",
    "Every item exists from the first second on: no launches, fashions or decay.",
    "Time has no days, weeks, seasons or sessions; tastes drift slowly, at one rate.",
    "Titles come from a few hundred words and depend only on the taste: a language "
    "model's knowledge of the world is worth no more than knowing these words.",
    "No missing or wrong attributes, no spam, no shared accounts, no repeated pairs.",
    "Ratings are taste, quality and noise; real ones also anchor, inflate and drift.",
    "User attributes depend weakly on taste and on no other variable.",
)
"""Properties of real data that these lack; `data describe` prints them."""

START = 1_577_836_800
"""The first second: 2020-01-01 UTC."""

SPAN = 3 * 365 * 86_400
"""Approximate number of seconds that the data cover."""


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
    """Generates users with mixed tastes, and items that they choose by taste.

    A user has a mixture `m ~ Dir(concentration)` of tastes. An item has a taste,
    sometimes a second one, and a weight `rank ** -item_exponent`. Each interaction
    draws a taste from the mixture, then by weight an item of this taste that is new to
    the user. `LIMITS` lists what real data have beyond that.

    Items have a title, `genre` (tastes joined by `|`), `era` and `maker`; users have
    `region` and `age_group`, which depend on their taste. Ratings are 1 to 5.

    Args:
        key: Typed key, or a seed for one. NumPy draws from it on the host, so the data
            are the same with any accelerator.
        num_users: `U`.
        num_items: `I`.
        num_interactions: Number of distinct (user, item) pairs, exactly.
        num_tastes: Number of tastes; those beyond 8 have invented words.
        concentration: Concentration of a user's mixture: small is one taste per user,
            large makes users alike.
        item_exponent: Power law of popularity within a taste.
        user_exponent: Power law of activity, by rank.
        explore: Share of interactions that ignore taste.
        drift: Share of interactions, at the end of a stay, that follow a second
            mixture.

    Returns:
        The interactions. If users run out of items of their tastes, the notes count
        `drawn_regardless_of_taste`.

    Raises:
        ValueError: Sizes do not fit, or a share is outside [0, 1].

    >>> data = synthetic(0, num_users=20, num_items=30, num_interactions=200)
    >>> len(data), data.items.titles[0], data.items.attributes["genre"][0]
    (200, 'Prank of the Quiet Zoo', 'Comedy')
    """
    _check_sizes(num_users, num_items, num_interactions, num_tastes)
    _check_options(concentration, item_exponent, user_exponent, explore, drift)
    key = jax.random.key(key) if isinstance(key, int) else key
    seeds = np.random.SeedSequence(np.asarray(jax.random.key_data(key)).tolist())
    # Each stage draws from its own stream, so more users do not change the items.
    item_rng, text_rng, user_rng, rng = map(np.random.default_rng, seeds.spawn(4))

    taste, second = histories.item_tastes(item_rng, num_items, num_tastes)
    weight = item_rng.permutation(np.arange(1, num_items + 1) ** -item_exponent)
    alpha = np.full(num_tastes, concentration)
    mixture, later = user_rng.dirichlet(alpha, (2, num_users))
    generosity = user_rng.standard_normal(num_users)
    # A third of the items is the most a user meets, unless that leaves too little room.
    third = num_items // 3
    cap = third if num_users * third >= num_interactions else num_items
    size = histories.activity(user_rng, num_users, num_interactions, cap, user_exponent)

    user = np.repeat(np.arange(num_users), size)
    timestamp, elapsed = histories.moments(rng, size, START, SPAN)
    draw_early, draw_late = histories.TasteDraws(mixture), histories.TasteDraws(later)
    draw_items = histories.ItemDraws(taste, second, weight, num_tastes)

    def propose(slots: np.ndarray) -> np.ndarray:
        owner = user[slots]
        wanted = draw_early(owner, rng.random(len(slots)))
        moved = np.flatnonzero(rng.random(len(slots)) < drift * elapsed[slots])
        wanted[moved] = draw_late(owner[moved], rng.random(len(moved)))
        wanted[rng.random(len(slots)) < explore] = num_tastes
        return draw_items(rng, wanted)

    item, regardless = histories.choose_items(rng, user, num_items, propose)
    # The weights are too unequal to affect ratings as they are; their ranks are not.
    fame = weight.argsort().argsort() / num_items
    liking = mixture[user, taste[item]]
    # Sorted and distinct by construction; make_interactions would sort it all again.
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=_rate(rng, generosity[user], liking, fame[item]),
        timestamp=timestamp,
        position=np.arange(num_interactions),
        users=make_users(user_rng, mixture),
        items=make_items(text_rng, taste, second, num_tastes),
        name="synthetic",
        notes={"drawn_regardless_of_taste": regardless} if regardless else {},
    )


def _rate(
    rng: np.random.Generator,
    generosity: np.ndarray,
    liking: np.ndarray,
    fame: np.ndarray,
) -> np.ndarray:
    """Draws `[n]` ratings from 1 to 5, given three arrays `[n]`."""
    noise = rng.standard_normal(len(liking))
    score = 2.5 + 1.2 * liking + 0.8 * fame + 0.4 * generosity + 0.6 * noise
    return np.clip(np.rint(score), 1, 5).astype(np.float32)


def _check_sizes(
    num_users: int, num_items: int, num_interactions: int, num_tastes: int
) -> None:
    pairs = num_users * num_items
    for name, value, most, reason in (
        ("num_users", num_users, num_users, ""),
        ("num_items", num_items, num_items, ""),
        ("num_interactions", num_interactions, pairs, ", the number of distinct pairs"),
        ("num_tastes", num_tastes, num_items, ", the number of items"),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}, expected at least 1")
        if value > most:
            raise ValueError(f"{name}={value}, expected at most {most}{reason}")


def _check_options(
    concentration: float,
    item_exponent: float,
    user_exponent: float,
    explore: float,
    drift: float,
) -> None:
    for name, value, valid, expected in (
        ("concentration", concentration, concentration > 0, "a number above 0"),
        ("item_exponent", item_exponent, item_exponent >= 0, "0 or more"),
        ("user_exponent", user_exponent, user_exponent >= 0, "0 or more"),
        ("explore", explore, 0 <= explore <= 1, "a share from 0 to 1"),
        ("drift", drift, 0 <= drift <= 1, "a share from 0 to 1"),
    ):
        if not valid:
            raise ValueError(f"{name}={value}, expected {expected}")
