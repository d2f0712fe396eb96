"""A wrapper of one's own: FedPer, which keeps some groups of parameters local.

    fedjax-rec train fedavg_synthetic --plugin examples/own_wrapper.py \\
        --algorithm fedncf --wrapper keep_local
"""

import dataclasses

import jax
import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.core.contracts import Params


@fr.kind("wrapper")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepLocal:
    """Clients train their own copy of some dense groups, and do not send it.

    Attributes:
        groups: names of shared groups, such as `mlp`.
    """

    groups: tuple[str, ...] = ("mlp",)

    def build(self, context):
        recipe, names = context.recipe, self.groups
        model = recipe.model
        shared = jax.eval_shape(model.init, jax.random.key(0)).shared
        if missing := sorted(set(names) - set(shared)):
            raise ValueError(f"groups={names}: {missing} not among {list(shared)}")

        def init(key):
            params = model.init(key)
            local = {name: params.shared[name] for name in names}
            shared = {n: x for n, x in params.shared.items() if n not in names}
            return Params(shared=shared, personal=params.personal | local)

        def whole(params):
            local = {name: params.personal[name] for name in names}
            own = {n: x for n, x in params.personal.items() if n not in names}
            return Params(shared=params.shared | local, personal=own)

        def update(params, *args, **options):
            start = whole(params)
            result = recipe.client_update(start, *args, **options)
            delta, personal = dict(result.delta), dict(result.personal)
            for name in names:
                change = delta.pop(name)
                personal[name] = jax.tree.map(jnp.add, start.shared[name], change)
            return dataclasses.replace(result, delta=delta, personal=personal)

        changed = model._replace(
            init=init,
            loss=lambda params, *args: model.loss(whole(params), *args),
            score=lambda params, *args: model.score(whole(params), *args),
        )
        return recipe._replace(model=changed, client_update=update)
