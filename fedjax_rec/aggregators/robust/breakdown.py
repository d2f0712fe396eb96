"""How many rows of a table are at the mercy of attackers.

A rule stands a share of attackers among the voters. On a row of an item table the
voters are the clients that touched it, and the fewer there are, the likelier it is that
more of them are attackers than the rule stands, however few attackers there are in all.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators.robust.ballots import assumed_attackers
from fedjax_rec.core.arrays import Array


def majority_tolerates(num_voters):
    """Attackers that a median stands among `num_voters`: fewer than half of them."""
    return (num_voters - 1) // 2


def few_tolerate(share: float, each: int) -> Callable:
    """What a rule stands that needs `each f + 3` voters: Krum 2, Bulyan 4.

    `f = min(floor(share v), (v - 3) // each)` and at least 0: with so few voters that
    the assumed share cannot be stood, fewer attackers are assumed.

    Args:
        share: assumed share of attackers.
        each: voters that the rule needs for an attacker.

    Returns:
        `(num_voters) -> f`, of a JAX or a NumPy array of integers.
    """

    def tolerates(num_voters):
        f, most = assumed_attackers(num_voters, share), (num_voters - 3) // each
        f = f - (f - most) * (f > most)
        return f * (f > 0)

    return tolerates


def row_report(
    counts: Sequence[Array],
    tolerates: Callable[[Array], Array],
    share: float,
    cohort_size: int,
) -> dict[str, Array]:
    """What a per-row rule says of the rows on which it may fail.

    With `v` voters on a row, of whom the rule stands `t(v)` attackers:

    - `touched_rows`: rows with `v >= 1`;
    - `fragile_rows`, `fragile_share`: touched rows with `t(v) = 0`, where one attacker
      alone moves the outcome as it likes, and their share of the touched rows;
    - `broken_rows`, `broken_share`: the expected number of touched rows with more than
      `t(v)` attackers, if each voter is one with probability `share` independently:
      the sum of `P(Binomial(v, share) > t(v))`; and its share of the touched rows.

    Args:
        counts: for each table `[I]` int32, the voters of its rows.
        tolerates: `t`, of an int array.
        share: assumed share of attackers.
        cohort_size: `C`, the most voters.

    Returns:
        Scalars; none where there is no table.
    """
    if not counts:
        return {}
    voters = jnp.concatenate(list(counts))
    tail = jnp.asarray(broken_probability(tolerates, share, cohort_size), jnp.float32)
    some = voters > 0
    touched = some.sum().astype(jnp.float32)
    fragile = (some & (tolerates(voters) < 1)).sum().astype(jnp.float32)
    broken = jnp.where(some, tail[voters], 0).sum()
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
    stands = np.asarray(tolerates(np.arange(most + 1)))
    probability, tail = np.zeros(most + 1), np.zeros(most + 1)
    probability[0] = 1.0
    for v in range(1, most + 1):
        probability[1:] = (1 - share) * probability[1:] + share * probability[:-1]
        probability[0] *= 1 - share
        tail[v] = probability[max(stands[v], 0) + 1 :].sum()
    return tail
