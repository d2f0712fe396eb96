"""Laws of the optimizers of clients and of the server."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.core.optimizers import hparams_of, with_hparams
from fedjax_rec.testing.compare import (
    check_close,
    check_finite,
    check_shapes,
    require,
)
from fedjax_rec.testing.law import NotApplicable

PARAMS = {"w": jnp.asarray([1.0, -2.0, 3.0]), "b": jnp.asarray(0.5)}
GRADIENT = {"w": jnp.asarray([0.3, -0.1, 0.2]), "b": jnp.asarray(-0.4)}


class Server:
    """The optimizer of some settings."""

    local = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.optimizer = settings.build()
        self.state = self.optimizer.init(PARAMS)

    def steps(self, count: int) -> list[Any]:
        """Updates for the same gradient again and again."""
        state, updates = self.state, []
        for _ in range(count):
            update, state = self.optimizer.update(GRADIENT, state, PARAMS)
            updates.append(update)
        return updates


class Client(Server):
    """An optimizer of local steps."""

    local = True


def builds(made: Server) -> None:
    """`build()` returns an optax transformation"""
    require(
        isinstance(made.optimizer, optax.GradientTransformation),
        f"it returned a {type(made.optimizer).__name__}; expected an "
        "optax.GradientTransformation",
    )


def steps_descend(made: Server) -> None:
    """Updates are like the parameters, finite, and point against the gradient"""
    for number, update in enumerate(made.steps(3)):
        check_shapes(update, PARAMS, f"update {number}")
        check_finite(update, f"update {number}")
        product = sum(
            float(jnp.vdot(a, b))
            for a, b in zip(
                jax.tree.leaves(update), jax.tree.leaves(GRADIENT), strict=True
            )
        )
        require(
            product < 0,
            f"the product of update {number} and its gradient is {product:.3g}: an "
            "update is added to the parameters, so it needs the negative sign",
        )


def traced_fields_are_arguments(made: Server) -> None:
    """Fields in `traced` may be arrays, so that other values compile nothing"""
    settings = made.settings
    names = {field.name for field in dataclasses.fields(settings)}
    unknown = [name for name in getattr(settings, "traced", ()) if name not in names]
    require(hasattr(settings, "traced"), "it has no class attribute `traced`")
    require(not unknown, f"traced has {unknown}, and the fields are {sorted(names)}")
    traces = []

    @jax.jit
    def step(hparams: Any) -> Any:
        traces.append(1)
        optimizer = with_hparams(settings, "o", hparams)
        return optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)[0]

    hparams = hparams_of(settings, "o")
    check_close(
        step(hparams),
        made.steps(1)[0],
        "the first update with traced fields, and with their values",
        atol=1e-6,
        rtol=1e-5,
    )
    step({name: 0.5 * value for name, value in hparams.items()})
    require(len(traces) == 1, "another value of a traced field compiles a new program")


def states_are_counted(made: Server) -> None:
    """`states` is the number of values kept for each parameter"""
    if not made.local:
        raise NotApplicable("only optimizers of local steps declare `states`")
    size = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    shapes = {leaf.shape for leaf in jax.tree.leaves(PARAMS) if leaf.shape}
    leaves = [x for x in jax.tree.leaves(made.state) if x.shape in shapes]
    kept = sum(leaf.size for leaf in leaves) / (size - 1)
    declared = getattr(made.settings, "states", None)
    require(
        declared == kept,
        f"the class attribute `states` is {declared}, and the optimizer keeps "
        f"{kept:g} values for each parameter: costs and memory are computed from it",
    )


def momentum_is_true(made: Server) -> None:
    """`momentum` is that of SGD, or None for an optimizer other than SGD"""
    if not made.local:
        raise NotApplicable("only optimizers of local steps declare `momentum`")
    require(
        hasattr(made.settings, "momentum"),
        "it has no class attribute `momentum`: 0 is plain SGD, None no SGD",
    )
    momentum = made.settings.momentum
    one, two = ([np.ravel(x) for x in jax.tree.leaves(u)] for u in made.steps(2))
    one, two = np.concatenate(one), np.concatenate(two)
    gradient = np.concatenate([np.ravel(x) for x in jax.tree.leaves(GRADIENT)])
    rate = one / gradient
    plain = np.allclose(rate, rate[0], rtol=1e-4)
    if momentum is None:
        return
    require(
        plain and np.allclose(two / one, 1 + momentum, rtol=1e-4),
        f"momentum={momentum} is declared: the second update for the same gradient "
        f"would be {1 + momentum:g} times the first, which would be a multiple of the "
        f"gradient; they are {one.round(4).tolist()} and {two.round(4).tolist()}",
    )


LAWS = (
    builds,
    steps_descend,
    traced_fields_are_arguments,
    states_are_counted,
    momentum_is_true,
)
