"""SCAFFOLD: local gradients corrected by control variates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epy

from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import groups, means
    from fedjax_rec.core import contracts, rows


CONTROL, OWN = "control", "own_control"
"""Groups of the control variates: the server's `c`, shared, and a client's `c_i`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaffold:
    """Corrects local steps by control variates, which doubles what is sent.

    Each client keeps a variate for every shared parameter, so personal state grows by
    `N` times the shared parameters; `store` may move it off the device.

    Local steps go along `g_i(y) - c_i + c`. After `K` steps of rate `eta_l` from `x` to
    `y`, `c_i <- c_i - c + (x - y) / (K eta_l)` (option II of the paper), and the group
    `control` of the delta holds the change of `c_i`. The server's `c` is the mean over
    the clients with training data.

    In a table, only the rows that the client touches in the round are corrected, at
    each of its `K` steps; `c_i` of other rows stays. The paper moves every row of every
    client by `c - c_i`, including rows without an example: work and a message of the
    length of the catalog. If all clients take part, one without the row (`g_i = c_i =
    0`) would move it by `-K eta_l c`, as those with it do on average. Without these
    moves, the mean over the clients that touched the row is the paper's mean over all,
    while a mean over all clients is that times the share of clients that touched it.

    Attributes:
        tables: also correct row tables, not only dense groups.

    References:
        Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning, ICML 2020, algorithm 1.
    """

    tables: bool = True

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: local training is not plain SGD on shared parameters by clients
                that are one user each, or no shared group would be corrected.
        """
        recipe = context.recipe
        local, model = recipe.local, recipe.model
        if not local.corrections or local.momentum or local.steps is None:
            raise ValueError(
                "SCAFFOLD corrects several steps of plain SGD on the shared "
                "parameters: expected client_optimizer=SGD() without a proximal term, "
                "and shared parameters that train in every local step"
            )
        if not model.single_user or model.stack is not None:
            raise ValueError(
                "SCAFFOLD needs one model, and clients that are one user each"
            )
        # Clients without training data never take part, so their variates stay zero.
        num_clients = int((context.examples > 0).sum())
        return recipe._replace(
            model=with_control(model, tables=self.tables),
            client_update=controlled(recipe),
            aggregator=groups.by_group(
                (CONTROL,), mean_over(num_clients), recipe.aggregator
            ),
            server_optimizer=groups.unchanged((CONTROL,), recipe.server_optimizer),
            local=local._replace(
                corrections=False,
                per_client=(
                    *local.per_client,
                    "control variates correct its local steps",
                ),
            ),
        )


def with_control(model: contracts.Model, *, tables: bool = True) -> contracts.Model:
    """Adds a control variate, zero at first, for every shared group that is trained.

    Args:
        model: its `loss` and `score` ignore further groups.
        tables: whether row tables have variates. Each client keeps a dense one, as long
            as the table, and sends changes of the rows it touches.

    Raises:
        ValueError: in `init`, if no shared group would have one.
    """

    def init(key: jax.Array) -> contracts.Params:
        params = model.init(key)
        zeros = {
            name: jax.tree.map(jnp.zeros_like, part)
            for name, part in params.shared.items()
            if name not in model.fixed and (tables or not rows.tables_of(part))
        }
        if not zeros:
            raise ValueError(
                "SCAFFOLD with tables=False corrects dense shared groups, and there is "
                f"none among {', '.join(params.shared)}: use a model with one, such as "
                "'ncf', or tables=True"
            )
        return contracts.Params(
            shared={**params.shared, CONTROL: zeros},
            personal={**params.personal, OWN: zeros},
        )

    return model._replace(init=init)


def controlled(recipe: contracts.Recipe) -> contracts.ClientUpdate:
    """Local training with control variates, for parameters of `with_control`.

    Args:
        recipe: the system without them.
    """
    local: Any = recipe.local  # with the functions that `Scaffold.build` checks
    steps, rate, row_rate = local.steps, local.rate, local.row_rate or local.rate
    train: Callable = recipe.client_update

    def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
        shared, personal = dict(params.shared), dict(params.personal)
        c, c_i = shared.pop(CONTROL), personal.pop(OWN)
        drift = jax.tree.map(jnp.subtract, c, c_i)
        result = train(
            contracts.Params(shared=shared, personal=personal),
            frozen,
            examples,
            hparams,
            key,
            correction=contracts.Correction(drift=drift),
        )
        present = result.weight > 0
        count = jnp.maximum(steps(result.weight), 1)
        eta, row_eta = rate(hparams), row_rate(hparams)

        def change_of(control, delta):
            """`-c - (y - x) / (K eta_l)`."""
            if not rows.is_table(control):
                change = -control - delta / (count * eta)
                return jnp.where(present, change, 0).astype(control.dtype)
            c_rows = control.values.at[delta.ids].get(mode="fill", fill_value=0)
            real = present & (delta.ids < len(control.values))
            values = -c_rows - delta.values / (count * row_eta)
            values = jnp.where(real.reshape(-1, *[1] * (c_rows.ndim - 1)), values, 0)
            return dataclasses.replace(delta, values=values.astype(c_rows.dtype))

        deltas = {name: result.delta[name] for name in c}
        change = jax.tree.map(change_of, c, deltas, is_leaf=rows.is_table)
        new = jax.tree.map(_plus, c_i, change, is_leaf=rows.is_table)
        return result.extended(delta={CONTROL: change}, personal={OWN: new})

    return update


def mean_over(num_clients: int) -> contracts.Aggregator:
    """`1/N` times the sum of the deltas over the cohort.

    The delta is exact if the server applies it unchanged.

    Args:
        num_clients: `N`.
    """

    def finish(acc: Any, state: Any, shared: Any):
        return jax.tree.map(lambda x: x / num_clients, acc.total), state, {}

    return means.total()._replace(finish=finish)


def _plus(c_i: Any, change: Any) -> Any:
    if not rows.is_table(c_i):
        return (c_i + change).astype(c_i.dtype)
    return dataclasses.replace(c_i, values=rows.scatter_add(c_i.values, change))
