"""FedAMP: one model per client, attracted by the models of similar clients."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

from etils import epy

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from fedjax_rec.contrib import message_passing
    from fedjax_rec.core import contracts, stacks

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context

NUMBER = "number"
"""Personal group with the number of the client's model."""

SERVER = ("server_optimizer.", "adapter_lr_scale")
"""Beginnings of the names of a server optimizer's numbers."""

MAX_NUMBERS = 1 << 30
"""Largest size of a stack: 4 GiB in float32, and a round holds about five of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAMP:
    """Keeps a model for each client, in place of an aggregation rule.

    A client starts from its cloud model `u_i` and sends its delta; the server mixes
    all clients' models by their distances (`message_passing`). The pull to the cloud
    model, `lambda / (2 alpha) ||w - u_i||^2`, is the proximal term of local training,
    `mu = lambda / alpha`. Models start equal, and the server takes no step of its own.

    With `protocol.evaluated="aggregated"` a client is evaluated by `u_i`, with `tuned`
    by the model that it trains from there, as in the paper.

    Memory grows with the population: about `5 N P` numbers for `P` shared ones.

    Attributes:
        sigma: squared distance of two models at which their attraction falls to
            `1 / e`; the metric `amp_distance` is the mean squared distance.
        mixing: `alpha N / sigma` in `[0, 1]`: at 1, models with equal distances are
            averaged; at 0, each client trains for itself.

    References:
        Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI
        2021.
    """

    sigma: float = 1.0
    mixing: float = 1.0

    brings_rule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.sigma > 0 or not 0 <= self.mixing <= 1:
            raise ValueError(
                f"sigma={self.sigma}, mixing={self.mixing}: expected a positive "
                "squared distance, and a mixing in [0, 1]"
            )

    def build(
        self, context: Context, max_numbers: int = MAX_NUMBERS
    ) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Args:
            context: facts about the experiment.
            max_numbers: largest size of the stack of models.

        Raises:
            ValueError: the stack would be larger, or the server takes other steps.
        """
        recipe, num_clients = context.recipe, context.num_clients
        assert recipe is not None
        server = {n: v for n, v in recipe.hparams.items() if n.startswith(SERVER)}
        if any(value != 1 for value in server.values()):
            raise ValueError(
                "FedAMP sets each client's model and the server takes no step: use "
                f"server_optimizer=SGD(lr=1.0), not {server}"
            )
        shapes = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        if size * num_clients > max_numbers:
            raise ValueError(
                f"FedAMP keeps a model of {size:,} numbers for each of {num_clients:,} "
                f"clients, and several copies of them: {size * num_clients:.2g} "
                f"numbers are more than {max_numbers:.2g}. Use fewer clients or items, "
                "a narrower model, or clusters, which keep a model per cluster"
            )
        made = stacks.stacked(
            recipe,
            num_clients,
            lambda params: params.personal[NUMBER],
            personal={NUMBER: jnp.zeros((), jnp.int32)},
            equal_start=True,
        )
        stack = made.model.stack
        assert stack is not None

        def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
            result = recipe.client_update(
                stack.take(params), frozen, examples, hparams, key
            )
            personal = {**result.personal, NUMBER: params.personal[NUMBER]}
            return dataclasses.replace(result, personal=personal)

        numbers = np.arange(num_clients, dtype=np.int32)
        return made._replace(
            client_update=update,
            aggregator=message_passing.message_passing(
                num_clients, self.sigma, self.mixing
            ),
            server_optimizer=lambda hparams: optax.sgd(1.0),
            hparams={n: v for n, v in recipe.hparams.items() if n not in server},
            constants={**(recipe.constants or {}), NUMBER: numbers},
        )
