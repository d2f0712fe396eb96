"""FetchSGD: clients send count sketches, which the server adds up and decodes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    from jax import flatten_util

    from fedjax_rec.codecs import wire
    from fedjax_rec.core import contracts, count_sketch, messages, rows, trees


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchSGD:
    """Momentum and error feedback on the server, in the space of count sketches.

    Replaces the aggregation rule. `u <- rho u + mean S(delta)`, `e <- e + u`; the
    update holds the `k` largest numbers of the estimate from `e`. Then the buckets that
    they fall into are set to zero in both sketches, as in the experiments of the paper
    and its released code, where the error diverged otherwise. The server keeps two
    sketches, and needs one estimate of all shared parameters in a round. A round
    without messages changes nothing.

    Attributes:
        share: share of the shared parameters that move in a round, `k` of `n`.
        momentum: `rho`, in [0, 1).
        remove: how the update leaves the sketches: buckets become `zero` in error and
            momentum, or `subtract`, `e <- e - S(update)` and `u` as it is, which is
            algorithm 1 of the paper.
        columns: buckets in each row of a sketch.
        repeats: rows of a sketch.
        uniform: clients have equal weights, otherwise their number of examples.

    References:
        Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with
        Sketching, ICML 2020, algorithm 1; momentum factor masking is that of Lin et
        al., Deep Gradient Compression, ICLR 2018.
    """

    share: float = 0.1
    momentum: float = 0.0
    remove: Literal["zero", "subtract"] = "zero"
    columns: int = 10_000
    repeats: int = 5
    uniform: bool = False

    brings: ClassVar = ("aggregation", "codec")

    def __post_init__(self) -> None:
        check_numbers(self, ("columns", "repeats"))
        check_settings(self)
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: expected a share in (0, 1]")
        if not self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: expected a number in [0, 1)")

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: it has a message transform, or several models.
        """
        recipe = context.recipe
        if recipe.transform is not None or recipe.model.stack is not None:
            raise ValueError(
                "FetchSGD sends sketches of one model's delta: expected a system with "
                "one model and without a message transform"
            )
        shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
        fixed = recipe.model.fixed
        return recipe._replace(
            transform=self.sketches(
                {n: x for n, x in shared.items() if n not in fixed}
            ),
            aggregator=self.aggregator(fixed),
        )

    def sketches(self, shared: Any) -> messages.MessageTransform:
        """Sends a sketch of the delta, and decodes to the sketch itself.

        Args:
            shared: the groups that clients send, or their shapes.
        """
        lengths, shape = rows.table_lengths(shared), (self.repeats, self.columns)

        def encode(delta, state, sender):
            sketch = count_sketch.sketch(delta, lengths, *shape)
            return {"sketch": wire.floats(sketch.reshape(-1), sketch.size)}, state

        def decode(message):
            return {"sketch": message["sketch"].values.reshape(shape)}

        return messages.MessageTransform(lambda shared: (), encode, decode)

    def aggregator(self, fixed: tuple[str, ...] = ()) -> contracts.Aggregator:
        """Adds up the clients' sketches, and applies the largest numbers of the sum.

        The accumulator holds a sketch and a weight, the state the sketches `momentum`
        and `error`, of the part that has not been applied yet.

        Args:
            fixed: shared groups that clients do not send; they do not move.
        """

        def zeros(shared):
            dtype = jax.tree.leaves(shared)[0].dtype
            return jnp.zeros((self.repeats, self.columns), dtype)

        def init(shared, cohort_size):
            sketch = zeros(shared)
            return {"sketch": sketch, "weight": jnp.zeros((), sketch.dtype)}

        def update(acc, deltas, weights, senders):
            if self.uniform:
                weights = (weights > 0).astype(weights.dtype)
            added = jnp.tensordot(weights, deltas["sketch"], 1)
            weight = acc["weight"] + weights.sum()
            return {"sketch": acc["sketch"] + added, "weight": weight}

        def finish(acc, state, shared):
            sent = {name: part for name, part in shared.items() if name not in fixed}
            flat, unflatten = flatten_util.ravel_pytree(sent)
            present = acc["weight"] > 0
            mean = acc["sketch"] / jnp.where(present, acc["weight"], 1)
            momentum = self.momentum * state["momentum"] + mean
            error = state["error"] + momentum
            every = count_sketch.estimate(error, flat.size)
            k = max(1, round(self.share * flat.size))
            _, places = jax.lax.top_k(jnp.abs(every), k)
            values = jnp.where(present, every[places], 0)
            after = self._without(momentum, error, places, values)
            norm = jnp.linalg.norm
            info = {
                "unapplied": norm(after["error"]) / jnp.maximum(norm(momentum), 1e-30)
            }
            delta = unflatten(jnp.zeros_like(flat).at[places].set(values))
            zero = jax.tree.map(jnp.zeros_like, shared)
            return {**zero, **delta}, trees.where(present, after, state), info

        def start(shared):
            return {"momentum": zeros(shared), "error": zeros(shared)}

        return contracts.Aggregator(init, update, finish, start, own_momentum=True)

    def _without(self, momentum, error, places, values) -> dict[str, jax.Array]:
        """Both sketches after an update of `values` at `places`."""
        applied = count_sketch.sketch_of_places(places, values, *error.shape)
        if self.remove == "subtract":
            return {"momentum": momentum, "error": error - applied}
        return {
            "momentum": jnp.where(applied == 0, momentum, 0),
            "error": jnp.where(applied == 0, error, 0),
        }
