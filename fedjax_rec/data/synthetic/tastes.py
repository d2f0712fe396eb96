"""Who likes what: tastes of items and users, and draws that follow them."""

import numpy as np

from fedjax_rec.data.synthetic.grammar import NO_TASTE


def item_tastes(
    rng: np.random.Generator, num_items: int, num_tastes: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[I]` main tastes, some more common than others, and `[I]` second ones.

    Every taste has an item; a quarter of the items have a second taste.
    """
    share = np.arange(1, num_tastes + 1) ** -0.3
    taste = rng.choice(num_tastes, num_items, p=share / share.sum())
    taste[rng.permutation(num_items)[:num_tastes]] = np.arange(num_tastes)
    second = np.full(num_items, NO_TASTE)
    if num_tastes > 1:
        step = rng.integers(1, num_tastes, num_items)
        has_second = rng.random(num_items) < 1 / 4
        second[has_second] = ((taste + step) % num_tastes)[has_second]
    return taste, second


def user_tastes(
    rng: np.random.Generator, num_users: int, num_tastes: int, concentration: float
) -> tuple[np.ndarray, np.ndarray]:
    """`[U, T]` mixtures at the beginning, and those that users drift towards."""
    alpha = np.full(num_tastes, concentration)
    mixture, later = rng.dirichlet(alpha, (2, num_users))
    return mixture, later


class TasteDraws:
    """Draws tastes from users' mixtures, by inversion in one flat sorted array.

    Args:
        mixture: `[U, T]`, rows sum to 1.
    """

    def __init__(self, mixture: np.ndarray):
        num_users, self._num_tastes = mixture.shape
        below = np.cumsum(mixture, axis=1)
        below[:, -1] = 1  # rounding must not let a draw pass into the next user's row
        self._below = (below + np.arange(num_users)[:, None]).ravel()

    def __call__(self, user: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """`[k]` tastes of `user` `[k]` at `uniform` `[k]` in `[0, 1)`."""
        place = np.searchsorted(self._below, user + uniform, side="right")
        # user + uniform may round up to user + 1.
        return np.minimum(place - user * self._num_tastes, self._num_tastes - 1)


class ItemDraws:
    """Draws items of a taste, in proportion to their weights.

    Args:
        taste, second: `[I]` tastes of each item; a second one counts half.
        weight: `[I]`.
        num_tastes: `T`; as a taste, `T` itself means any.
    """

    def __init__(
        self, taste: np.ndarray, second: np.ndarray, weight: np.ndarray, num_tastes: int
    ):
        shares = [
            weight * ((taste == t) + 0.5 * (second == t)) for t in range(num_tastes)
        ]
        self._shelves = []
        for share in [*shares, weight]:
            # Heavy items first: most draws then end in the same few cache lines.
            items = np.argsort(-share, kind="stable")[: np.count_nonzero(share)]
            self._shelves.append((items, np.cumsum(share[items])))

    def __call__(self, rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
        """`[k]` items, one for each wanted taste."""
        item = np.empty(len(wanted), np.int64)
        for t, (items, below) in enumerate(self._shelves):
            slots = np.flatnonzero(wanted == t)
            place = np.searchsorted(below, rng.random(len(slots)) * below[-1], "right")
            item[slots] = items[np.minimum(place, len(items) - 1)]
        return item


def rate(
    rng: np.random.Generator,
    user_bias: np.ndarray,
    liking: np.ndarray,
    fame: np.ndarray,
) -> np.ndarray:
    """`[n]` ratings 1 to 5: liking and fame, a user's generosity, and noise.

    Args:
        rng: source of randomness.
        user_bias: `[n]`, of the user who rates.
        liking: `[n]` in `[0, 1]`, the share of the item's taste in the user's.
        fame: `[n]` in `[0, 1]`, the item's quality.
    """
    noise = rng.standard_normal(len(liking))
    score = 2.5 + 1.2 * liking + 0.8 * fame + 0.4 * user_bias + 0.6 * noise
    return np.clip(np.rint(score), 1, 5)
