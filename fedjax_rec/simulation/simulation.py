"""The loop: rounds on the device, evaluation between them, results as events."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import trees
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation import baselines
from fedjax_rec.evaluation.evaluate import evaluate, summarise
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets, make_targets
from fedjax_rec.simulation.evaluation import (
    by_bucket,
    make_evaluate,
    make_rmse,
    same_shapes,
    take_users,
)
from fedjax_rec.simulation.leak import count_draws
from fedjax_rec.simulation.population import initial_personal, make_run_rounds
from fedjax_rec.simulation.round import make_algorithm
from fedjax_rec.simulation.sampling import Sampler
from fedjax_rec.types import Array, Recipe, ServerState, Tree

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
        data: the clients' training data.
        client_of_user: `[U]` the client that serves each user.
        sampler: who takes part.
        cohort_size: `C`, what the sampler returns.
        chunks: `V` of each bucket.
        protocol: of the evaluation.
        rounds: to train.
        eval_every: rounds between evaluations; the last round is always evaluated.
        seed: of everything but the split's and the candidates' own.
        frozen: arrays no client trains.
        notes: facts that belong to the result, by heading.
        why: sentences on how it runs.
        user_chunk: users scored at once.
        leak_rounds: at most so many rounds of draws are counted.
        leak_cells: at most so many (user, item) counts; users are subsampled to fit.
    """

    recipe: Recipe
    split: Split
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
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    why: tuple[str, ...] = ()
    user_chunk: int = 64
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
        self.algorithm = make_algorithm(self.recipe, self.chunks)
        self.state: ServerState = self.algorithm.init(self.key)
        self.personal: Tree = initial_personal(
            self.recipe, self.key, self.data.num_clients
        )
        parts = [p for p in ("val", "test") if len(getattr(self.split, p))]
        aligned = same_shapes([self._targets(part) for part in parts])
        self.targets = dict(zip(parts, aligned, strict=True))
        self._run_rounds = make_run_rounds(
            self.algorithm, self.sampler, self.eval_every
        )
        self._rmse = jax.jit(make_rmse(self.recipe))
        self._evaluate = jax.jit(
            make_evaluate(self.recipe, self.protocol, self.user_chunk, self.chunks)
        )

    def _targets(self, part: str) -> Targets:
        split = self.split
        known = [split.train] + ([split.val] if part == "test" else [])
        pairs = {
            name: (getattr(split, name).user, getattr(split, name).item)
            for name in ("train", "val", "test")
        }
        if (query := split.info.get("query")) is not None:  # shown of held-out users
            known.append(query)
            pairs["query"] = (query.user, query.item)
        cold = self.protocol.candidates == "cold"
        key = trees.derive(
            jax.random.key(0), trees.Purpose.EVALUATION, 0 if part == "val" else 1
        )
        return make_targets(
            positives=pairs[part],
            known=[(p.user, p.item) for p in known],
            touched=list(pairs.values()),
            pool=split.info.get(f"{part}_items") if cold else None,
            num_users=split.train.num_users,
            num_items=split.train.num_items,
            protocol=self.protocol,
            key=key,
        )

    def advance(self, count: int) -> dict[str, np.ndarray]:
        """Runs `count` rounds, at most `eval_every`, and returns their metrics.

        Raises:
            ValueError: `count` is not in `[1, eval_every]`: the log would not hold it.
        """
        if not 1 <= count <= self.eval_every:
            raise ValueError(f"advance by 1 to {self.eval_every} rounds, got {count}")
        self.state, self.personal, log = self._run_rounds(
            self.state,
            self.personal,
            self.data,
            self.frozen,
            self.recipe.hparams,
            self.key,
            jnp.int32(count),
        )
        return {name: np.asarray(column)[:count] for name, column in log.items()}

    def evaluate(self, part: str) -> dict[str, float]:
        """Means and dispersion over the users of `"val"` or `"test"`."""
        targets: Any = self.targets[part]
        mask = targets.mask
        if self.protocol.evaluated == "tuned":
            targets = by_bucket(targets, self.data, self.client_of_user)
            mask = jnp.concatenate([t.mask for t in targets if t is not None])
        per_user = self._evaluate(
            self.state,
            self.personal,
            targets,
            jnp.asarray(self.client_of_user),
            self.data,
            self.frozen,
            self.recipe.hparams,
            self.key,
            trees.derive(self.key, trees.Purpose.EVALUATION),
        )
        return summarise(per_user, mask)

    def rmse(self, part: str) -> float:
        """Root mean squared error of the ratings of a part, for explicit feedback."""
        rows = getattr(self.split, part)
        dtype = self.data.interactions.columns["rating"].dtype
        return float(
            self._rmse(
                self.state,
                self.personal,
                jnp.asarray(self.client_of_user[rows.user]),
                jnp.asarray(rows.user),
                jnp.asarray(rows.item),
                jnp.asarray(rows.rating, dtype),
                self.frozen,
            )
        )

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

    def events(self, rest_every: int = 0) -> Iterator[Event]:
        """Trains, yielding one event a round and one an evaluation.

        Rounds run several at a time, as many as take about half a second, so that a
        progress bar moves and the device is seldom waited for. `at_rest` says whether
        a snapshot can be taken when an event is yielded.

        Args:
            rest_every: come to rest at multiples of this round, too; 0 is wherever it
                happens.
        """
        done, at_once = int(self.state.round), 1
        while done < self.rounds:
            stops = [every for every in (self.eval_every, rest_every) if every]
            until = min(self.rounds, *((done // n + 1) * n for n in stops))
            count = min(at_once, until - done)
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
                if not self.recipe.negatives:
                    for part in ("train", "val", "test"):
                        if len(getattr(self.split, part)):
                            event[f"rmse_{part}"] = self.rmse(part)
                selection = self.protocol.selection
                value = done if selection == "last" else event["val"][selection]
                if selection == "last" and done < self.rounds:
                    value = -np.inf
                if value > self.best:  # the test is seen only where validation says
                    self.best = value
                    event["test"] = self.evaluate("test")
                self.at_rest = True
                event["seconds"] = time.perf_counter() - started
                yield self._keep(event)

    def _keep(self, event: Event) -> Event:
        """Adds an event to the history, and what it selects to the result."""
        self.history.append(event)
        if "test" in event:
            self.selected = event["round"]
            self.metrics = {k: dict(event[k]) for k in ("val", "test") if k in event}
            for part, values in self.metrics.items():
                if f"rmse_{part}" in event:
                    values["rmse"] = event[f"rmse_{part}"]
        return event

    def run(
        self,
        listen: Callable[[Event], None] | None = None,
        rest: Callable[[Event], None] | None = None,
        rest_every: int = 0,
    ) -> dict[str, Any]:
        """Trains to the end and evaluates the baselines.

        Args:
            listen: called with every event as it happens.
            rest: called with an event after `listen` where `snapshot()` is possible;
                what it raises ends the run.
            rest_every: see `events`.

        Returns:
            The result: `metrics` (`val` and `test` at the selected round), `selected`
            (that round), `baselines`, `protocol`, `rounds`, `seconds` (of this call),
            `history`.
        """
        started = time.perf_counter()
        seconds = {"train": 0.0, "evaluate": 0.0}
        for event in self.events(rest_every):
            kind = "train" if event["event"] == "round" else "evaluate"
            seconds[kind] += event["seconds"]
            if listen is not None:
                listen(event)
            if rest is not None and self.at_rest:
                rest(event)
        begun = time.perf_counter()
        ranked = self.baselines()
        seconds["baselines"] = time.perf_counter() - begun
        event = {"event": "baselines", "round": self.rounds, **ranked}
        event["seconds"] = seconds["baselines"]
        self.history.append(event)
        if listen is not None:
            listen(event)
        seconds["total"] = time.perf_counter() - started
        return {
            "metrics": self.metrics,
            "selected": self.selected,
            "baselines": ranked,
            "protocol": {
                **dataclasses.asdict(self.protocol),
                "split": self.split.name,
                "split_info": dict(self.split.info),
            },
            "rounds": self.rounds,
            "seconds": seconds,
            "history": self.history,
        }

    def baselines(self) -> dict[str, dict[str, Any] | None]:
        """Random, popularity and draw-count rankers on the test users."""
        targets, num_items = self.targets["test"], self.data.num_items
        key = trees.derive(self.key, trees.Purpose.BASELINE)
        popular = baselines.popularity(
            jnp.asarray(self.split.train.item, jnp.int32), num_items
        )
        scorers = {
            "random": baselines.by_user(
                lambda user: baselines.random_scores(key, user, num_items)
            ),
            "popularity": baselines.by_user(lambda user: popular),
        }
        found: dict[str, dict[str, Any] | None] = {}
        for name, scorer in scorers.items():
            run = jax.jit(lambda t, scorer=scorer: self._rank(scorer, t, key))
            found[name] = summarise(run(targets), targets.mask)
        found["draw_count"] = self.draw_count(self.rounds)
        return found

    def _rank(self, scorer, targets: Targets, key: Array) -> dict[str, Array]:
        return evaluate(scorer, targets, self.protocol, key, self.user_chunk)

    def draw_count(self, rounds: int) -> dict[str, Any] | None:
        """The leak ranker after `rounds` rounds; `None` without sampled negatives.

        Counts tie all the time, so its ties are broken at random whatever the
        protocol says: pessimistic ties would hide an early leak.
        """
        if not self.recipe.negatives:
            return None
        rounds = min(rounds, self.leak_rounds)
        protocol = dataclasses.replace(self.protocol, ties="random")
        targets, num_items = self.targets["test"], self.data.num_items
        most = max(1, self.leak_cells // num_items)
        every = np.asarray(targets.user)
        step = -(-len(every) // most)
        targets = take_users(targets, np.arange(0, len(every), step))
        users = np.asarray(targets.user)
        clients = np.arange(self.data.num_clients, dtype=np.int32)
        if self.recipe.single_user:
            clients = np.unique(self.client_of_user[users]).astype(np.int32)

        @jax.jit
        def rank(data, users, clients, targets, root, rounds):
            counts = count_draws(
                self.recipe, data, self.chunks, users, clients, root, 0, rounds
            )
            at = jnp.zeros(data.num_users, jnp.int32)
            at = at.at[users].set(jnp.arange(users.shape[0], dtype=jnp.int32))

            def score(some, candidates):
                mine = -counts[at[some]].astype(jnp.float32)
                if candidates is None:
                    return mine
                return jnp.take_along_axis(mine, candidates, axis=-1)

            return evaluate(score, targets, protocol, root, self.user_chunk)

        per_user = rank(
            self.data,
            jnp.asarray(users),
            jnp.asarray(clients),
            targets,
            self.key,
            jnp.int32(rounds),
        )
        summary: dict[str, Any] = summarise(per_user, targets.mask)
        return {**summary, "rounds": rounds, "users": len(users)}


def _put_in_place(old: Any, new: Any) -> Any:
    """`new` where `old` lies: on the same devices, or in the same memory."""
    if isinstance(old, np.ndarray):
        old[...] = new
        return old
    if old.committed:
        return jax.device_put(new, old.sharding)
    # Committed to a device it would be another program's argument.
    return jnp.array(np.asarray(new))
