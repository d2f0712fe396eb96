"""SCAFFOLD: local gradients corrected by what the client knows of its own drift."""

import dataclasses
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from fedjax_rec import rows, trees
from fedjax_rec.clients.steps import Steps
from fedjax_rec.types import Array, ClientResult, ClientUpdate, Model, Params, Tree

CONTROL, OWN = "control", "own_control"
"""Groups of the control variates: the server's `c`, shared, and a client's `c_i`."""


def with_control(model: Model, fixed: Collection[str] = ()) -> Model:
    """The model with a control variate, zero at first, for every dense shared group.

    Tables have none: a client would have to keep one for every row, and rows that it
    does not touch have no gradient to correct.

    Args:
        model: of which `loss` and `score` ignore further groups.
        fixed: groups that nobody trains.

    Raises:
        ValueError: in `init`, all that is shared are tables.
    """

    def init(key: Array) -> Params:
        params = model.init(key)
        zeros = {
            name: jax.tree.map(jnp.zeros_like, part)
            for name, part in params.shared.items()
            if name not in fixed and not _has_table(part)
        }
        if not zeros:
            raise ValueError(
                "SCAFFOLD corrects dense shared groups, and there is none among "
                f"{', '.join(params.shared)}: use a model with one, such as 'ncf'"
            )
        return Params(
            shared={**params.shared, CONTROL: zeros},
            personal={**params.personal, OWN: zeros},
        )

    return model._replace(init=init)


def controlled_update(
    make: Callable[[Model], ClientUpdate],
    model: Model,
    *,
    steps: Steps,
    rate: Callable[[Tree], Array],
) -> ClientUpdate:
    """Local steps along `g_i(y) - c_i + c`, and a new `c_i` by option II of the paper.

    The correction is the gradient of `<c - c_i, y>`, which is added to the loss; its
    value is not. After `K` steps of rate `eta_l` from `x` to `y`,
    `c_i <- c_i - c + (x - y) / (K eta_l)`, and the delta's group `control` holds the
    change of `c_i`.

    Args:
        make: from a model to local training, in which dense shared groups take plain
            SGD steps.
        model: without control variates.
        steps: `(examples) -> K`.
        rate: `(hparams) -> eta_l`.

    Returns:
        The update, for parameters of `with_control(model)`.

    References:
        Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning, ICML 2020, algorithm 1.
    """

    def loss(params: Params, frozen, batch, key):
        frozen, correction = frozen
        value, metrics = model.loss(params, frozen, batch, key)
        for name, part in correction.items():
            moved = jax.tree.map(
                lambda c, y: jnp.vdot(c, y - jax.lax.stop_gradient(y)),
                part,
                params.shared[name],
            )
            value = value + sum(jax.tree.leaves(moved))
        return value, metrics

    inner = make(model._replace(loss=loss))

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        shared, personal = dict(params.shared), dict(params.personal)
        c, own = shared.pop(CONTROL), personal.pop(OWN)
        correction = jax.tree.map(jnp.subtract, c, own)
        start = Params(shared=shared, personal=personal)
        result = inner(start, (frozen, correction), examples, hparams, key)
        scale = 1 / (jnp.maximum(steps(result.weight), 1) * rate(hparams))
        moved = {name: result.delta[name] for name in c}
        new = jax.tree.map(
            lambda ci, pull, d: (ci - pull - scale * d).astype(ci.dtype), own, c, moved
        )
        new = trees.where(result.weight > 0, new, own)
        change = jax.tree.map(jnp.subtract, new, own)
        return dataclasses.replace(
            result,
            delta={**result.delta, CONTROL: change},
            personal={**result.personal, OWN: new},
        )

    return update


def _has_table(part: Tree) -> bool:
    return any(map(rows.is_table, jax.tree.leaves(part, is_leaf=rows.is_table)))
