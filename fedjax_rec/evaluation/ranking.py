"""One user's ranking, as a metric of one's own reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.errors import ConcretizationTypeError, TracerArrayConversionError

from fedjax_rec.core.arrays import Array

if TYPE_CHECKING:
    from fedjax_rec.evaluation.protocol import Protocol, Ties
    from fedjax_rec.evaluation.targets import Targets


class Top(NamedTuple):
    """The first places of a ranking, best first.

    Attributes:
        items: `[k]` int32 item ids; those of empty places are valid ids, too.
        filled: `[k]` bool, False for places beyond the last candidate.
        hits: `[k]` bool, whether the item is a positive.
    """

    items: Array
    filled: Array
    hits: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """The scored candidates of one user, in no particular order.

    `N` is `I`, the number of items, or for sampled candidates the number of positives
    and negatives. Arrays of the catalog are indexed by `items` (`counts[items]`), so
    that a metric fits both.

    Attributes:
        user: scalar int32, index of the user in `train.users`.
        items: `[N]` int32 item ids.
        scores: `[N]`, higher ranks first; an item scored NaN is not retrieved.
        candidates: `[N]` bool, False for known items and padding, which are not ranked.
        positives: `[N]` bool, candidates of the evaluated part.
        ties: order of equal scores.
        key: key of random ties.
    """

    user: Array
    items: Array
    scores: Array
    candidates: Array
    positives: Array
    ties: Ties = "pessimistic"
    key: Array | None = None

    def top(self, k: int) -> Top:
        """The first `k` places.

        Equal scores follow `ties`: negatives before positives (`pessimistic`),
        positives first (`optimistic`), or in random order; among each other, by their
        position in `items`.
        """
        lowest = jnp.finfo(jnp.promote_types(self.scores.dtype, jnp.float32)).min
        scores = jnp.maximum(self.scores.astype(lowest.dtype), lowest)
        retrieved = self.candidates & ~jnp.isnan(self.scores)
        order = jnp.arange(len(self.items))
        if self.ties == "random":
            if self.key is None:
                raise ValueError("ties='random' draws an ordering, and key is None")
            order = jax.random.permutation(self.key, order)
        groups = (retrieved & ~self.positives, retrieved & self.positives)
        if self.ties == "optimistic":
            groups = groups[::-1]
        if self.ties == "random":
            groups = (retrieved,)
        # `top_k` puts the first of equal scores first: the group that goes first wins.
        parts = [_best(scores, group, order, k) for group in groups]
        values, places = map(jnp.concatenate, zip(*parts, strict=True))
        values, first = jax.lax.top_k(values, min(k, len(values)))
        places = jnp.pad(places[first], (0, k - len(first)))
        filled = jnp.pad(values > -jnp.inf, (0, k - len(first)))
        hits = filled & self.positives[places]
        return Top(self.items[places], filled, hits)


def _best(scores: Array, among: Array, order: Array, k: int) -> tuple[Array, Array]:
    """The `k` highest scores of a group, minus infinity beyond it, and their places."""
    values = jnp.where(among, scores, -jnp.inf)[order]
    values, first = jax.lax.top_k(values, min(k, len(order)))
    return values, order[first]


Measure = Callable[[Ranking], Mapping[str, Array]]
"""`ranking -> {name: scalar}`, a pure function of one user; callers `vmap`."""


def bind(protocol: Protocol, train: Any, targets: Targets) -> Measure | None:
    """The function of the protocol's metric, with checked results.

    Args:
        protocol: its `metric` is built.
        train: the training `Interactions`.
        targets: the users to evaluate, on whose candidates the function is traced.

    Returns:
        The function; its results are float32. `None` without a metric.

    Raises:
        ValueError: it does not return a scalar for each of the metric's names.
    """
    if protocol.metric is None:
        return None
    cls, names = type(protocol.metric).__name__, tuple(protocol.metric.names)
    measure = protocol.metric.build(train)
    if not callable(measure):
        raise ValueError(
            f"{cls}.build(train) returned a {type(measure).__name__}; expected a "
            "function of a Ranking"
        )

    def checked(ranking: Ranking) -> dict[str, Array]:
        try:
            values: Any = measure(ranking)
        except (ConcretizationTypeError, TracerArrayConversionError) as error:
            raise ValueError(
                f"the function of {cls}.build computes with NumPy, or decides by "
                "values of the ranking: expected jax.numpy, with jnp.where for an if. "
                f"{str(error).partition('.')[0]}"
            ) from error
        found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
        if found != sorted(names):
            raise ValueError(
                f"the function of {cls}.build returned {found}; expected a dict with "
                f"the names {', '.join(names)}"
            )
        scalars = {name: jnp.asarray(values[name], jnp.float32) for name in names}
        for name, value in scalars.items():
            if value.shape:
                raise ValueError(
                    f"the function of {cls}.build returned {name} of shape "
                    f"{value.shape}; expected a scalar, for one user"
                )
        return scalars

    width = targets.num_items
    if targets.candidates is not None:
        width = targets.positives.shape[1] + targets.candidates.shape[1]

    def trace(user, items, scores, mask, key):
        columns = {"items": items, "scores": scores, "candidates": mask}
        ties = protocol.ties
        return checked(
            Ranking(user=user, positives=mask, ties=ties, key=key, **columns)
        )

    array = jax.ShapeDtypeStruct
    columns = [array((width,), dtype) for dtype in (jnp.int32, jnp.float32, bool)]
    jax.eval_shape(trace, array((), jnp.int32), *columns, jax.random.key(0))
    return checked
