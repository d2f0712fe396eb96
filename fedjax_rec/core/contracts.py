"""Contracts of models, local training, aggregation and whole systems.

Shape letters used in every docstring:

| letter | meaning | letter | meaning |
|---|---|---|---|
| `N` | population: all clients | `B` | batch |
| `C` | cohort: the clients of a round | `I` | items |
| `V` | chunk: clients of one `vmap` | `R` | rows that a client touches |
| `M` | examples of a client, padded | `K` | candidates, or a cut-off |
| `U` | users | `d` | width of a table's row |
| `D` | width of a backbone | `r` | rank of LoRA |
| `T` | tokens of a text | `L` | length of a history |
| `W` | tokens of a packed row | `G` | texts of a packed row |
| `S` | models of a stack | | |
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.messages import MessageTransform


@struct
class Params:
    """Trainable parameters of one client.

    Attributes:
        shared: dict of groups that are aggregated; leaves may be `rows.Table`s.
        personal: dict of groups that stay on the client; leaves may be `rows.Table`s,
            too. The population store adds a leading axis `N`.
    """

    shared: Tree
    personal: Tree


class Stack(NamedTuple):
    """Several models side by side in the shared parameters.

    Attributes:
        model: one of them.
        take: `(params) -> params`, from the parameters of the stack to those of the
            client's own model.
        trained: `(params, personal) -> params`: the model that a client trained and
            sends the change of, from the parameters it received and its personal ones
            after training; shared groups as received.
        received: number of models that a client receives in a round.
    """

    model: "Model"
    take: Callable[[Params], Params]
    trained: Callable[[Params, Tree], Params]
    received: int = 1


class Model(NamedTuple):
    """A recommender, written for one client.

    Attributes:
        init: `(key) -> Params`. `shared` is drawn once; `personal` once per client with
            the client's key, or once in all if `common_start`. The two dicts have no
            name in common.
        loss: `(params, frozen, batch, key, hparams) -> (scalar, metrics)`. `batch` is a
            dict of `[B]` arrays with at least `mask` (bool), over which the loss
            averages. The ids of a table are `None` if its rows are in the batch's
            order. `hparams` are the recipe's scalars, traced.
        score: `(params, frozen, query, candidates) -> [K]`; higher ranks first. `query`
            is a dict (`user`: scalar id); `candidates` `[K]` are item ids, or `None`
            for every row of the item table in order. An item's score reads no other
            item's row.
        lift: `(shared, frozen) -> shared`, or `None`: replaces the parameters that item
            vectors are computed from by a `rows.Table` of these vectors, so that all
            clients (or all evaluated users) share one computation. `loss` and `score`
            accept either form. The keyword `axis` names a mesh axis; its devices share
            the work. The keyword `items` `[K]` restricts the vectors to these items.
        fixed: shared groups that clients receive, and neither train nor send.
        common_start: personal parameters start equal on every client.
        single_user: the personal parameters belong to one user, so that each client has
            to be one user.
        stack: set if the shared parameters are several models.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Tree, dict[str, Any], Array, Tree], tuple[Array, dict]]
    score: Callable[[Params, Tree, dict[str, Array], Array | None], Array]
    lift: Callable[..., Tree] | None = None
    fixed: tuple[str, ...] = ()
    common_start: bool = False
    single_user: bool = True
    stack: Stack | None = None


@struct
class ClientResult:
    """The outcome of one client's local training.

    Attributes:
        delta: trained minus initial shared parameters; a `rows.Rows` for each table.
        personal: the client's new personal parameters.
        weight: scalar, number of examples trained on.
        metrics: scalars, each a mean over the client's steps; `loss` is one of them.
        extras: arrays that an aggregator reads in addition to the delta, by name.
    """

    delta: Tree
    personal: Tree
    weight: Array
    metrics: dict[str, Array]
    extras: dict[str, Array] = dataclasses.field(default_factory=dict)

    def extended(self, **groups: dict[str, Tree]) -> "ClientResult":
        """With more entries in `delta`, `personal` or `extras`."""
        extended = {n: {**getattr(self, n), **more} for n, more in groups.items()}
        return dataclasses.replace(self, **extended)


@struct
class Correction:
    """Changes that a wrapper makes to the steps of local training.

    Attributes:
        drift: by shared group, a tree like it that is added to the gradient of every
            step. In a table the rows that the client touches in the round take part,
            whether or not a batch holds them.
        basis: by table, `[r, d]` orthonormal rows; a step on the table is projected
            onto their span and multiplied by `sqrt(d / r)`.
        fixed: shared groups that no step trains; absent ones are ignored.
    """

    drift: dict[str, Tree] = dataclasses.field(default_factory=dict)
    basis: dict[str, Array] = dataclasses.field(default_factory=dict)
    fixed: tuple[str, ...] = static(default=())


class ClientUpdate(Protocol):
    """Local training of one client; the engine vectorizes it over clients.

    `hparams` holds the recipe's scalars, traced, and `round_key`, a key that all
    clients of a round share. An update that declares `Local.corrections` also takes
    the keyword `correction`, a `Correction`.
    """

    def __call__(
        self, params: Params, frozen: Tree, examples: Tree, hparams: Tree, key: Array
    ) -> ClientResult: ...


class Local(NamedTuple):
    """Properties of local training that other parts of a system depend on.

    Attributes:
        draw: `(examples, key) -> pairs`, or `None`. Local training has to draw its
            pairs with the first of three keys split from the client's key.
        negatives: negatives per example; 0 if none are drawn.
        predicts_ratings: scores are ratings in the units of the data, so that their
            RMSE is reported and may select a round.
        epochs: passes over the pairs in a round.
        batch_size: pairs of a step; padding is counted in whole batches.
        steps: `(examples) -> K`, the number of SGD steps; `None` if the optimizer is
            not SGD.
        momentum: momentum of these steps.
        rate: `(hparams) -> scalar`, the learning rate of dense shared groups; `None` if
            steps have no such rate.
        row_rate: `(hparams) -> scalar`, the learning rate of rows; by default `rate`.
        corrections: the update takes a `Correction`.
        proximal: steps are pulled to the shared parameters that the client received.
        optimizer_states: numbers that the optimizer keeps for each trained one.
        every_row: clients train and send every row of a table, whatever they hold.
        encodings: times that an item's text passes through the backbone in a round.
        text_flops: operations that the backbone adds for a pair.
        weight_bytes: bytes of frozen weights on a device.
        through_layers: every pair passes through layers of the backbone.
        reconstructs: the personal parameters are a function of the shared ones and the
            examples, as in federated reconstruction.
        per_client: reasons why items cannot be encoded once for all clients; empty if
            that is exact.
    """

    draw: Callable[[dict[str, Array], Array], dict[str, Array]] | None = None
    negatives: int = 0
    predicts_ratings: bool = False
    epochs: int = 1
    batch_size: int = 1
    steps: Callable[[Array], Array] | None = None
    momentum: float = 0.0
    rate: Callable[[Tree], Any] | None = None
    row_rate: Callable[[Tree], Any] | None = None
    corrections: bool = False
    proximal: bool = False
    optimizer_states: int = 0
    every_row: bool = False
    encodings: int = 1
    text_flops: float = 0.0
    weight_bytes: int = 0
    through_layers: bool = False
    reconstructs: bool = False
    per_client: tuple[str, ...] = ()


@struct
class Senders:
    """The clients that a chunk of deltas comes from.

    Attributes:
        slots: `[V]` int32 positions in the cohort, `C` if absent.
        ids: `[V]` int32 client ids.
        loss: `[V]` mean loss of local training.
        extras: `ClientResult.extras` of the clients, `[V, ...]`.
    """

    slots: Array
    ids: Array
    loss: Array
    extras: dict[str, Array] = dataclasses.field(default_factory=dict)


NUMBER_BYTES = 4
"""Bytes of each of `Aggregator.numbers`."""


class Aggregator(NamedTuple):
    """A fold over deltas, so that a mean needs no memory per client.

    Accumulators are additive: the sum of two is the accumulator of both sets of
    clients. Devices fold their own clients, and one all-reduce joins them. A rule that
    has to see all deltas at once keeps a buffer `[C, ...]`, in which each client writes
    at its own slot.

    Attributes:
        init: `(shared, cohort_size) -> acc`, zeros shaped after the shared parameters.
        update: `(acc, deltas [V, ...], weights [V], senders) -> acc`; a client of
            weight 0 is absent. A round passes finite numbers only, but for padding of
            rows, and deltas with norms that do not overflow (`simulation.guard`).
        finish: `(acc, state, shared) -> (delta, state, info)`; the delta is dense, like
            the shared parameters. An entry `rejected_clients` of `info` counts clients
            that the round takes for absent, besides those it rejected before.
        start: `(shared) -> state` that the server keeps between rounds.
        linear: the delta is a linear function of the clients' deltas.
        begin: `(acc, state) -> acc`, copies the part of the state that `update` reads
            into a new accumulator. That part is additive like the rest, so `finish`
            does not read it.
        coordinatewise: a number of the delta depends on the clients' values of that
            number only, and not linearly.
        own_momentum: `finish` adds momentum or feedback, so the server optimizer must
            keep none.
        numbers: numbers that `update` reads of a client in addition to its delta and
            its number of examples, such as its loss; they are counted as sent.
    """

    init: Callable[[Tree, int], Tree]
    update: Callable[[Tree, Tree, Array, Senders], Tree]
    finish: Callable[[Tree, Tree, Tree], tuple[Tree, Tree, dict[str, Array]]]
    start: Callable[[Tree], Tree] = lambda shared: ()
    linear: bool = False
    begin: Callable[[Tree, Tree], Tree] = lambda acc, state: acc
    coordinatewise: bool = False
    own_momentum: bool = False
    numbers: int = 0


class Recipe(NamedTuple):
    """A federated system: local training, messages, aggregation and server step.

    Attributes:
        model: the recommender.
        client_update: local training of one client.
        aggregator: the fold over the clients' deltas.
        server_optimizer: `(hparams) -> optax transformation` of the pseudo-gradient.
        hparams: scalars that change no shape, so that a sweep is a `vmap` over them, by
            the dotted name of the algorithm's field.
        local: properties of `client_update`.
        transform: transform of a client's message; `None` sends deltas as they are.
        constants: `{name: [N, ...]}`, personal groups with a value given for each
            client, which training has to return unchanged.
        frozen: arrays that no client trains, such as the backbone's weights.
        notes: facts for `result.json`, by heading.
        why: sentences about how the system runs, for the log.
        precision: precision of the products in every program, see `at_precision`.
    """

    model: Model
    client_update: ClientUpdate
    aggregator: Aggregator
    server_optimizer: Callable[[Tree], Any]
    hparams: dict[str, Any]
    local: Local = Local()
    transform: MessageTransform | None = None
    constants: dict[str, Any] | None = None
    frozen: Tree = ()
    notes: dict[str, Any] = {}  # noqa: RUF012
    why: tuple[str, ...] = ()
    precision: str | None = "highest"
