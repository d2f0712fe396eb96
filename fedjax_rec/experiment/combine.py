"""The system of an experiment from its parts, and parts that cannot work together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.evaluation.protocol import settled, without_rmse
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.simulation.returned import built


def make_recipe(experiment: Experiment, context: Context) -> Recipe:
    """The algorithm with the experiment's rule, wrapper, codec and attack, in order.

    Raises:
        ValueError: two parts of the experiment exclude one another.
    """
    return _assembled(experiment, context, built)


def check_settings(experiment: Experiment) -> None:
    """Refuses parts that exclude one another, whatever the data.

    The system is built from sizes that stand for those of the data. Parts that read
    more than sizes, and parts from outside of the package, are left out.

    Raises:
        ValueError: two parts of the experiment exclude one another.
    """
    kinds, missing = registry.kinds().keys() - registry.OWN.keys(), []

    def build(part: Any, context: Any, slot: str) -> Any:
        chain = (part, *_chain(getattr(part, "then", None)))
        if all(registry.location_of(type(link)) in kinds for link in chain):
            try:
                return built(part, context, slot)
            except _NotPreparedError:
                pass
        missing.append(part)
        return None

    sizes: Any = _Sizes(jnp.dtype(experiment.execution.dtype))
    recipe = _assembled(experiment, sizes, build)
    if experiment.algorithm not in missing:
        if experiment.protocol.evaluated == "reconstructed":
            check_evaluated(recipe)
        cold = getattr(experiment.split, "holds_out", "interactions") == "users"
        predicts = recipe.local.predicts_ratings
        settled(experiment.protocol, without_rmse(experiment.protocol, predicts, cold))


def check_recipe(recipe: Recipe) -> None:
    """Refuses a system with parts that run together but do not work together.

    Raises:
        ValueError: the parts exclude one another.
    """
    rule, transform = recipe.aggregator, recipe.transform
    shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    if recipe.model.stack is not None and transform is not None:
        sent = {n: x for n, x in shared.items() if n not in recipe.model.fixed}
        if jax.tree.leaves(jax.eval_shape(transform.init, sent)):
            raise ValueError(
                "clients send the delta of one of several models, and the state of the "
                "codec belongs to one model: use a codec with feedback='none'"
            )
    if rule.coordinatewise and transform is not None and transform.sparse:
        raise ValueError(
            "the aggregation rule decides each number from the clients' values of it, "
            "and the codec replaces most of them by zeros, so that learning would "
            "stop: use a rule for whole deltas, such as GeometricMedian, MultiKrum or "
            "NormBound, or a codec that sends all numbers or whole rows (RowTopK)"
        )
    owner = "codec" if transform is not None and transform.own_momentum else ""
    owner = "aggregation rule" if rule.own_momentum else owner
    if owner:
        server = recipe.server_optimizer(recipe.hparams)
        if jax.tree.leaves(jax.eval_shape(server.init, shared)):
            raise ValueError(
                f"the {owner} has momentum of its own, so that the server must keep "
                "none: use server_optimizer=SGD()"
            )


def check_evaluated(recipe: Recipe) -> None:
    """Raises a ValueError unless personal parameters can be reconstructed."""
    if not recipe.local.reconstructs:
        raise ValueError(
            "protocol.evaluated='reconstructed' needs a system that computes personal "
            "parameters from shared ones: FedFM with training=Reconstruction() and one "
            "rank for all clients"
        )


def _assembled(experiment: Experiment, context: Any, build: Callable) -> Recipe:
    """The system, without parts for which `build(part, context, slot)` is `None`."""
    wrapper, attack = experiment.wrapper, experiment.attack
    for owner in (experiment.algorithm, *_chain(wrapper)):
        for slot in getattr(owner, "brings", ()):
            if (part := getattr(experiment, slot)) is not None:
                name = type(owner).__name__
                raise ValueError(
                    f"{slot}={type(part).__name__} and {name} exclude each other, "
                    f"since {name} determines the {slot} itself: leave out one of them"
                )
    recipe = build(experiment.algorithm, context, "algorithm")
    if recipe is None:  # another system stands for it, for rule and codec
        recipe, wrapper, attack = FedAvg().build(context), None, None
    if experiment.aggregation is not None:
        rule = build(experiment.aggregation, context.with_recipe(recipe), "aggregation")
        recipe = recipe._replace(aggregator=rule or recipe.aggregator)
    if wrapper is not None:
        recipe = build(wrapper, context.with_recipe(recipe), "wrapper") or recipe
    if (codec := experiment.codec) is not None:
        name = type(codec).__name__
        if recipe.transform is not None:
            raise ValueError(
                f"codec={name}: {type(experiment.algorithm).__name__} has a message "
                "transform of its own, and a message is encoded once: leave out the "
                "codec"
            )
        transform = build(codec, context.with_recipe(recipe), "codec")
        recipe = recipe._replace(transform=transform)
    if attack is not None:
        recipe = build(attack, context.with_recipe(recipe), "attack") or recipe
    check_recipe(recipe)
    return recipe


def _chain(part: Any) -> tuple[Any, ...]:
    return () if part is None else (part, *_chain(getattr(part, "then", None)))


class _NotPreparedError(Exception):
    """A part reads a fact that only the data have."""


class _Sizes:
    """A `Context` that has only the sizes of a model."""

    num_items = num_users = 1000
    lora_base = False

    def __init__(self, dtype: Any, recipe: Recipe | None = None) -> None:
        self.dtype, self.recipe = dtype, recipe

    def with_recipe(self, recipe: Recipe) -> _Sizes:
        """The same sizes with the system so far."""
        return _Sizes(self.dtype, recipe)

    def __getattr__(self, name: str) -> Any:
        raise _NotPreparedError(name)
