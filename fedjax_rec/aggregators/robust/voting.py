"""Votes on the rows of a table, and the attackers that a rule withstands among them.

A rule withstands a share of attackers among the voters. The voters on a row of an item
table are the clients that touched it; the fewer they are, the likelier it is that more
of them attack than the rule withstands, however few attackers there are overall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from etils import epy

from fedjax_rec.core.checks import check_settings

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

Voting = Literal["dense", "voters", "diluted"]
"""The clients that vote on a row of a table.

`dense`: every present client; one that did not touch the row votes for zero. `voters`:
the clients that touched it. `diluted`: the same, and the outcome is multiplied by their
share of the present clients, so that it estimates the uniform mean.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByVotes:
    """Settings of rules that decide by votes.

    Attributes:
        share: assumed share of attackers.
        voting: the voters on a row of a table.
    """

    share: float = 0.1
    voting: Voting = "dense"

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 0.5)")


def assumed_attackers(num_voters, share: float):
    """`f = floor(share n)` int32, the attackers that a rule assumes among `n` voters.

    `n` is a JAX or a NumPy array. A tenth of 10 is 1 in any precision, and `f` is
    fewer than half, as is `share`.
    """
    assumed = (num_voters.astype("float32") * share + 1e-4).astype("int32")
    most = (num_voters - (num_voters > 0)) // 2
    return assumed - (assumed > most) * (assumed - most)


def majority_tolerates(num_voters):
    """Attackers that a median withstands among `num_voters`: fewer than half."""
    return (num_voters - 1) // 2


def few_tolerate(share: float, each: int) -> Callable:
    """Attackers that a rule withstands that needs `each f + 3` voters (Krum: 2).

    `f = max(0, min(floor(share v), (v - 3) // each))`: with too few voters for the
    assumed share, fewer attackers are assumed.

    Args:
        share: assumed share of attackers.
        each: voters that the rule needs for an attacker.

    Returns:
        `(num_voters) -> f`, for a JAX or a NumPy array of integers.
    """

    def tolerates(num_voters):
        f, most = assumed_attackers(num_voters, share), (num_voters - 3) // each
        f = f - (f - most) * (f > most)
        return f * (f > 0)

    return tolerates


def check_cohort(rule: str, share: float, each: int, cohort_size: int) -> None:
    """Raises a ValueError unless a cohort has `each f + 3` clients."""
    f = int(share * cohort_size + 1e-4)
    if cohort_size < each * f + 3:
        raise ValueError(
            f"{rule} with share {share:g} assumes f = {f} attackers among "
            f"{cohort_size} clients, and needs at least {each} f + 3 = {each * f + 3}: "
            "enlarge the cohort or lower share"
        )


def row_report(
    counts: Sequence[jax.Array],
    tolerates: Callable[[jax.Array], jax.Array],
    share: float,
    cohort_size: int,
) -> dict[str, jax.Array]:
    """Metrics of the rows on which a rule by rows may fail.

    With `v` voters on a row, among which the rule withstands `t(v)` attackers:

    - `touched_rows`: rows with `v >= 1`;
    - `fragile_rows`, `fragile_share`: touched rows with `t(v) = 0`, where one attacker
      determines the outcome, and their share of the touched rows;
    - `broken_rows`, `broken_share`: the expected number of touched rows with more than
      `t(v)` attackers, if each voter is one with probability `share` independently:
      the sum of `P(Binomial(v, share) > t(v))`; and its share of the touched rows.

    Args:
        counts: for each table `[I]` int32, the number of voters on its rows.
        tolerates: `t`, for an int array.
        share: assumed share of attackers.
        cohort_size: `C`, the largest number of voters.

    Returns:
        Scalars; empty without tables.
    """
    if not counts:
        return {}
    voters = jnp.concatenate(list(counts))
    tail = jnp.asarray(broken_probability(tolerates, share, cohort_size), jnp.float32)
    present = voters > 0
    touched = present.sum().astype(jnp.float32)
    fragile = (present & (tolerates(voters) < 1)).sum().astype(jnp.float32)
    broken = jnp.where(present, tail[voters], 0).sum()
    over = jnp.maximum(touched, 1)
    return {
        "touched_rows": touched,
        "fragile_rows": fragile,
        "fragile_share": fragile / over,
        "broken_rows": broken,
        "broken_share": broken / over,
    }


def broken_probability(tolerates: Callable, share: float, most: int) -> np.ndarray:
    """`P(Binomial(v, share) > t(v))` for `v = 0..most`, `[most + 1]`, on the host."""
    limits = np.asarray(tolerates(np.arange(most + 1)))
    probability, tail = np.zeros(most + 1), np.zeros(most + 1)
    probability[0] = 1.0
    for v in range(1, most + 1):
        probability[1:] = (1 - share) * probability[1:] + share * probability[:-1]
        probability[0] *= 1 - share
        tail[v] = probability[max(limits[v], 0) + 1 :].sum()
    return tail
