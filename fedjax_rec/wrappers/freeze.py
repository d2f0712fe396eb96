"""Freeze: groups of shared parameters that keep their initial values."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

with epy.lazy_imports():
    import jax

    from fedjax_rec.core import contracts

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedjax_rec.core.context import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze:
    """Clients receive some groups of the shared parameters, but never change them.

    The groups are neither trained nor sent, so they keep their initial values, and all
    other groups train as before: a control for claims about the part that learns.

    Attributes:
        groups: names of shared groups, such as `item` or `mlp`.
    """

    groups: tuple[str, ...] = ("item",)

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: a group is not shared, none is left to train, or local training
                takes no corrections.
        """
        recipe = context.recipe
        assert recipe is not None
        model, local, groups = recipe.model, recipe.local, self.groups
        shared = jax.eval_shape(model.init, jax.random.key(0)).shared
        if unknown := sorted(set(groups) - set(shared)):
            raise ValueError(
                f"wrapper.groups={groups}: {', '.join(unknown)} is not shared; "
                f"expected some of {', '.join(shared)}"
            )
        if not set(shared) - {*groups, *model.fixed}:
            raise ValueError(
                f"wrapper.groups={groups} leaves no shared group to train: leave out "
                f"one of {', '.join(shared)}"
            )
        if not local.corrections:
            raise ValueError(
                "Freeze needs local training that takes corrections, as minibatches "
                "of plain SGD do: expected SGD() as the clients' optimizer, without a "
                "proximal term"
            )
        train: Callable = recipe.client_update

        def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
            correction = contracts.Correction(fixed=groups)
            return train(params, frozen, examples, hparams, key, correction=correction)

        def lift(shared, frozen, **options):
            # The server pulls the clients' aggregate back through this function.
            still = {name: jax.lax.stop_gradient(shared[name]) for name in groups}
            assert model.lift is not None
            return model.lift({**shared, **still}, frozen, **options)

        return recipe._replace(
            model=model._replace(
                fixed=tuple(dict.fromkeys((*model.fixed, *groups))),
                lift=None if model.lift is None else lift,
            ),
            client_update=update,
            local=local._replace(corrections=False),
        )
