"""The loop: rounds on the device, evaluation between them, results as events."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.pack import pack
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation import baselines
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.selection import selected_metrics, selection_value
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.profiling.stages import EVALUATION_HERE, ROUNDS_HERE, on_host
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.evaluation import (
    by_bucket,
    deal_users,
    make_evaluate,
    make_squares,
    take_users,
    target_specs,
)
from fedjax_rec.simulation.hosted import Hosted
from fedjax_rec.simulation.leak import count_draws
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.resident import Block, Resident
from fedjax_rec.simulation.round import federated

Event = dict[str, Any]
"""`{"event": "round" | "evaluation" | "baselines", "round": n, ...}`, plain values."""


class Snapshot(NamedTuple):
    """What a run that continues needs beside its experiment: nothing frozen, no keys.

    Attributes:
        arrays: `{"server": ServerState, "personal": [N, ...]}`, JAX or NumPy leaves.
        progress: plain values: `round` (rounds done), `best` (validation's value at
            the selected round), `selected` and its `metrics`.
    """

    arrays: Tree
    progress: dict[str, Any]


@dataclasses.dataclass(kw_only=True)
class Simulation:
    """A recipe over a population, ready to run.

    Attributes:
        recipe: the system.
        split: train, validation and test.
        targets: of `"val"`, if there is one, and `"test"`, as NumPy arrays.
        data: the clients' training data, as NumPy arrays.
        client_of_user: `[U]` the client that serves each user.
        sampler: who takes part.
        cohort_size: `C`, what the sampler returns.
        chunks: `V` of each bucket.
        protocol: of the evaluation.
        rounds: to train.
        eval_every: rounds between evaluations; the last round is always evaluated.
        seed: of everything but the split's and the candidates' own.
        frozen: arrays no client trains.
        lifted: clients train the table of all items' vectors, see `federated`.
        mesh: the devices; by default the first alone.
        hosted: keep personal state and clients' data on the host, and bring each
            cohort's to the devices.
        split_tables: row tables lie over the mesh's axis `parts`.
        folder: where personal state on the host is a memory map.
        notes: facts that belong to the result, by heading.
        digests: of the split's parts and the clients, for a run that continues.
        why: sentences on how it runs.
        user_chunk: users scored at once.
        leak_rounds: at most so many rounds of draws are counted.
        leak_cells: at most so many (user, item) counts; users are subsampled to fit.
    """

    recipe: Recipe
    split: Split
    targets: dict[str, Targets]
    data: ClientData
    client_of_user: np.ndarray
    sampler: Sampler
    cohort_size: int
    chunks: tuple[int, ...]
    protocol: Protocol
    rounds: int
    eval_every: int
    seed: int = 0
    frozen: Tree = ()
    lifted: bool = False
    mesh: Mesh = dataclasses.field(default_factory=lambda: meshes.make_mesh(1))
    hosted: bool = False
    split_tables: bool = False
    folder: Path | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    why: tuple[str, ...] = ()
    user_chunk: int = 64
    multi_user: bool = False
    leak_rounds: int = 100
    leak_cells: int = 1 << 26

    def __post_init__(self) -> None:
        if not len(self.split.test):
            raise ValueError("the split leaves no test interactions: hold some out")
        if not len(self.split.val) and self.protocol.selection != "last":
            raise ValueError(
                "the split leaves no validation interactions to select the best round "
                "by: use a split with validation, or protocol.selection='last'"
            )
        self.best = -np.inf
        self.selected = 0
        self.metrics: dict[str, Any] = {}
        self.history: list[Event] = []
        self.at_rest = True
        self.key = jax.random.key(self.seed)
        mesh, whole = self.mesh, EVERYWHERE
        axis = None if mesh.size == 1 else meshes.CLIENTS
        algorithm = federated(
            self.recipe, self.chunks, lifted=self.lifted, devices=axis
        )
        # A copy: rounds donate it, and a model may hold what it starts from.
        state = jax.tree.map(jnp.copy, algorithm.init(self.key))
        specs = jax.tree.map(lambda _: whole, state)
        tables = meshes.table_specs(state.shared, mesh, self.split_tables)
        self.state: ServerState = meshes.place(
            mesh, state, dataclasses.replace(specs, shared=tables)
        )
        split_weights = meshes.weight_specs(self.frozen, mesh, not self.split_tables)
        self.frozen = meshes.place(mesh, self.frozen, split_weights)
        where = (self.sampler, self.data, mesh, self.key, self.eval_every)
        self.population: Hosted | Resident
        if self.hosted:
            self.population = Hosted(self.recipe, algorithm, *where, self.folder)
        else:
            self.population = Resident(self.recipe, algorithm, *where)
        self._placed: dict[tuple, tuple[Targets, Array]] = {}
        self._hparams = meshes.place(mesh, self.recipe.hparams)
        self._keys = meshes.place(
            mesh, (self.key, keys.derive(self.key, keys.Purpose.EVALUATION))
        )
        run = make_evaluate(
            self.recipe, self.protocol, self.user_chunk, self.chunks, axis
        )
        squares = make_squares(self.recipe, axis=axis)

        def evaluate_block(
            bucket, state, personal, targets, clients, rows, data, *rest
        ):
            inputs = (state, personal, targets, clients, rows, data, *rest)
            one = functools.partial(run, bucket)
            if axis is None:
                return one(*inputs)
            specs = (whole, DEALT, target_specs(targets), DEALT, DEALT)
            specs += (meshes.client_specs(data), *(whole,) * len(rest))
            return meshes.run_dealt(one, mesh, specs, DEALT)(*inputs)

        def squares_block(*inputs):
            if axis is None:
                return squares(*inputs)
            specs = (whole, *(DEALT,) * 5, whole)
            return meshes.run_dealt(squares, mesh, specs, DEALT)(*inputs)

        self._evaluate = jax.jit(evaluate_block, static_argnums=0)
        self._squares = jax.jit(squares_block)

    @property
    def personal(self) -> Tree:
        """Personal parameters `[N, ...]` in the order of the clients."""
        return self.population.personal

    @personal.setter
    def personal(self, personal: Tree) -> None:
        self.population.personal = personal

    @on_host(ROUNDS_HERE)
    def advance(self, count: int) -> dict[str, np.ndarray]:
        """Runs `count` rounds, at most `eval_every`, and returns their metrics.

        Raises:
            ValueError: `count` is not in `[1, eval_every]`: the log would not hold it.
        """
        if not 1 <= count <= self.eval_every:
            raise ValueError(f"advance by 1 to {self.eval_every} rounds, got {count}")
        self.state, log = self.population.advance(
            self.state, self.frozen, self._hparams, count
        )
        return log

    @on_host(EVALUATION_HERE)
    def evaluate(self, part: str) -> dict[str, float]:
        """Means and dispersion over the users of `"val"` or `"test"`."""
        targets = self.targets[part]
        users = np.asarray(targets.user)
        groups = [(0, np.arange(len(users)))]
        if self.protocol.evaluated != "aggregated":
            groups = by_bucket(users, self.data, self.client_of_user)
        found, masks, owners = [], [], []
        for bucket, at in groups:
            clients = self.client_of_user[users[at]]
            for block in self.population.blocks(clients):
                name = (part, bucket) if self.population.still else None
                mine, ids = self._deal(targets, at, clients, block, name)
                found.append(
                    self._evaluate(
                        bucket,
                        self.state,
                        block.personal,
                        mine,
                        ids,
                        block.rows,
                        block.data,
                        self.frozen,
                        self._hparams,
                        *self._keys,
                    )
                )
                masks.append(mine.mask)
                owners.append(np.where(block.order >= 0, clients[block.order], -1))
        joined, mask = found[0], masks[0]
        if len(found) > 1:
            joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
            mask = jnp.concatenate(masks)
        several = np.concatenate(owners) if self.multi_user else None
        return summarise(joined, mask, several)

    def _owners(self, targets: Targets) -> np.ndarray | None:
        """The users' clients, where some client holds several users."""
        if not self.multi_user:
            return None
        return self.client_of_user[np.asarray(targets.user)]

    def _deal(
        self, targets: Targets, at: np.ndarray, clients: np.ndarray, block: Block, name
    ) -> tuple[Targets, Array]:
        """A block's users and their clients' ids, each where its client lies."""
        if name in self._placed:
            return self._placed[name]
        order = block.order
        ids = np.where(order >= 0, clients[order], self.data.num_clients)
        dealt = (
            deal_users(self.mesh, targets, np.where(order >= 0, at[order], -1)),
            meshes.place(self.mesh, ids.astype(np.int32), DEALT),
        )
        if name is not None:
            self._placed[name] = dealt
        return dealt

    @on_host(EVALUATION_HERE)
    def rmse(self, part: str) -> float:
        """Root mean squared error of the ratings of a part, for explicit feedback."""
        rows = getattr(self.split, part)
        dtype = self.data.interactions.columns["rating"].dtype

        def take(at: np.ndarray) -> tuple[np.ndarray, ...]:
            some = np.where(at >= 0, at, 0)
            user, item, rating = rows.user[some], rows.item[some], rows.rating[some]
            return at >= 0, user, item, rating.astype(dtype)

        total = 0.0
        for block in self.population.blocks(self.client_of_user[rows.user]):
            real, *mine = meshes.place_taken(self.mesh, block.order, take)
            squares = self._squares(
                self.state, block.personal, block.rows, *mine, self.frozen
            )
            total += float(jnp.where(real, squares, 0).sum())
        return float(np.sqrt(total / len(rows)))

    def snapshot(self) -> Snapshot:
        """The run as it stands; the arrays are the live ones, not copies.

        Raises:
            RuntimeError: a round waits for its evaluation: who continued from there
                would leave it out.
        """
        if not self.at_rest:
            raise RuntimeError("a snapshot is taken at rest: after a due evaluation")
        progress = {
            "round": int(self.state.round),
            "best": float(self.best),
            "selected": self.selected,
            "metrics": self.metrics,
        }
        return Snapshot({"server": self.state, "personal": self.personal}, progress)

    def restore(self, snapshot: Snapshot, history: Sequence[Event] = ()) -> None:
        """Stands where `snapshot` was taken; what follows is the same, bit for bit.

        Args:
            snapshot: of a simulation of the same experiment.
            history: the events before it.
        """
        # NumPy leaves are written where they are: they may lie in a mapped file.
        arrays = jax.tree.map(
            _put_in_place,
            {"server": self.state, "personal": self.personal},
            snapshot.arrays,
        )
        self.state, self.personal = arrays["server"], arrays["personal"]
        self.best = snapshot.progress["best"]
        self.selected = snapshot.progress["selected"]
        self.metrics = snapshot.progress["metrics"]
        self.history = list(history)
        self.at_rest = True

    def events(
        self, rest_every: int = 0, watch: Callable[[int], int] | None = None
    ) -> Iterator[Event]:
        """Trains, yielding one event a round and one an evaluation.

        Rounds run several at a time, as many as take about half a second, so that a
        progress bar moves and the device is seldom waited for. `at_rest` says whether
        a snapshot can be taken when an event is yielded.

        Args:
            rest_every: come to rest at multiples of this round, too; 0 is wherever it
                happens.
            watch: told the rounds done before each program of rounds and after the
                last; answers how many it may hold.
        """
        done, at_once, several = int(self.state.round), 1, jax.process_count() > 1
        while done < self.rounds:
            stops = [every for every in (self.eval_every, rest_every) if every]
            until = min(self.rounds, *((done // n + 1) * n for n in stops))
            if watch is not None:
                until = min(until, done + watch(done))
            # Several processes take the same steps, however fast each of them is.
            count = until - done if several else min(at_once, until - done)
            started = time.perf_counter()
            log = self.advance(count)
            seconds = time.perf_counter() - started
            due = (done + count) % self.eval_every == 0 or done + count == self.rounds
            for i in range(count):
                done += 1
                self.at_rest = i == count - 1 and not due
                yield self._keep(
                    {
                        "event": "round",
                        "round": done,
                        "seconds": seconds / count,
                        **{name: float(column[i]) for name, column in log.items()},
                    }
                )
            at_once = max(1, int(0.5 * count / seconds)) if done > 1 else at_once
            if due:
                started = time.perf_counter()
                event: Event = {"event": "evaluation", "round": done}
                if "val" in self.targets:
                    event["val"] = self.evaluate("val")
                if not self.recipe.local.negatives:
                    for part in ("train", "val", "test"):
                        if len(getattr(self.split, part)):
                            event[f"rmse_{part}"] = self.rmse(part)
                value = selection_value(self.protocol.selection, event, self.rounds)
                if value > self.best:  # the test is seen only where validation says
                    self.best = value
                    event["test"] = self.evaluate("test")
                self.at_rest = True
                event["seconds"] = time.perf_counter() - started
                yield self._keep(event)
        if watch is not None:
            watch(done)

    def _keep(self, event: Event) -> Event:
        """Adds an event to the history, and what it selects to the result."""
        self.history.append(event)
        if "test" in event:
            self.selected, self.metrics = selected_metrics([event])
        return event

    def run(
        self,
        listen: Callable[[Event], None] | None = None,
        rest: Callable[[Event], None] | None = None,
        rest_every: int = 0,
        watch: Callable[[int], int] | None = None,
    ) -> dict[str, Any]:
        """Trains to the end and evaluates the baselines.

        Args:
            listen: called with every event as it happens.
            rest: called with an event after `listen` where `snapshot()` is possible;
                what it raises ends the run.
            rest_every: see `events`.
            watch: see `events`.

        Returns:
            The result: `metrics` (`val` and `test` at the selected round), `selected`
            (that round), `baselines`, `protocol`, `rounds`, `seconds` (of this call),
            `history`.
        """
        started = time.perf_counter()
        seconds = {"train": 0.0, "evaluate": 0.0}
        for event in self.events(rest_every, watch):
            kind = "train" if event["event"] == "round" else "evaluate"
            seconds[kind] += event["seconds"]
            if listen is not None:
                listen(event)
            if rest is not None and self.at_rest:
                rest(event)
        begun = time.perf_counter()
        # They take no device of other processes, so these need not read them all.
        ranked = self.baselines() if jax.process_index() == 0 else {}
        seconds["baselines"] = time.perf_counter() - begun
        event = {"event": "baselines", "round": self.rounds, **ranked}
        event["seconds"] = seconds["baselines"]
        self.history.append(event)
        if listen is not None:
            listen(event)
        seconds["total"] = time.perf_counter() - started
        return {**self.outcome(self.history, ranked), "seconds": seconds}

    def outcome(self, history: list[Event], ranked: dict[str, Any]) -> dict[str, Any]:
        """What `run` returns but for its seconds, of a run's events and baselines."""
        selected, metrics = selected_metrics(history)
        return {
            "metrics": metrics,
            "selected": selected,
            "baselines": ranked,
            "protocol": {
                **dataclasses.asdict(self.protocol),
                "split": self.split.name,
                "split_info": dict(self.split.info),
            },
            "rounds": self.rounds,
            "history": history,
        }

    def baselines(self) -> dict[str, dict[str, Any] | None]:
        """Random, popularity and draw-count rankers on the test users."""
        return self.baselines_of([self.key])[0]

    def baselines_of(
        self, roots: Sequence[Array]
    ) -> list[dict[str, dict[str, Any] | None]]:
        """The baselines of runs that differ by seed alone, by their root keys."""
        targets, num_items = self.targets["test"], self.data.num_items
        counts = np.bincount(self.split.train.item, minlength=num_items)
        popular = jnp.asarray(counts, jnp.float32)

        @jax.jit
        def random(targets, key):
            scorer = baselines.by_user(
                lambda user: baselines.random_scores(key, user, num_items)
            )
            return self._rank(scorer, targets, key)

        @jax.jit
        def popularity(targets, key):
            return self._rank(baselines.by_user(lambda user: popular), targets, key)

        beside = (targets.mask, self._owners(targets))
        found: list[dict[str, dict[str, Any] | None]] = []
        draws = self.draw_counts(self.rounds, roots)
        for root, drawn in zip(roots, draws, strict=True):
            key = keys.derive(root, keys.Purpose.BASELINE)
            found.append(
                {
                    "random": summarise(random(targets, key), *beside),
                    "popularity": summarise(popularity(targets, key), *beside),
                    "draw_count": drawn,
                }
            )
        return found

    def _rank(self, scorer, targets: Targets, key: Array) -> dict[str, Array]:
        return evaluate(scorer, targets, self.protocol, key, self.user_chunk)

    def draw_count(self, rounds: int) -> dict[str, Any] | None:
        """The leak ranker after `rounds` rounds; `None` without sampled negatives.

        Counts tie all the time, so its ties are broken at random whatever the
        protocol says: pessimistic ties would hide an early leak.
        """
        return self.draw_counts(rounds, [self.key])[0]

    def draw_counts(
        self, rounds: int, roots: Sequence[Array]
    ) -> list[dict[str, Any] | None]:
        """`draw_count` of runs that differ by seed alone, by their root keys."""
        if not self.recipe.local.negatives:
            return [None] * len(roots)
        rounds = min(rounds, self.leak_rounds)
        protocol = dataclasses.replace(self.protocol, ties="random")
        targets, num_items = self.targets["test"], self.data.num_items
        most = max(1, self.leak_cells // num_items)
        every = np.asarray(targets.user)
        step = -(-len(every) // most)
        targets = take_users(targets, np.arange(0, len(every), step))
        users = np.asarray(targets.user)
        clients = np.arange(self.data.num_clients, dtype=np.int32)
        if self.recipe.model.single_user:
            clients = np.unique(self.client_of_user[users]).astype(np.int32)

        # Laid out again: where they live, other devices hold them, or none.
        (data,) = pack(self.data, [clients])
        here = np.arange(len(clients), dtype=np.int32)

        @jax.jit
        def rank(data, users, clients, here, targets, root, rounds):
            counts = count_draws(
                self.recipe, data, self.chunks, users, clients, here, root, 0, rounds
            )
            at = jnp.zeros(data.num_users, jnp.int32)
            at = at.at[users].set(jnp.arange(users.shape[0], dtype=jnp.int32))

            def score(some, candidates):
                mine = -counts[at[some]].astype(jnp.float32)
                if candidates is None:
                    return mine
                return jnp.take_along_axis(mine, candidates, axis=-1)

            return evaluate(score, targets, protocol, root, self.user_chunk)

        found = []
        for root in roots:
            per_user = rank(
                data,
                users,
                clients,
                here,
                targets,
                root,
                np.int32(rounds),
            )
            summary: dict[str, Any] = summarise(
                per_user, targets.mask, self._owners(targets)
            )
            found.append({**summary, "rounds": rounds, "users": len(users)})
        return found


def _put_in_place(old: Any, new: Any) -> Any:
    """`new` where `old` lies: on the same devices, or in the same memory."""
    if isinstance(old, np.ndarray):
        old[...] = new
        return old
    whole = np.array(new)  # a copy: rounds donate what they are given
    return jax.make_array_from_callback(whole.shape, old.sharding, whole.__getitem__)
