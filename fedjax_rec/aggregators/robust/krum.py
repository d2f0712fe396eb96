"""Krum and multi-Krum: the deltas with the closest neighbours."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.aggregators.robust.voting import ByVotes
from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import ballots, order, pairs
    from fedjax_rec.core import contracts


Variant = Literal["blanchard", "one_more", "unsquared"]
"""Krum's score of a client, among `n` present ones with `f` assumed attackers.

- `blanchard`: the sum of the squared distances to the `n - f - 2` nearest others, as
  published.
- `one_more`: to the `n - f - 1` nearest others, so that `n - f` count with the client
  itself. In byzfl and in Allouah et al. 2023; the paper's bounds hold for it.
- `unsquared`: the sum of distances instead of squared ones. In several repositories of
  federated learning.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Krum(ByVotes):
    """The delta of the client with the nearest neighbours.

    Distances are over all leaves. Among equal scores the client in the first slot wins.
    Memory: `ballot_bytes`, and `3 C^2` numbers at the end. `info` has the `krum_score`
    of the chosen client.

    With voting by row, every row of a table is that of one of its voters, by distances
    between their rows; all other leaves are one client's together. On rows equal scores
    share, since a pair among two or three voters always has them: the row is the pair's
    mean. Krum withstands `f` attackers among `2 f + 3` voters; among fewer voters `f =
    (v - 3) // 2` are assumed.

    Attributes:
        share: assumed share of attackers, `f = floor(share n)`; a cohort has to hold `2
            f + 3` clients.
        variant: score of a client.
        voting: the voters on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017.
    """

    variant: Variant = "blanchard"
    attackers: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 0.5)", attackers="[0, 0.5)")

    def num_chosen(self, n: jax.Array, f: jax.Array) -> jax.Array:
        """Number of chosen clients, among `n` with `f` assumed attackers."""
        return jnp.int32(1)

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def rule(deltas, squared, voters, f, by_row):
            n = voters.sum(dtype=jnp.int32)
            score = scores(squared, voters, n, f, self.variant)
            keep = jnp.maximum(self.num_chosen(n, f), 1)
            # A score that overflowed still comes before absent clients.
            limited = jnp.minimum(score, jnp.finfo(score.dtype).max)
            chosen = places(jnp.where(voters, limited, jnp.inf), keep, share=by_row)
            weights = chosen / keep.astype(score.dtype)
            delta = jax.tree.map(lambda x: fold.dot(weights.astype(x.dtype), x), deltas)
            highest = jnp.where(chosen > 0, score, -jnp.inf).max()
            return delta, {"krum_score": jnp.where(n > 0, highest, 0)}

        by_pairs = pairs.by_pairs("Krum", rule, self.share, 2)
        return ballots.buffered(by_pairs, self.voting, self.share, self.attackers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """The mean of the deltas with the lowest scores of Krum.

    Memory and voting as in `Krum`. `info` has the highest `krum_score` of the chosen.

    Attributes:
        share: assumed share of attackers, as in `Krum`.
        chosen: number of deltas; by default `n - f`, so that share 0 is the uniform
            mean.
        variant: score of a client.
        voting: the voters on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """

    chosen: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, chosen="[1, inf)")

    def num_chosen(self, n: jax.Array, f: jax.Array) -> jax.Array:
        """Number of chosen clients, among `n` with `f` assumed attackers."""
        return n - f if self.chosen is None else jnp.minimum(self.chosen, n)


def scores(
    squared: jax.Array, voters: jax.Array, n: jax.Array, f: jax.Array, variant: Variant
):
    """Krum's scores `[C]`, infinite for absent clients.

    Args:
        squared: `[C, C]` squared distances.
        voters: `[C]` bool.
        n: int32 scalar, the number of voters.
        f: int32 scalar, the assumed attackers.
        variant: the distances that are summed; at least one is, however few voted.
    """
    far = jnp.sqrt(squared) if variant == "unsquared" else squared
    others = voters[:, None] & ~jnp.eye(len(voters), dtype=bool)
    num = jnp.clip(n - f - (1 if variant == "one_more" else 2), 1, n - 1)
    near = order.smallest(far, others, jnp.broadcast_to(num, voters.shape))
    score = jnp.where(near > 0, far * near, 0).sum(0)
    return jnp.where(voters, score, jnp.inf)


def places(score: jax.Array, keep: jax.Array, share: bool) -> jax.Array:
    """Share `[C]` of each client in the `keep` lowest places.

    Args:
        score: `[C]`, infinite for absent clients.
        keep: int32 scalar, at most the number of voters.
        share: equal scores share the last places; otherwise the first slots get them.
    """
    below = (score[None] < score[:, None]).sum(1)
    equal = score[None] == score[:, None]
    if share:
        return jnp.clip((keep - below) / equal.sum(1), 0, 1)
    return (below + jnp.tril(equal, -1).sum(1) < keep).astype(score.dtype)
