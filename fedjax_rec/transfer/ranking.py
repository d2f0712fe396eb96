"""Users ranked from lifted parameters: as they are, or after local steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.algorithms import text_path
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedfm_parts import Joint
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Params, Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.evaluation.evaluate import ScoreFn, evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.simulation.dealt_users import take_users
from fedjax_rec.transfer.audiences import Audience
from fedjax_rec.transfer.config import TUNABLE

PerUser = dict[str, np.ndarray]
"""Metric name to `[E]`."""

_BLOCK = 512  # users of one call: between calls a progress bar moves
_CHUNK, _TUNED_CHUNK = 64, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranker:
    """Ranks the items of any audience for its users.

    Attributes:
        algorithm: the source's `FedFM`.
        tune: groups of `TUNABLE` that each client tunes.
        seed: seed of the negatives.
        advance: called with the number of users ranked since the last call.
    """

    algorithm: Any
    tune: tuple[str, ...] = TUNABLE
    seed: int = 0
    advance: Callable[[int], None] = lambda count: None

    def baseline(self, audience: Audience, scorer: ScoreFn) -> PerUser:
        """Metrics of every user under a ranker without parameters."""

        @jax.jit
        def run(targets: Targets):
            key = jax.random.key(0)
            return evaluate(scorer, targets, audience.protocol, key, _CHUNK)

        return self._in_blocks(run, audience.targets)

    def zero_shot(self, audience: Audience, lifted: Tree) -> PerUser:
        """Metrics of every user, from its history and the shared parameters.

        Args:
            audience: the users.
            lifted: parameters with the vectors of the audience's items.
        """
        return self._run(audience, lifted, (), 0, 0.0)

    def tuned(self, audience: Audience, lifted: Tree, steps: int, lr: float) -> PerUser:
        """Metrics of every user after local steps of its client on its own history.

        Each step is one of plain SGD on the algorithm's loss over all interactions of
        the client, each item with the earlier ones as its history, and negatives drawn
        anew from the other items. The held-out item is one of these like any other:
        leaving it out would reveal it to the client.

        Args:
            audience: the users.
            lifted: parameters with the vectors of the audience's items.
            steps: number of local steps; 0 is the zero-shot ranking.
            lr: rate of the steps.
        """
        return self._run(audience, lifted, tuple(self.tune), steps, lr)

    def _run(
        self,
        audience: Audience,
        lifted: Tree,
        tune: tuple[str, ...],
        steps: int,
        lr: float,
    ) -> PerUser:
        items, protocol = audience.targets.num_items, audience.protocol
        program = _program(self.algorithm, items, protocol, tune)
        scalars = jnp.int32(steps), jnp.float32(lr), jax.random.key(self.seed)
        run = functools.partial(
            program, lifted, audience.frozen, audience.data, *scalars
        )
        return self._in_blocks(run, audience.targets)

    def _in_blocks(self, run: Callable[[Targets], Any], targets: Targets) -> PerUser:
        """All users in blocks of equal size; the last repeats its last user."""
        columns: dict[str, list[np.ndarray]] = {}
        number = targets.user.shape[0]
        size = min(_BLOCK, number)
        for first in range(0, number, size):
            users = np.minimum(np.arange(first, first + size), number - 1)
            count = min(size, number - first)
            for name, column in run(take_users(targets, users)).items():
                columns.setdefault(name, []).append(np.asarray(column)[:count])
            self.advance(count)
        return {name: np.concatenate(parts) for name, parts in columns.items()}


def lifted_recipe(
    algorithm: FedFM, lifted: Tree, num_items: int, tune: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of an algorithm for parameters with a table of item vectors.

    It has no backbone, and so fits any catalog.

    Args:
        algorithm: the source's.
        lifted: see `Model.lift`.
        num_items: `I`.
        tune: groups that belong to the client.
    """
    width = lifted["history"]["value"].shape[1]
    dim = lifted["common"]["user"].shape[0]
    bare = dataclasses.replace(
        algorithm, adapter=None, personal=tuple(tune), fixed=(), training=Joint()
    )
    context = Context(
        num_items=num_items,
        num_users=0,
        num_clients=0,
        cohort_size=0,
        dtype=jnp.dtype("float32"),
        examples=np.ones(1, int),
    )
    return bare.on(text_path.lifted_path(width, dim), context)


def tune_client(
    recipe: Recipe, algorithm: FedFM, tune: tuple[str, ...], width: int
) -> Callable[..., Tree]:
    """One client's local steps.

    Args:
        recipe: see `lifted_recipe`.
        algorithm: the source's.
        tune: the groups that are trained.
        width: padded number of a client's interactions.

    Returns:
        `(shared, own, frozen, examples, steps, lr, key) -> own`.
    """
    assert recipe.local.draw is not None
    group = 1 + algorithm.negatives
    update = local_update(
        recipe.model,
        recipe.local.draw,
        (Phase(lambda h: optax.sgd(h["lr"]), names=tune),),
        batch_size=width * group,
        group=group,
    )

    def run(shared, own, frozen, examples, steps, lr, key):
        def step(i, own):
            params = Params(shared=shared, personal=own)
            key_ = jax.random.fold_in(key, i)
            return update(params, frozen, examples, {"lr": lr}, key_).personal

        return jax.lax.fori_loop(0, steps, step, own)

    return run


# Compiled once per catalog: parameters, rates and numbers of steps are arguments.
@functools.lru_cache(maxsize=16)
def _program(
    algorithm: FedFM, num_items: int, protocol: Protocol, tune: tuple[str, ...]
) -> Callable:
    """Ranks users, after local steps on the groups `tune` if there are any."""

    @jax.jit
    def run(lifted, frozen, data: ClientData, steps, lr, root, targets: Targets):
        recipe = lifted_recipe(algorithm, lifted, num_items, tune)
        shared = {name: part for name, part in lifted.items() if name not in tune}
        start = {name: lifted[name] for name in tune}

        def own_of(user):
            if not tune:
                return start
            train = tune_client(recipe, algorithm, tune, data.widths[0])
            key = keys.derive(root, keys.Purpose.EVALUATION, 2, user)
            examples = data.examples(user, 0)
            return train(shared, start, frozen, examples, steps, lr, key)

        def score_one(user, candidates):
            params = Params(shared=shared, personal=own_of(user))
            return recipe.model.score(params, frozen, {"user": user}, candidates)

        def score(users, candidates):
            axes = (0, None if candidates is None else 0)
            return jax.vmap(score_one, in_axes=axes)(users, candidates)

        chunk = _TUNED_CHUNK if tune else _CHUNK
        return evaluate(score, targets, protocol, jax.random.key(0), chunk)

    return run
