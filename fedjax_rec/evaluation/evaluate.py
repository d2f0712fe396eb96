"""Runs a scorer over every evaluated user, chunk by chunk, in one program.

Some scorers need no model: every result is compared with them.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.evaluation.metrics import full_metrics, user_metrics
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Measure, Ranking
from fedjax_rec.evaluation.targets import Targets

UserScorer = Callable[[Array], Array]
"""`(user scalar) -> [I]`: one user's scores of all items."""

ScoreFn = Callable[[Array, Array | None], Array]
"""`(users [V], candidates [V, K] or None) -> [V, K]`, or `[V, I]` for `None`."""


def evaluate(
    score_fn: ScoreFn,
    targets: Targets,
    protocol: Protocol,
    key: Array,
    chunk: int = 64,
    extra: tuple[Array, ...] = (),
    metric: Measure | None = None,
) -> dict[str, Array]:
    """Computes every metric of every evaluated user.

    A pure function: call it inside `jax.jit`, with the parameters `score_fn` closes
    over as arguments of the jitted function and `protocol` and `chunk` static. The
    result depends neither on the chunk size nor on the other users.

    Args:
        score_fn: `(users [V], candidates, *extra) -> scores`. For full ranking
            `candidates` is `None` and the scores are `[V, I]`; for sampled it is
            `[V, K]` valid item ids, positives first, and so are the scores (padding
            repeats a valid id, and its scores are ignored). Higher ranks first.
        targets: the users of the part, laid out under the same protocol.
        protocol: candidates, ties and cut-offs.
        key: random key of ties; each user's is folded from it.
        chunk: users scored at once; memory grows with chunk times items.
        extra: more arguments of `score_fn`, each `[E, ...]`.
        metric: a further metric, see `ranking.bind`.

    Returns:
        `metric_names(protocol.cutoffs)` to `[E]` float32, in the order of
        `targets.user`; with `protocol.exposed_item` also `exposure@k`, and the names of
        `metric`. Users outside `targets.mask` hold no results.

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
            metrics = jax.vmap(
                lambda s, p, x, k: full_metrics(s, p, x, pool=pool, key=k, **options)
            )(scores, positives, exclude, keys)
            if protocol.exposed_item >= 0:
                exposure = jax.vmap(lambda s, x: _exposure(s, x, pool, protocol))
                metrics |= exposure(scores, exclude)
            if metric is not None:
                further = functools.partial(_of_catalog, metric, protocol, pool)
                columns = (user, scores, positives, exclude, keys)
                metrics |= jax.vmap(further)(*columns)
            return metrics
        ids = jnp.concatenate([positives, sampled[0]], axis=-1)
        # A valid id in place of padding, so that scorers need not handle padding.
        scores = score_fn(user, jnp.minimum(ids, num_items - 1), *more)
        _check(scores, ids.shape)
        width, mask = positives.shape[-1], ids < num_items
        metrics = jax.vmap(
            lambda s, m, k: user_metrics(
                s[:width], m[:width], s[width:], m[width:], key=k, **options
            )
        )(scores, mask, keys)
        if metric is not None:
            further = functools.partial(_of_sample, metric, protocol, width)
            items = jnp.minimum(ids, num_items - 1)
            metrics |= jax.vmap(further)(user, items, scores, mask, keys)
        return metrics

    columns = [(targets.user, 0), (targets.positives, num_items)]
    columns += [(targets.exclude_offset, 0), (targets.exclude_size, 0)]
    if targets.candidates is not None:
        columns.append((targets.candidates, num_items))
    rows = tuple(_chunked(column, chunk, fill) for column, fill in columns)
    more = tuple(_chunked(array, chunk, 0) for array in extra)
    metrics = jax.lax.map(run, (rows, more))
    return {name: value.reshape(-1)[:num_users] for name, value in metrics.items()}


def _chunked(rows: Array, chunk: int, fill: int) -> Array:
    """`[E, ...]` to `[ceil(E / chunk), chunk, ...]`, padded with `fill`."""
    pad = -rows.shape[0] % chunk
    widths = [(0, pad)] + [(0, 0)] * (rows.ndim - 1)
    padded = jnp.pad(rows, widths, constant_values=fill)
    return padded.reshape(-1, chunk, *rows.shape[1:])


def _exclude(targets: Targets, offset: Array, size: Array) -> Array:
    """`[V, max_exclude]` item ids, padded with `I`."""
    column = jnp.arange(targets.max_exclude, dtype=jnp.int32)
    index = jnp.minimum(offset[:, None] + column, targets.exclude_items.shape[0] - 1)
    items = targets.exclude_items[index]
    return jnp.where(column < size[:, None], items, targets.num_items)


def _of_catalog(
    metric: Measure,
    protocol: Protocol,
    pool: Array | None,
    user: Array,
    scores: Array,
    positives: Array,
    exclude: Array,
    key: Array,
) -> Mapping[str, Array]:
    """A metric of one user's ranking of the catalog, or of the pool."""
    (num_items,) = scores.shape
    positive = jnp.zeros(num_items, bool).at[positives].set(True, mode="drop")
    ranked = jnp.ones(num_items, bool) if pool is None else pool
    ranking = Ranking(
        user=user,
        items=jnp.arange(num_items, dtype=jnp.int32),
        scores=scores,
        candidates=ranked.at[exclude].set(False, mode="drop") | positive,
        positives=positive,
        ties=protocol.ties,
        key=key,
    )
    return metric(ranking)


def _of_sample(
    metric: Measure,
    protocol: Protocol,
    width: int,
    user: Array,
    items: Array,
    scores: Array,
    candidates: Array,
    key: Array,
) -> Mapping[str, Array]:
    """A metric of one user's positives, which come first, and sampled negatives."""
    ranking = Ranking(
        user=user,
        items=items,
        scores=scores,
        candidates=candidates,
        positives=candidates & (jnp.arange(len(items)) < width),
        ties=protocol.ties,
        key=key,
    )
    return metric(ranking)


def _exposure(
    scores: Array, exclude: Array, pool: Array | None, protocol: Protocol
) -> dict[str, Array]:
    """Whether the exposed item is in one user's top k; ties count as ahead of it.

    As in all metrics, items without a finite score come last.
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
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
            f"score_fn returned {scores.shape}, expected {shape}: one row per user, "
            "one column per candidate (every item if candidates is None)"
        )


def popularity(train_items: Array, num_items: int) -> Array:
    """Scores an item by its number of training interactions.

    Args:
        train_items: `[n]` item ids; those outside `[0, I)` are padding.
        num_items: `I`.

    Returns:
        `[I]` float32 counts.

    >>> popularity(jnp.array([2, 0, 2]), 3)
    Array([1., 0., 2.], dtype=float32)
    """
    counts = jnp.zeros(num_items, jnp.int32)
    counts = counts.at[jnp.asarray(train_items)].add(1, mode="drop")
    return counts.astype(jnp.float32)


def random_scores(key: Array, user: Array, num_items: int) -> Array:
    """`[I]` uniform float32 scores of one user, a function of key and user only."""
    key = jax.random.fold_in(key, user)
    return jax.random.uniform(key, (num_items,), jnp.float32)


def by_user(scorer: UserScorer) -> ScoreFn:
    """Turns a scorer of one user's whole catalogue into a `ScoreFn`."""

    def score(users: Array, candidates: Array | None) -> Array:
        scores = jax.vmap(scorer)(users)
        if candidates is None:
            return scores
        return jnp.take_along_axis(scores, candidates, axis=-1)

    return score
