"""FedAU: clients that come rarely count for more when they come."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_sum
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class Attendance:
    """Of each client of the population, `[N]`.

    Attributes:
        weight: `omega`, the mean interval between its rounds so far.
        intervals: how many that is a mean of.
        since: rounds since the last one ended.
    """

    weight: Array
    intervals: Array
    since: Array


@struct
class AttendanceSums:
    """Sums over clients, and what the server knows of them.

    Attributes:
        total: the inner sum of `omega_i delta_i`.
        seen: `[N]`, 1 for those of the cohort.
        weight: `[N]`, `omega`; not a sum, and not read at the end.
    """

    total: Tree
    seen: Array
    weight: Array


def by_participation(num_clients: int, longest: int = 50) -> Aggregator:
    """`1/N sum_i omega_i delta_i`, `omega_i` the mean interval between i's rounds.

    A client that comes with probability `p` has intervals of `1/p` in the mean, so
    that nobody's availability decides what the model is for. The sum is over the
    cohort, the division by the population: if all come in every round it is the uniform
    mean. A client's first weight is 1.

    Args:
        num_clients: `N`.
        longest: `K`, after which an interval counts as ended, so that those who were
            away for long do not overthrow the model; 50 in the paper.

    Returns:
        An aggregator of one vote a client, with `2 N` numbers beside the mean.

    Raises:
        ValueError: one of the numbers is below 1.

    References:
        Wang and Ji, A Lightweight Method for Tackling Unknown Participation Statistics
        in Federated Averaging (FedAU), ICLR 2024, algorithms 1 and 2.
    """
    if min(num_clients, longest) < 1:
        raise ValueError(
            f"num_clients={num_clients}, longest={longest}: expected at least 1"
        )
    inner = weighted_sum()

    def start(shared: Tree) -> Attendance:
        dtype = jax.tree.leaves(shared)[0].dtype
        zero = jnp.zeros(num_clients, dtype)
        return Attendance(weight=jnp.ones_like(zero), intervals=zero, since=zero)

    def init(shared: Tree, cohort_size: int) -> AttendanceSums:
        known = start(shared)
        return AttendanceSums(
            total=inner.init(shared, cohort_size),
            seen=jnp.zeros_like(known.weight),
            weight=known.weight,
        )

    def begin(acc: AttendanceSums, state: Attendance) -> AttendanceSums:
        return AttendanceSums(total=acc.total, seen=acc.seen, weight=state.weight)

    def update(
        acc: AttendanceSums, deltas: Tree, weights: Array, senders: Senders
    ) -> AttendanceSums:
        here = weights > 0
        ids = jnp.where(here, senders.ids, num_clients)
        omega = jnp.where(here, acc.weight.at[ids].get(mode="clip"), 0)
        return AttendanceSums(
            total=inner.update(acc.total, deltas, omega.astype(weights.dtype), senders),
            seen=acc.seen.at[ids].add(1, mode="drop"),
            weight=acc.weight,
        )

    def finish(acc: AttendanceSums, state: Attendance, shared: Tree):
        total, _, _ = inner.finish(acc.total, (), shared)
        since = state.since + 1
        ended = (acc.seen > 0) | (since >= longest)
        count = state.intervals + 1
        mean = (state.intervals * state.weight + since) / count
        new = Attendance(
            weight=jnp.where(ended, mean, state.weight),
            intervals=jnp.where(ended, count, state.intervals),
            since=jnp.where(ended, 0, since),
        )
        return jax.tree.map(lambda x: x / num_clients, total), new, {}

    return Aggregator(init, update, finish, start, linear=True, begin=begin)
