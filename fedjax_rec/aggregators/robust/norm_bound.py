"""Norm bounding: a mean of clipped deltas, as a fold."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import order
from fedjax_rec.aggregators.robust.ballots import (
    Voting,
    check_share,
    check_voting,
    finite,
)
from fedjax_rec.aggregators.robust.row_bound import bound_rows
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class Clipped:
    """A running sum of clipped deltas.

    Attributes:
        total: like the shared parameters.
        norms: `[C]`, each client's norm before it was clipped.
        voters: `[C]`, 1 where a client was present.
        rejected: scalar, clients whose delta held a number that is not finite.
        bound: scalar, what this round clips to; not a sum, and not read at the end.
    """

    total: Tree
    norms: Array
    voters: Array
    rejected: Array
    bound: Array


def norm_bound(
    *,
    bound: float | None = None,
    first: float = jnp.inf,
    momentum: float = 0.0,
    voting: Voting = "dense",
    share: float = 0.1,
) -> Aggregator:
    """The uniform mean of the deltas, each scaled down to a norm of at most `bound`.

    `1/n sum_c delta_c min(1, b / |delta_c|)`, the norm taken over all leaves. Memory:
    one delta and `2 C` numbers.

    With `voting` by some, each row of a table is bounded by itself, by a bound that
    follows the median of its own voters' norms, and averaged over them; the other
    leaves are bounded jointly. Memory: `2 C I` numbers more.

    Args:
        bound: `b`, in the unit of the deltas. By default it follows the median of the
            norms: a round clips to what the rounds before it have left,
            `b <- momentum b + (1 - momentum) median`.
        first: `b` of the first round, where none is given. By default none is known,
            and it is the mean that is scaled down, to the median of the norms.
        momentum: how slowly the bound follows, in `[0, 1)`.
        voting: who votes on a row of a table.
        share: assumed share of attackers, of which only the report makes use.

    Returns:
        An aggregator of one vote a client; `info` holds the `norm_bound` of the round
        and the `clipped_share` of its clients, as far as they are bounded jointly.
        Where only some vote on a row, it holds the `clipped_row_share` of the votes on
        rows, and `breakdown.row_report`: fewer than half of a row's voters cannot
        choose its bound.

    Raises:
        ValueError: `bound` or `first` is not positive, `momentum` not in `[0, 1)`,
            `share` not in `[0, 0.5)`.

    References:
        Sun et al., Can You Really Backdoor Federated Learning?, 2019, section 4.
    """
    check_share(share)
    check_voting(voting)
    given = first if bound is None else bound
    if not given > 0 or not 0 <= momentum < 1:
        raise ValueError(
            "bound and first must be positive and momentum in [0, 1), got "
            f"{bound}, {first} and {momentum}"
        )

    def start(shared: Tree) -> Array:
        return jnp.asarray(given, jax.tree.leaves(shared)[0].dtype)

    def init(shared: Tree, cohort_size: int) -> Clipped:
        limit = start(shared)
        each = jnp.zeros(cohort_size, limit.dtype)
        zeros = jax.tree.map(jnp.zeros_like, shared)
        none = jnp.zeros_like(limit)
        return Clipped(total=zeros, norms=each, voters=each, rejected=none, bound=limit)

    def begin(acc: Clipped, state: Array) -> Clipped:
        return dataclasses.replace(acc, bound=state)

    def update(acc: Clipped, deltas: Tree, weights: Array, senders: Senders) -> Clipped:
        here = weights > 0
        lead = jax.tree.map(lambda x: x[None], acc.total)
        sound = here & finite(lead, deltas)
        norms = jnp.sqrt(sent_squared_norms(acc.total, deltas))
        factor = jnp.minimum(1, acc.bound / jnp.where(norms > 0, norms, 1))
        factor = jnp.where(sound, factor, 0)

        def add(total, delta):
            # What is not finite must not be multiplied by zero.
            if rows.is_rows(delta):
                values = jnp.where(_over(sound, delta.values), delta.values, 0)
                clean = dataclasses.replace(delta, values=values)
                values = rows.scatter_add(total.values, clean, factor)
                return dataclasses.replace(total, values=values)
            delta = jnp.where(_over(sound, delta), delta, 0)
            return total + jnp.tensordot(factor, delta, 1).astype(total.dtype)

        slots = jnp.where(sound, senders.slots, len(acc.norms))
        return Clipped(
            total=jax.tree.map(add, acc.total, deltas, is_leaf=rows.is_table),
            norms=acc.norms.at[slots].add(norms, mode="drop"),
            voters=acc.voters.at[slots].add(1, mode="drop"),
            rejected=acc.rejected + (here & ~sound).sum().astype(acc.rejected.dtype),
            bound=acc.bound,
        )

    def finish(acc: Clipped, state: Array, shared: Tree):
        del shared
        n = acc.voters.sum()
        over = jnp.maximum(n, 1)
        mean = jax.tree.map(lambda x: x / over, acc.total)
        info = {
            "rejected_clients": acc.rejected,
            "norm_bound": state,
            "clipped_share": (acc.norms > state).sum().astype(n.dtype) / over,
        }
        if bound is not None:
            return mean, state, info
        present = acc.voters > 0
        count = present.sum(dtype=jnp.int32)[None]
        middle = order.median(acc.norms[:, None], present[:, None], count)[0]
        known = jnp.isfinite(state)
        # Nobody was clipped: then at least their mean is no longer than most of them.
        length = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(mean)))
        factor = jnp.minimum(1, middle / jnp.where(length > 0, length, 1))
        mean = jax.tree.map(lambda x: jnp.where(known, x, x * factor), mean)
        before = jnp.where(known, state, middle)
        new = momentum * before + (1 - momentum) * middle
        # Were everybody still, a bound of zero would keep them so.
        return mean, jnp.where(middle > 0, new, state), info

    jointly = Aggregator(init, update, finish, start, begin=begin)
    if voting == "dense":
        return jointly
    return bound_rows(
        jointly,
        bound=bound,
        first=first,
        momentum=momentum,
        voting=voting,
        share=share,
    )


def _over(clients: Array, x: Array) -> Array:
    return clients.reshape(-1, *[1] * (x.ndim - 1))


def sent_squared_norms(shared: Tree, deltas: Tree) -> Array:
    """`[V]`: squared norms over all leaves, a client's repeated rows added up first.

    Args:
        shared: tells the tables' lengths.
        deltas: `[V, ...]`.
    """

    def leaf(like, delta):
        if rows.is_rows(delta):
            length = like.values.shape[0]
            once = jax.vmap(lambda sent: rows.merge_repeats(sent, length))(delta)
            real = _over_rows(once.ids < length, once.values)
            delta = jnp.where(real, once.values, 0)
        return jnp.square(delta).reshape(delta.shape[0], -1).sum(1)

    found = jax.tree.map(leaf, shared, deltas, is_leaf=rows.is_table)
    return jnp.stack(jax.tree.leaves(found)).sum(0)


def _over_rows(real: Array, values: Array) -> Array:
    return real.reshape(*real.shape, *[1] * (values.ndim - 2))
