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
        init: `(key) -> Params`. Everything drawn here is the same for every client;
            `personal` is drawn once a client with the client's own key.
        loss: `(params, frozen, batch, key) -> (scalar, metrics)`; `batch` is a dict of
            `[B]` arrays with at least `mask` (bool), over which the loss averages.
        score: `(params, frozen, query, candidates) -> [K]`; higher ranks first.
            `query` is a dict (`user`: scalar id), `candidates` `[K]` item ids, or
            `None` for every row of the item table in order.
        spaces: names of the id spaces (batch fields) that index this model's tables.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Tree, dict[str, Array | None], Array], tuple[Array, dict]]
    score: Callable[[Params, Tree, dict[str, Array], Array | None], Array]
    spaces: tuple[str, ...]


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


class Codec(NamedTuple):
    """What turns a delta into a message and back; state stays on the client.

    Attributes:
        init: `(delta) -> state`.
        encode: `(delta, state, key) -> (message, state)`.
        decode: `(message) -> delta`.
        num_bits: `(message) -> scalar`: exactly what serialising it takes.
    """

    init: Callable[[Tree], Tree]
    encode: Callable[[Tree, Tree, Array], tuple[Tree, Tree]]
    decode: Callable[[Tree], Tree]
    num_bits: Callable[[Tree], Array]


class Aggregator(NamedTuple):
    """A fold over messages, so that a mean needs no memory in the cohort.

    Attributes:
        init: `(shared, cohort_size) -> acc`, zeros shaped after the shared parameters.
        update: `(acc, deltas [V, ...], weights [V]) -> acc`; weight 0 is absent.
        finish: `(acc) -> (delta, info)`: delta dense, like the shared parameters.
    """

    init: Callable[[Tree, int], Tree]
    update: Callable[[Tree, Tree, Array], Tree]
    finish: Callable[[Tree], tuple[Tree, dict[str, Array]]]
