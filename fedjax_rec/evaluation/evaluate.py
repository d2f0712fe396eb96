"""Runs a scorer over every evaluated user, chunk by chunk, in one program."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.evaluation.baselines import ScoreFn
from fedjax_rec.evaluation.dispersion import dispersion
from fedjax_rec.evaluation.metrics import full_metrics, user_metrics
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets


def evaluate(
    score_fn: ScoreFn,
    targets: Targets,
    protocol: Protocol,
    key: Array,
    chunk: int = 64,
    beside: tuple[Array, ...] = (),
) -> dict[str, Array]:
    """Every metric of every evaluated user.

    A pure function: call it inside `jax.jit`, with the parameters `score_fn` closes
    over as arguments of the jitted function and `protocol` and `chunk` static. The
    result depends on neither the chunk size nor who else is evaluated.

    Args:
        score_fn: `(users [V], candidates, *beside) -> scores`. For full ranking
            `candidates` is `None` and the scores are `[V, I]`; for sampled it is
            `[V, K]` valid item ids, positives first, and so are the scores (padding
            repeats some valid id and its scores are not looked at). Higher ranks
            first.
        targets: of the part to evaluate, laid out under the same protocol.
        protocol: candidates, ties and cut-offs.
        key: decides random ties; each user's is folded from it.
        chunk: users scored at once; memory grows with chunk times items.
        beside: more of each user, `[E]`, for `score_fn`.

    Returns:
        `metric_names(protocol.cutoffs)` to `[E]` float32, in the order of
        `targets.user`; with `protocol.exposed_item` also `exposure@k`. Users outside
        `targets.mask` hold zeros, not results.

    Raises:
        ValueError: targets and protocol disagree, or scores have the wrong shape.
    """
    if (targets.candidates is not None) != (protocol.candidates == "sampled"):
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}, but the targets "
            f"{'lack' if targets.candidates is None else 'hold'} sampled candidates: "
            "make_targets needs the protocol they are evaluated under"
        )
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: score at least one user at once")
    targets = jax.tree.map(jnp.asarray, targets)
    num_users, num_items = targets.user.shape[0], targets.num_items
    chunk = min(chunk, num_users)

    def run(inputs) -> dict[str, Array]:
        rows, more = inputs
        user, positives, offset, size, *sampled = rows
        keys = jax.vmap(lambda u: jax.random.fold_in(key, u))(user)
        options = {"cutoffs": protocol.cutoffs, "ties": protocol.ties}
        if not sampled:
            scores = score_fn(user, None, *more)
            _check(scores, (chunk, num_items))
            exclude = _exclude(targets, offset, size)
            pool = targets.pool
            found = jax.vmap(
                lambda s, p, x, k: full_metrics(s, p, x, pool=pool, key=k, **options)
            )(scores, positives, exclude, keys)
            if protocol.exposed_item >= 0:
                told = jax.vmap(lambda s, x: _exposure(s, x, pool, protocol))
                found |= told(scores, exclude)
            return found
        ids = jnp.concatenate([positives, sampled[0]], axis=-1)
        # A valid id in place of padding: no scorer need know about padding.
        scores = score_fn(user, jnp.minimum(ids, num_items - 1), *more)
        _check(scores, ids.shape)
        width, mask = positives.shape[-1], ids < num_items
        return jax.vmap(
            lambda s, m, k: user_metrics(
                s[:width], m[:width], s[width:], m[width:], key=k, **options
            )
        )(scores, mask, keys)

    rows = (
        _chunked(targets.user, chunk, 0),
        _chunked(targets.positives, chunk, num_items),
        _chunked(targets.exclude_offset, chunk, 0),
        _chunked(targets.exclude_size, chunk, 0),
    )
    if targets.candidates is not None:
        rows = (*rows, _chunked(targets.candidates, chunk, num_items))
    more = tuple(_chunked(array, chunk, 0) for array in beside)
    metrics = jax.lax.map(run, (rows, more))
    return {name: value.reshape(-1)[:num_users] for name, value in metrics.items()}


def summarise(
    per_user: Mapping[str, Array], mask: Array, clients: np.ndarray | None = None
) -> dict[str, float]:
    """Means over users, and how evenly NDCG is spread over clients.

    Args:
        per_user: metric name to `[E]`, from `evaluate`.
        mask: `[E]` bool, `targets.mask`.
        clients: `[E]` the client of each user, where some have several: a client's
            value is then the mean of its users'.

    Returns:
        Each metric's mean under its own name; for `ndcg@10` (without it, the first
        cut-off) also `ndcg@10/worst_decile`, `ndcg@10/gini` and `ndcg@10/std`.
    """
    group = None
    if clients is not None:
        group = np.unique(clients, return_inverse=True)[1].astype(np.int32)
    summary = jax.device_get(_summary(dict(per_user), mask, group))
    return {name: float(value) for name, value in summary.items()}


@jax.jit
def _summary(
    per_user: dict[str, Array], mask: Array, group: Array | None
) -> dict[str, Array]:
    count = jnp.sum(mask, dtype=jnp.float32)
    summary = {
        name: jnp.sum(jnp.where(mask, values, 0.0)) / count
        for name, values in per_user.items()
    }
    # Under jit a dict's keys arrive sorted as text: order cut-offs as numbers.
    cutoffs = sorted(int(n[5:]) for n in per_user if n.startswith("ndcg@"))
    if cutoffs:
        name = f"ndcg@{10 if 10 in cutoffs else cutoffs[0]}"
        values = per_user[name]
        if group is not None:
            values, mask = _by_group(values, mask, group)
        spread = dispersion(values, mask)
        for statistic in ("worst_decile", "gini", "std"):
            summary[f"{name}/{statistic}"] = spread[statistic]
    return summary


def _by_group(values: Array, mask: Array, group: Array) -> tuple[Array, Array]:
    """Means of what counts in each group, and which groups have any; `[E]` both."""
    (size,) = values.shape
    total = jnp.zeros(size).at[group].add(jnp.where(mask, values, 0))
    count = jnp.zeros(size).at[group].add(mask)
    return total / jnp.maximum(count, 1), count > 0


def _chunked(rows: Array, chunk: int, fill: int) -> Array:
    """`[E, ...]` to `[ceil(E / chunk), chunk, ...]`, padded with `fill`."""
    pad = -rows.shape[0] % chunk
    widths = [(0, pad)] + [(0, 0)] * (rows.ndim - 1)
    padded = jnp.pad(rows, widths, constant_values=fill)
    return padded.reshape(-1, chunk, *rows.shape[1:])


def _exclude(targets: Targets, offset: Array, size: Array) -> Array:
    """`[V, max_exclude]` item ids, padded with `I`."""
    column = jnp.arange(targets.max_exclude, dtype=jnp.int32)
    place = jnp.minimum(offset[:, None] + column, targets.exclude_items.shape[0] - 1)
    items = targets.exclude_items[place]
    return jnp.where(column < size[:, None], items, targets.num_items)


def _exposure(
    scores: Array, exclude: Array, pool: Array | None, protocol: Protocol
) -> dict[str, Array]:
    """Whether the watched item is in one user's top k; ties count as ahead of it."""
    ranked = jnp.ones(scores.shape, bool) if pool is None else pool
    ranked = ranked.at[exclude].set(False, mode="drop")
    item = protocol.exposed_item
    ahead = (ranked & (scores >= scores[item])).sum() - 1
    return {
        f"exposure@{k}": (ranked[item] & (ahead < k)).astype(jnp.float32)
        for k in protocol.cutoffs
    }


def _check(scores: Array, shape: tuple[int, ...]) -> None:
    if scores.shape != shape:
        raise ValueError(
            f"score_fn returned {scores.shape}, expected {shape}: one row a user, one "
            "column a candidate (every item where candidates is None)"
        )
