"""Contracts of a round: its cohort, and the state that the server keeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree, static, struct


@struct
class Cohort:
    """The clients of a round, and the part of the population that holds their state.

    A round may see the whole population, the share of one device, or a cohort that was
    copied from the host; `rows` are positions in that part.

    Attributes:
        ids: `[C]` int32 client ids, from which keys are derived.
        rows: `[C]` int32, the clients' rows in `personal` and in the clients' data;
            absent ones hold the number of rows or more.
        personal: personal parameters, `[rows, ...]`.
        first: int32 scalar, slot of the first client in the full cohort; a device may
            hold a part of it.
        size: size of the full cohort, if larger than `ids`.
    """

    ids: Array
    rows: Array
    personal: Tree
    first: Array | int = 0
    size: int = static(default=0)


@struct
class ServerState:
    """The state that the server keeps between rounds.

    Attributes:
        shared: the shared parameters.
        optimizer: state of the server optimizer.
        aggregator: state of the aggregator.
        round: int32 scalar, number of finished rounds.
    """

    shared: Tree
    optimizer: Tree
    round: Array
    aggregator: Tree = ()


class FederatedAlgorithm(NamedTuple):
    """A recipe bound to its execution: two pure functions.

    Attributes:
        init: `(key) -> ServerState`.
        round: `(state, cohort, data, frozen, hparams, key)` to
            `(state, cohort, metrics)`; `key` is the root key of the experiment.
    """

    init: Callable[[Array], ServerState]
    round: Callable[..., tuple[ServerState, Cohort, dict[str, Array]]]


@struct
class Participation:
    """The clients that take part in a round; int32 slots, `N` if absent.

    Attributes:
        ids: `[C]` ascending, clients with a message that arrives in time and counts.
        invited: `[C]` or more, clients that started: these, the ones that dropped out,
            and the ones that arrived too late.
        metrics: scalars about them for the metrics of the round.
    """

    ids: Array
    invited: Array
    metrics: dict[str, Array]


class Sampler(NamedTuple):
    """Draws cohorts.

    Attributes:
        sample: `(tables, key of the round, number of the round) -> Participation`,
            pure.
        tables: arrays that `sample` reads, passed as an argument so that no program
            holds a copy of arrays as long as the population.
    """

    sample: Callable[[Tree, Array, Array], Participation]
    tables: Tree = ()

    def __call__(self, key: Array, number: Array | int) -> Participation:
        """Draws the cohort of one round from the sampler's own tables."""
        tables = jax.tree.map(jnp.asarray, self.tables)
        return self.sample(tables, key, jnp.asarray(number))
