"""SCAFFOLD: local gradients corrected by what the client knows of its own drift."""

import dataclasses
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from fedjax_rec.clients.local import ROW_PULL
from fedjax_rec.clients.steps import Steps
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Model, Params

CONTROL, OWN = "control", "own_control"
"""Groups of the control variates: the server's `c`, shared, and a client's `c_i`."""


def with_control(
    model: Model, fixed: Collection[str] = (), *, tables: bool = False
) -> Model:
    """The model with a control variate, zero at first, for every shared group.

    Args:
        model: of which `loss` and `score` ignore further groups.
        fixed: groups that nobody trains.
        tables: row tables have variates, too: each client keeps a dense one, as long
            as the table, and sends changes of the rows it touches. Otherwise only
            dense groups have any.

    Raises:
        ValueError: in `init`, nothing that is shared would have one.
    """

    def init(key: Array) -> Params:
        params = model.init(key)
        zeros = {
            name: jax.tree.map(jnp.zeros_like, part)
            for name, part in params.shared.items()
            if name not in fixed and (tables or not _has_table(part))
        }
        if not zeros:
            raise ValueError(
                "SCAFFOLD corrects dense shared groups, and there is none among "
                f"{', '.join(params.shared)}: use a model with one, such as 'ncf', or "
                "tables=True"
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
    row_rate: Callable[[Tree], Array] | None = None,
) -> ClientUpdate:
    """Local steps along `g_i(y) - c_i + c`, and a new `c_i` by option II of the paper.

    The correction is the gradient of `<c - c_i, y>`, which is added to the loss; its
    value is not. After `K` steps of rate `eta_l` from `x` to `y`,
    `c_i <- c_i - c + (x - y) / (K eta_l)`, and the delta's group `control` holds the
    change of `c_i`.

    Of a table the rows are corrected that the client touches in this round, at each of
    its `K` steps; `c_i` of other rows stays. The paper would move every row of every
    client by `c - c_i`, also those it has no example of: that is work, and a message,
    of the length of the catalog. Where all take part, a client without the row (`g_i =
    c_i = 0`) would there move it by `-K eta_l c`, as those with it do on the average:
    left out, the mean over those that touched the row is the paper's mean over all,
    while a mean over all clients is that times the share of them that touched it. `c`
    is the mean over the population in either case.

    Args:
        make: from a model to local training, in which shared groups take plain SGD
            steps.
        model: without control variates.
        steps: `(examples) -> K`.
        rate: `(hparams) -> eta_l`.
        row_rate: `(hparams) -> eta_l` of the rows of tables, by default `rate`.

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
        by_row = {n: part for n, part in correction.items() if _has_table(part)}
        dense = {n: part for n, part in correction.items() if n not in by_row}
        start = Params(shared=shared, personal=personal)
        told = {**hparams, ROW_PULL: by_row} if by_row else hparams
        result = inner(start, (frozen, dense), examples, told, key)
        here = result.weight > 0
        count = jnp.maximum(steps(result.weight), 1)
        row_eta = (row_rate or rate)(hparams)

        def change_of(pull, d):
            """`-c - (y - x) / (K eta_l)`."""
            if not rows.is_table(pull):
                change = -pull - d / (count * rate(hparams))
                return jnp.where(here, change, 0).astype(pull.dtype)
            at = pull.values.at[d.ids].get(mode="fill", fill_value=0)
            real = here & (d.ids < len(pull.values))
            values = -at - d.values / (count * row_eta)
            values = jnp.where(real.reshape(-1, *[1] * (at.ndim - 1)), values, 0)
            return dataclasses.replace(d, values=values.astype(at.dtype))

        moved = {name: result.delta[name] for name in c}
        change = jax.tree.map(change_of, c, moved, is_leaf=rows.is_table)
        new = jax.tree.map(_plus, own, change, is_leaf=rows.is_table)
        return dataclasses.replace(
            result,
            delta={**result.delta, CONTROL: change},
            personal={**result.personal, OWN: new},
        )

    return update


def _plus(own: Tree, change: Tree) -> Tree:
    if not rows.is_table(own):
        return (own + change).astype(own.dtype)
    return dataclasses.replace(own, values=rows.scatter_add(own.values, change))


def _has_table(part: Tree) -> bool:
    return any(map(rows.is_table, jax.tree.leaves(part, is_leaf=rows.is_table)))
