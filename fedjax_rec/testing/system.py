"""A federated system on small data, whose rounds laws compare."""

import collections
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.contracts import ClientResult, Params, Recipe
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.partition import IID, PerUser
from fedjax_rec.experiment.build import decide_lift
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.simulation.messages import without_state
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import federated
from fedjax_rec.testing import world


class System:
    """The system of an experiment on the data of `world`.

    Args:
        experiment: its algorithm, rule, wrapper, codec and attack.
        still: shared arrays that do not move, by their group or path, such as `head.b`,
            with the largest change that rounding may cause; all others have
            to move. By default an array may stay still if another of its group moves.
        rule: `Mean` or `Sum` that the aggregator has to equal; by default the laws find
            out which one it is, if any.

    Attributes:
        remark: how the part is examined, for reports.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        still: Mapping[str, float] | None = None,
        rule: Any = None,
    ) -> None:
        self.remark = ""
        self.experiment, self.still, self.rule = experiment, still, rule
        wrapper, backbone = experiment.wrapper, experiment.backbone
        own = backbone if type(backbone).load is not _SHIPPED_LOAD else None
        self.context = world.context(getattr(wrapper, "lora_base", False), own)
        self.recipe: Recipe = make_recipe(experiment, self.context)
        self.lifted, _ = decide_lift(self.recipe, self.context, experiment)
        single = self.recipe.model.single_user
        partition = PerUser() if single else IID(num_clients=4, seed=5)
        self.partition = partition.partition(world.interactions())

    @functools.cached_property
    def base(self) -> "Run":
        """Rounds in two size buckets and chunks of two clients."""
        return Run(self, max_buckets=2, chunk=2)

    @functools.cached_property
    def train(self) -> Any:
        """`(client, personal, hparams, key) -> ClientResult`, compiled.

        It is the local training of a client with the first shared parameters; its
        examples are padded to the widest bucket.
        """
        run, recipe = self.base, self.recipe

        def train(client: Any, personal: Any, hparams: Any, key: Any) -> ClientResult:
            params = Params(shared=run.start.shared, personal=personal)
            examples = self.examples(client)
            return recipe.client_update(params, recipe.frozen, examples, hparams, key)

        return jax.jit(train)

    def examples(self, client: Any) -> dict[str, Any]:
        """The examples of a client, padded to the widest bucket."""
        data = self.base.data
        return data.examples(jnp.asarray(client, jnp.int32), len(data.widths) - 1)

    def personal_of(self, client: int) -> Any:
        """The first personal parameters of a client."""
        return without_state(first(self.base.personal, client))

    @functools.cached_property
    def three_rounds(self) -> Any:
        """`(state, personal, metrics)` after three rounds of all clients."""
        return self.base(self.base.everyone, rounds=3)


_SHIPPED_LOAD = type(Experiment(name="x").backbone).load


class Run:
    """One round as a program, with a count of its traces by the cohort's size."""

    def __init__(self, system: System, max_buckets: int, chunk: int) -> None:
        self.recipe = recipe = system.recipe
        train = world.interactions()
        self.data = make_client_data(train, system.partition, max_buckets=max_buckets)
        self.traces: dict[int, int] = collections.Counter()
        chunks = (chunk,) * len(self.data.widths)
        algorithm = federated(recipe, chunks, lifted=system.lifted)
        self.key = jax.random.key(7)
        self.start = algorithm.init(self.key)
        self.everyone = np.arange(self.data.num_clients)
        self.personal = initial_personal(recipe, self.key, len(self.everyone))

        def counted(*args: Any) -> Any:
            self.traces[len(args[1].ids)] += 1
            return algorithm.round(*args)

        self.eager, self.jitted = algorithm.round, jax.jit(counted)

    def __call__(
        self,
        ids: Any,
        rounds: int = 2,
        *,
        jit: bool = True,
        key: Any = None,
        start: Any = None,
        hparams: Any = None,
    ) -> Any:
        """`(state, personal, metrics)` after some rounds with the clients `ids`."""
        fn = self.jitted if jit else self.eager
        key = self.key if key is None else key
        hparams = self.recipe.hparams if hparams is None else hparams
        state, personal = start or (self.start, self.personal)
        ids = jnp.asarray(ids, jnp.int32)
        metrics = {}
        for _ in range(rounds):
            cohort = Cohort(ids=ids, rows=ids, personal=personal)
            inputs = (self.data, self.recipe.frozen, hparams, key)
            state, cohort, metrics = fn(state, cohort, *inputs)
            personal = cohort.personal
        return state, personal, metrics


def first(tree: Any, index: int = 0) -> Any:
    """The entry of one client in a tree of `[N, ...]`."""
    return jax.tree.map(lambda x: x[index], tree)
