"""Shape letters, aliases and the bundles every layer speaks (layer 0).

Shape letters, used in every docstring:

| letter | meaning | letter | meaning |
|---|---|---|---|
| `N` | population: every client | `B` | batch |
| `C` | cohort: the clients of a round | `I` | items |
| `V` | chunk: clients of one `vmap` | `R` | touched rows of a client |
| `M` | examples of a client, padded | `K` | candidates, or a cut-off (say which) |
| `U` | users | `d` | width of a table's row |
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax

Array = jax.Array
Tree = Any
"""A pytree of arrays."""

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def struct(cls: type[_T]) -> type[_T]:
    """Makes `cls` a frozen keyword-only dataclass that is a JAX pytree.

    Fields declared with `static()` become part of the tree's structure, so that a
    change of their value retraces; all others are leaves or subtrees.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data, meta)


def static(**kwargs: Any) -> Any:
    """Declares a field of a `struct` that belongs to the tree's structure."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@struct
class Params:
    """What is trained: `shared` is aggregated, `personal` stays on its client.

    Leaves of `shared` may be `rows.Table`s. The population store gives `personal` a
    leading `N`.
    """

    shared: Tree
    personal: Tree


class Model(NamedTuple):
    """A recommender, written for one client.

    Attributes:
        init: `(key) -> Params`. `shared` is drawn once; `personal` once a client with
            the client's key, or once for all (`Recipe.common_start`). Both are dicts,
            with no name in common.
        loss: `(params, frozen, batch, key) -> (scalar, metrics)`; `batch` is a dict of
            `[B]` arrays with at least `mask` (bool), over which the loss averages; ids
            of a table whose rows come in the batch's order are `None`.
        score: `(params, frozen, query, candidates) -> [K]`; higher ranks first.
            `query` is a dict (`user`: scalar id), `candidates` `[K]` item ids, or
            `None` for every row of the item table in order. The score of an item reads
            no other item's row.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Tree, dict[str, Any], Array], tuple[Array, dict]]
    score: Callable[[Params, Tree, dict[str, Array], Array | None], Array]


@struct
class ClientResult:
    """What one client's local training yields.

    Attributes:
        delta: trained minus initial shared parameters; a `rows.Rows` for each table.
        personal: the client's new personal parameters.
        weight: scalar, the number of examples trained on.
        metrics: dict of scalars, each a mean over the client's steps.
    """

    delta: Tree
    personal: Tree
    weight: Array
    metrics: dict[str, Array]


class ClientUpdate(Protocol):
    """One client's local training. Nobody writes a batch-of-clients version."""

    def __call__(
        self, params: Params, frozen: Tree, examples: Tree, hparams: Tree, key: Array
    ) -> ClientResult: ...


class Aggregator(NamedTuple):
    """A fold over deltas, so that a mean needs no memory in the cohort.

    Attributes:
        init: `(shared, cohort_size) -> acc`, zeros shaped after the shared parameters.
        update: `(acc, deltas [V, ...], weights [V]) -> acc`; weight 0 is absent.
        finish: `(acc) -> (delta, info)`: delta dense, like the shared parameters.
    """

    init: Callable[[Tree, int], Tree]
    update: Callable[[Tree, Tree, Array], Tree]
    finish: Callable[[Tree], tuple[Tree, dict[str, Array]]]


class Recipe(NamedTuple):
    """A published system: a choice of model, client, aggregator and server optimizer.

    Attributes:
        model: what is trained.
        client_update: one client's local training.
        aggregator: the fold over the clients' deltas.
        server_optimizer: `(hparams) -> optax transformation` of the pseudo-gradient.
        hparams: scalars that change no shape, so that a sweep is a `vmap` over them.
        common_start: personal parameters start equal on every client.
        single_user: every client has to be one user.
        draw: `(examples, key) -> pairs`; its key is the first of three split from the
            client's (for the baseline that counts negatives).
        negatives: negatives an example, 0 for explicit feedback.
    """

    model: Model
    client_update: ClientUpdate
    aggregator: Aggregator
    server_optimizer: Callable[[Tree], Any]
    hparams: dict[str, Any]
    common_start: bool = False
    single_user: bool = True
    draw: Callable[[dict[str, Array], Array], dict[str, Array]] | None = None
    negatives: int = 0


@struct
class Cohort:
    """The slice of the population that takes part in a round; every leaf `[C, ...]`.

    Attributes:
        ids: int32 client ids; absent slots hold `N`.
        personal: the clients' personal parameters.
    """

    ids: Array
    personal: Tree


@struct
class ServerState:
    """What the server carries from round to round.

    Attributes:
        shared: the shared parameters.
        optimizer: state of the server optimizer.
        round: int32 scalar, rounds done.
    """

    shared: Tree
    optimizer: Tree
    round: Array


class Algorithm(NamedTuple):
    """A recipe bound to its clients' data: two pure functions.

    Attributes:
        init: `(key) -> ServerState`.
        round: `(state, cohort, data, frozen, hparams, key)` to
            `(state, cohort, metrics)`; `key` is the experiment's root key.
    """

    init: Callable[[Array], ServerState]
    round: Callable[..., tuple[ServerState, Cohort, dict[str, Array]]]
