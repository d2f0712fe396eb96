"""A split: of each user one random interaction is test, and another one validation.

fedjax-rec train quickstart --plugin examples/own_split.py --split random_one
fedjax-rec sweep quickstart --plugin examples/own_split.py \\
    --grid split=leave_one_out,random_one

`split_by` takes masks of the interactions, which are sorted by user and time. A split
that holds out items or users has more to say, see docs/data.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np

import fedjax_rec as fr


@fr.kind("split")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomOne:
    """Leaves one random interaction of each user out, regardless of time.

    Users with fewer interactions than `least` stay in train.

    Attributes:
        least: smallest number of interactions of a user with a test.
        seed: seed of the draw.
    """

    least: int = 3
    seed: int = 0

    def split(self, data: fr.Interactions) -> fr.Split:
        """Splits the interactions."""
        drawn = np.random.default_rng(self.seed).random(len(data))
        order = np.lexsort((drawn, data.user))  # by user, each one's in random order
        place = np.empty(len(data), int)
        place[order] = np.arange(len(data)) - data.offsets()[data.user[order]]
        enough = np.bincount(data.user, minlength=data.num_users) >= self.least
        return fr.split_by(
            data,
            test=enough[data.user] & (place == 0),
            val=enough[data.user] & (place == 1),
            name=f"random_one(seed={self.seed})",
            by_time=False,
        )
