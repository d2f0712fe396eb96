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

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree, static, struct


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


@struct
class Participation:
    """Who takes part in a round; slots are int32, absent ones hold `N`.

    Attributes:
        ids: `[C]` ascending, clients whose message arrives and counts.
        invited: `[C]` or more, clients that began: those, and the ones that dropped out
            on the way or came too late.
        told: scalars about them for the round's metrics.
    """

    ids: Array
    invited: Array
    told: dict[str, Array]


class Sampler(NamedTuple):
    """Draws cohorts.

    Attributes:
        sample: `(tables, key of the round, number of the round) -> Participation`,
            pure.
        tables: arrays that `sample` reads; an argument, so that no program holds a copy
            of what is as long as the population.
    """

    sample: Callable[[Tree, Array, Array], Participation]
    tables: Tree = ()

    def __call__(self, key: Array, number: Array | int) -> Participation:
        """One round's draw, from the sampler's own tables."""
        tables = jax.tree.map(jnp.asarray, self.tables)
        return self.sample(tables, key, jnp.asarray(number))
