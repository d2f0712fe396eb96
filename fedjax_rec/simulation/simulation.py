"""The loop: rounds on the device, evaluation between them, results as events."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
from fedjax_rec.simulation.selection import selected_metrics, selection_value
from fedjax_rec.types import Array, Recipe, ServerState, Tree

Event = dict[str, Any]
"""`{"event": "round" | "evaluation" | "baselines", "round": n, ...}`, plain values."""


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

    def events(self) -> Iterator[Event]:
        """Trains, yielding one event a round and one an evaluation.

        Rounds run several at a time, as many as take about half a second, so that a
        progress bar moves and the device is seldom waited for.
        """
        done, at_once = int(self.state.round), 1
        while done < self.rounds:
            until = min(self.rounds, (done // self.eval_every + 1) * self.eval_every)
            count = min(at_once, until - done)
            started = time.perf_counter()
            log = self.advance(count)
            seconds = time.perf_counter() - started
            for i in range(count):
                done += 1
                yield {
                    "event": "round",
                    "round": done,
                    "seconds": seconds / count,
                    **{name: float(column[i]) for name, column in log.items()},
                }
            at_once = max(1, int(0.5 * count / seconds)) if done > 1 else at_once
            if done == until:
                started = time.perf_counter()
                event: Event = {"event": "evaluation", "round": done}
                if "val" in self.targets:
                    event["val"] = self.evaluate("val")
                if not self.recipe.negatives:
                    for part in ("train", "val", "test"):
                        if len(getattr(self.split, part)):
                            event[f"rmse_{part}"] = self.rmse(part)
                value = selection_value(self.protocol.selection, event, self.rounds)
                if value > self.best:  # the test is seen only where validation says
                    self.best = value
                    event["test"] = self.evaluate("test")
                yield {**event, "seconds": time.perf_counter() - started}

    def run(self, listen: Callable[[Event], None] | None = None) -> dict[str, Any]:
        """Trains to the end and evaluates the baselines.

        Args:
            listen: called with every event as it happens.

        Returns:
            The result: `metrics` (`val` and `test` at the selected round), `selected`
            (that round), `baselines`, `protocol`, `rounds`, `seconds`, `history`.
        """
        started = time.perf_counter()
        seconds = {"train": 0.0, "evaluate": 0.0}
        history: list[Event] = []
        for event in self.events():
            history.append(event)
            kind = "train" if event["event"] == "round" else "evaluate"
            seconds[kind] += event["seconds"]
            if listen is not None:
                listen(event)
        begun = time.perf_counter()
        ranked = self.baselines()
        seconds["baselines"] = time.perf_counter() - begun
        event = {"event": "baselines", "round": self.rounds, **ranked}
        history.append(event)
        if listen is not None:
            listen(event)
        seconds["total"] = time.perf_counter() - started
        return {**self.outcome(history, ranked), "seconds": seconds}

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
        popular = baselines.popularity(
            jnp.asarray(self.split.train.item, jnp.int32), num_items
        )

        @jax.jit
        def random(targets, key):
            scorer = baselines.by_user(
                lambda user: baselines.random_scores(key, user, num_items)
            )
            return self._rank(scorer, targets, key)

        @jax.jit
        def popularity(targets, key):
            return self._rank(baselines.by_user(lambda user: popular), targets, key)

        found: list[dict[str, dict[str, Any] | None]] = []
        draws = self.draw_counts(self.rounds, roots)
        for root, drawn in zip(roots, draws, strict=True):
            key = trees.derive(root, trees.Purpose.BASELINE)
            found.append(
                {
                    "random": summarise(random(targets, key), targets.mask),
                    "popularity": summarise(popularity(targets, key), targets.mask),
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
        if not self.recipe.negatives:
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

        found = []
        for root in roots:
            per_user = rank(
                self.data,
                jnp.asarray(users),
                jnp.asarray(clients),
                targets,
                root,
                jnp.int32(rounds),
            )
            summary: dict[str, Any] = summarise(per_user, targets.mask)
            found.append({**summary, "rounds": rounds, "users": len(users)})
        return found
