"""Shape letters, aliases and the bundles every layer speaks (layer 0).

Shape letters, used in every docstring:

| letter | meaning | letter | meaning |
|---|---|---|---|
| `N` | population: every client | `B` | batch |
| `C` | cohort: the clients of a round | `I` | items |
| `V` | chunk: clients of one `vmap` | `R` | touched rows of a client |
| `M` | examples of a client, padded | `K` | candidates, or a cut-off (say which) |
| `U` | users | `d` | width of a table's row |
| `D` | width of a backbone | `r` | rank of LoRA |
| `T` | tokens of a text | `L` | length of a history |
| `W` | tokens of a packed row | `G` | texts of a packed row |
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
class Layout:
    """Where texts lie in packed rows: several end to end in one row of `W` tokens.

    Attributes:
        segment: `[..., W]` int32, the text's number within its row from 1; 0 is
            padding. Tokens attend to their own segment only.
        position: `[..., W]` int32, the token's place within its text, from 0.
    """

    segment: Array
    position: Array


class Adapter(NamedTuple):
    """A small trainable part inside a backbone's layers.

    A backbone calls the three hooks in every layer it runs, with that layer's slice of
    the parameters. An adapter that leaves a hook alone returns what it was given.

    Attributes:
        init: `(key, backbone, num_layers, dtype) -> params`: a dict of named groups,
            every leaf `[num_layers, ...]`: one slice for each of the last `num_layers`
            layers.
        linear: `(layer_params, path, x [..., in], y [..., out]) -> [..., out]`, after
            the linear map at `path` gave `y = x W + b`.
        block: `(layer_params, path, y [..., D]) -> [..., D]`, on what a sublayer is
            about to add to the residual stream.
        prefix: `(layer_params) -> (keys [P, kv_width], values [P, kv_width])` that
            every token also attends to, or `None`.
    """

    init: Callable[[Array, "Backbone", int, Any], dict[str, Tree]]
    linear: Callable[[Tree, str, Array, Array], Array]
    block: Callable[[Tree, str, Array], Array]
    prefix: Callable[[Tree], tuple[Array, Array] | None]


class LastMap(NamedTuple):
    """A layer in two parts: up to its last linear map, and from there.

    Where an adapter changes nothing but this map, what comes before it never changes.

    Attributes:
        site: path of the map.
        before: `(stack, hidden [R, W, D], layout) -> states [R, W, S]` through the one
            layer of `stack`: all that `after` wants to know of a token.
        after: `(stack, states, adapter, adapter_params) -> hidden [R, W, D]`; of the
            adapter only the hook `linear` is called, and it has to add to `y`.
    """

    site: str
    before: Callable[[Tree, Array, Layout], Array]
    after: Callable[[Tree, Array, Adapter, Tree], Array]


class Backbone(NamedTuple):
    """A frozen foundation model: pure functions of an array tree of weights.

    Nothing here assumes a text encoder: inputs are lists of tokens of any kind, layers
    are stacked, and a head turns the last hidden states of a list into one vector.
    `weights` is a dict with at least `layers`, of leaves stacked `[layers, ...]`.

    Attributes:
        name: for messages and reports.
        width: `D`, of hidden states and of the vectors that `pool` gives.
        kv_width: of the keys and values that a prefix adds.
        num_layers: of the whole stack.
        max_tokens: the longest list a backbone takes.
        sites: path of each linear map inside a layer, to `(in, out)`.
        blocks: paths of the sublayers that add to the residual stream.
        fingerprint: hash of the weights' content and of what decides the function.
        tokenize: `(texts) -> list of [T] int32 arrays`, each of 1 to `max_tokens`, on
            the host.
        embed: `(weights, tokens [R, W], layout) -> hidden [R, W, D]`.
        run: `(stack, hidden [R, W, D], layout, adapter, adapter_params) -> hidden`
            through the layers of `stack`, any contiguous slice of `weights["layers"]`;
            `adapter` may be `None`.
        pool: `(weights, hidden [R, W, D], layout, num_texts) -> [R, num_texts, D]`,
            the vectors of segments `1..num_texts` of each row; zeros where there is no
            such segment. Reads of the weights no more than `weights["head"]`.
        last: a layer's last map apart from the rest, where that can be told.
    """

    name: str
    width: int
    kv_width: int
    num_layers: int
    max_tokens: int
    sites: dict[str, tuple[int, int]]
    blocks: tuple[str, ...]
    fingerprint: str
    tokenize: Callable[[Any], list]
    embed: Callable[[Tree, Array, Layout], Array]
    run: Callable[..., Array]
    pool: Callable[[Tree, Array, Layout, int], Array]
    last: LastMap | None = None


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
        lift: `(shared, frozen) -> shared`, or `None`: replaces parameters of which
            every item's vector is computed by a `rows.Table` of those vectors, so that
            all clients (or all evaluated users) share one computation. `loss` and
            `score` take either form. Its keyword `axis` names a mesh axis whose
            devices share the work: each computes some items, and all get all. Its
            keyword `items` `[K]` asks for the vectors of these alone, in their order.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Tree, dict[str, Any], Array], tuple[Array, dict]]
    score: Callable[[Params, Tree, dict[str, Array], Array | None], Array]
    lift: Callable[..., Tree] | None = None


@struct
class ClientResult:
    """What one client's local training yields.

    Attributes:
        delta: trained minus initial shared parameters; a `rows.Rows` for each table.
        personal: the client's new personal parameters.
        weight: scalar, the number of examples trained on.
        metrics: dict of scalars, each a mean over the client's steps.
        profile: `[p]` what local training has to tell an aggregator beside the delta;
            without it, the client's own of `Recipe.profiles`.
    """

    delta: Tree
    personal: Tree
    weight: Array
    metrics: dict[str, Array]
    profile: Array | None = None


class ClientUpdate(Protocol):
    """One client's local training. Nobody writes a batch-of-clients version."""

    def __call__(
        self, params: Params, frozen: Tree, examples: Tree, hparams: Tree, key: Array
    ) -> ClientResult: ...


@struct
class Field:
    """Numbers of a message that go over the wire side by side.

    Attributes:
        values: `[m]`; the first `count` of them go.
        count: int32 scalar.
        bits: uint32 scalar, what they take together.
        code: how each is written, a name of `codecs.wire.CODES`.
        width: bits of one number, or the parameter of its code.
    """

    values: Array
    count: Array
    bits: Array
    code: str = static()
    width: int = static()


class Codec(NamedTuple):
    """What shrinks a client's message: two-sided, pure, written for one client.

    Its state stays on the client, beside the personal parameters.

    Attributes:
        init: `(shared) -> state` before the client's first message; `()` for none. What
            in it is shaped like the shared parameters is best a `codecs.memory.Memory`:
            a round then reads and writes its touched rows alone, in place of all of it.
        encode: `(delta, state, key) -> (message, state)`. In `delta` every row of a
            table comes once, and `message` is a tree whose `Field`s are what is sent.
        decode: `(message) -> delta`, on the server.
        every_row: of a table exactly the rows of the delta are decoded.
    """

    init: Callable[[Tree], Tree]
    encode: Callable[[Tree, Tree, Array], tuple[Tree, Tree]]
    decode: Callable[[Tree], Tree]
    every_row: bool = False


@struct
class Senders:
    """Who sent some deltas, for rules that look at more than those.

    Attributes:
        slots: `[V]` int32 places in the cohort, `C` where absent.
        ids: `[V]` int32 client ids.
        loss: `[V]` mean loss of local training.
        profile: `[V, p]`, or `None`.
    """

    slots: Array
    ids: Array
    loss: Array
    profile: Array | None = None


class Aggregator(NamedTuple):
    """A fold over deltas, so that a mean needs no memory in the cohort.

    Accumulators add up: the sum of two is that of both their clients. So devices fold
    their own clients, and one all-reduce joins them. A rule that must see all deltas at
    once has a buffer `[C, ...]`, into which each client writes at its own slot.

    Attributes:
        init: `(shared, cohort_size) -> acc`, zeros shaped after the shared parameters.
        update: `(acc, deltas [V, ...], weights [V], senders) -> acc`; weight 0 is
            absent.
        finish: `(acc, state, shared) -> (delta, state, info)`: delta dense, like the
            shared parameters.
        start: `(shared) -> state`: what the server keeps between rounds.
        linear: the delta is a linear function of the clients' deltas.
        begin: `(acc, state) -> acc`, puts into a new acc what `update` reads of the
            state. That part of it adds up like the rest, so `finish` leaves it alone.
    """

    init: Callable[[Tree, int], Tree]
    update: Callable[[Tree, Tree, Array, Senders], Tree]
    finish: Callable[[Tree, Tree, Tree], tuple[Tree, Tree, dict[str, Array]]]
    start: Callable[[Tree], Tree] = lambda shared: ()
    linear: bool = False
    begin: Callable[[Tree, Tree], Tree] = lambda acc, state: acc


class Stack(NamedTuple):
    """Shared parameters that are several models, of which each client has one.

    Attributes:
        model: of one.
        take: `(params) -> params`, from those of the stack to a client's of `model`;
            what it trains and sends is the change of these.
        received: how many models a client receives in a round.
    """

    model: Model
    take: Callable[[Params], Params]
    received: int = 1


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
        codec: `(round_key) -> codec` of the messages to the server; what all clients of
            a round draw alike comes from its key. `None` sends deltas as they are.
        fixed: groups of the shared parameters that are received and not sent: nobody
            trains them.
        row_basis: `(round_key) -> {name: [r, d]}`: orthonormal rows in whose span the
            steps on a table stay, times `sqrt(d / r)` (low-rank training).
        profiles: `[N, p]` what each client tells of itself beside its delta, for
            aggregators that read it; it lies with the client. `None` is nothing.
        attack: `(result, client_id, key) -> result`, what some clients do to their
            message before it is encoded; `None` for honest clients.
        lifted: rounds train through `model.lift`. Exact where a client descends the
            lifted parameters once, by plain SGD, and the aggregate is linear: the
            gradient of a sum is then the sum of the gradients.
        given: `{name: [N, ...]}`, groups of the personal parameters that start so, not
            as `model.init` draws them: what was decided of each client beforehand.
        stack: where the shared parameters are several models.
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
    codec: Callable[[Array], Codec] | None = None
    fixed: tuple[str, ...] = ()
    row_basis: Callable[[Array], dict[str, Array]] | None = None
    profiles: Any = None
    attack: Callable[[ClientResult, Array, Array], ClientResult] | None = None
    lifted: bool = False
    given: dict[str, Any] | None = None
    stack: Stack | None = None


@struct
class Cohort:
    """Who takes part in a round, and the part of the population where they are found.

    A round may see the whole population, one device's share, or a cohort that was
    brought from the host: `rows` tells where in it a client stands.

    Attributes:
        ids: `[C]` int32 client ids, of which keys are made.
        rows: `[C]` int32, the clients' rows in `personal` and in the clients' data;
            absent ones hold the number of rows or more.
        personal: personal parameters, `[rows, ...]`.
        first: int32 scalar, the slot of the first of them in the whole cohort, of
            which a device may hold a part.
        size: of the whole cohort, where that is more than `ids`.
    """

    ids: Array
    rows: Array
    personal: Tree
    first: Array | int = 0
    size: int = static(default=0)


@struct
class ServerState:
    """What the server carries from round to round.

    Attributes:
        shared: the shared parameters.
        optimizer: state of the server optimizer.
        aggregator: what the aggregator keeps between rounds.
        round: int32 scalar, rounds done.
    """

    shared: Tree
    optimizer: Tree
    round: Array
    aggregator: Tree = ()


class Algorithm(NamedTuple):
    """A recipe bound to its clients' data: two pure functions.

    Attributes:
        init: `(key) -> ServerState`.
        round: `(state, cohort, data, frozen, hparams, key)` to
            `(state, cohort, metrics)`; `key` is the experiment's root key.
    """

    init: Callable[[Array], ServerState]
    round: Callable[..., tuple[ServerState, Cohort, dict[str, Array]]]
