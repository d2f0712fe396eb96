"""An experiment that is ready to run: rounds, evaluations, snapshots and events."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.newcomers import Newcomers
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Measure
from fedjax_rec.evaluation.selection import selected_metrics
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.profiling.stages import ROUNDS_HERE, on_host
from fedjax_rec.simulation import loop
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.baselines import rank_baselines, rank_draws
from fedjax_rec.simulation.by_hand import ByHand
from fedjax_rec.simulation.evaluation import Evaluator, audiences_of, check_split
from fedjax_rec.simulation.hosted import Hosted
from fedjax_rec.simulation.loop import Event, Lanes, Selection, Snapshot
from fedjax_rec.simulation.parameters import selected_of
from fedjax_rec.simulation.personal import initial_server
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.simulation.rated import rated_parts, settled_for
from fedjax_rec.simulation.resident import Resident, Setup
from fedjax_rec.simulation.round import federated


@dataclasses.dataclass(kw_only=True)
class Simulation(ByHand):
    """A recipe over a population, ready to run.

    Attributes:
        recipe: the system.
        split: train, validation and test.
        targets: users and positives of `"val"`, if there is one, and `"test"`, as NumPy
            arrays.
        data: training data of all clients, as NumPy arrays.
        client_of_user: `[U]` the client that serves each user, `N` for newcomers.
        sampler: draws cohorts.
        cohort_size: `C`, slots of a round.
        chunks: `V` of each bucket.
        protocol: evaluation protocol.
        metric: the protocol's metric, bound to the training data; `None` without one.
        rounds: number of rounds.
        eval_every: rounds between evaluations; the last round is always evaluated.
        seed: seed of everything but the split's and the candidates' own.
        frozen: arrays that no client trains.
        lifted: clients train the table of all items' vectors, see `federated`.
        mesh: the devices; by default only the first.
        hosted: keep personal state and clients' data on the host, and bring each
            cohort's to the devices.
        split_tables: row tables are split over the mesh's axis `parts`.
        folder: folder of the memory maps of personal state on the host.
        notes: facts that belong to the result, by heading.
        digests: hashes of the split's parts and the clients, for a run that continues.
        why: sentences about how it runs.
        user_chunk: users scored at once.
        newcomers: evaluated users without training data. They start like any client,
            and are tuned or reconstructed on what the split shows of them.
        newcomer_chunks: `V` of each bucket of their data.
        programs: compiled programs of the same system, if there are any; others are
            made when they are first run.
        multi_user: whether some clients hold several users.
        state: state of the server.
        history: the events.
        at_rest: whether `snapshot` is possible.
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
    newcomers: Newcomers | None = None
    newcomer_chunks: tuple[int, ...] = ()
    programs: Programs | None = None
    metric: Measure | None = None

    def __post_init__(self) -> None:
        self.protocol, why = settled_for(self.recipe, self.split, self.protocol)
        self.why = (*self.why, *why)
        check_split(self.split, self.protocol)
        self.key = jax.random.key(self.seed)
        self.selection = Selection()
        self.history: list[Event] = []
        self.at_rest = True
        weights = meshes.weight_specs(self.frozen, self.mesh, not self.split_tables)
        self.frozen = meshes.place(self.mesh, self.frozen, weights)
        self._hparams = meshes.place(self.mesh, self.recipe.hparams)
        axis = meshes.client_axis(self.mesh)
        algorithm = federated(
            self.recipe, self.chunks, lifted=self.lifted, devices=axis
        )
        self.state = initial_server(algorithm, self.key, self.mesh, self.split_tables)
        if self.programs is None or not self.programs.serve(self.recipe, self.sampler):
            self.programs = Programs(self.recipe, self.sampler)
        how = (self.programs, self.chunks, self.lifted)
        place = (self.data, self.mesh, self.key, self.eval_every)
        self.setup = Setup(self.recipe, self.sampler, *how, *place)
        store = partial(Hosted, folder=self.folder) if self.hosted else Resident
        self.population = store(self.setup)
        self.audiences = audiences_of(self, self.setup)
        self.evaluator = Evaluator(self)
        self.selected = None

    @property
    def personal(self) -> Tree:
        """Personal parameters `[N, ...]` in the order of the clients."""
        return self.population.personal

    @personal.setter
    def personal(self, personal: Tree) -> None:
        self.population.personal = personal

    @property
    def rated(self) -> tuple[str, ...]:
        """Parts with ratings to predict."""
        return rated_parts(self.recipe, self.split, self.protocol)

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

    def snapshot(self) -> Snapshot:
        """The state of the run; the arrays are the live ones, not copies.

        Raises:
            RuntimeError: a round waits for its evaluation, which a run that continued
                from here would leave out.
        """
        if not self.at_rest:
            raise RuntimeError("a snapshot is taken at rest: after a due evaluation")
        progress = loop.progress_of(int(self.state.round), self.selection)
        return Snapshot({"server": self.state, "personal": self.personal}, progress)

    def restore(self, snapshot: Snapshot, history: Sequence[Event] = ()) -> None:
        """Continues from a snapshot; later results are the same, bit for bit.

        Args:
            snapshot: a snapshot of the same experiment.
            history: the events before it.
        """
        arrays = loop.overwrite(
            {"server": self.state, "personal": self.personal}, snapshot.arrays
        )
        self.state, self.personal = arrays["server"], arrays["personal"]
        self.selection = Selection(
            **{name: snapshot.progress[name] for name in Selection._fields}
        )
        self.history, self.at_rest = list(history), True
        here = self.selection.selected == int(self.state.round) > 0
        self.selected = selected_of(self) if here else None

    def events(
        self,
        rest_every: int = 0,
        profiler: loop.Profiler | None = None,
        until: int | None = None,
    ) -> Iterator[Event]:
        """Trains, yielding one event per round and one per evaluation.

        Args:
            rest_every: also come to rest at multiples of this round; 0 for none.
            profiler: see `loop.Profiler`.
            until: stop after this round, by default after the last.
        """
        lanes = Lanes(
            advance=lambda count: [self.advance(count)],
            evaluate=lambda part, _: [self.evaluate(part)],
            rmse=lambda part, _: [self.rmse(part)],
        )
        for _, event, at_rest in loop.run_lanes(
            self,
            lanes,
            [self.selection.best],
            done=int(self.state.round),
            lost=(0,) if loop.diverged_in(self.history) else (),
            rest_every=rest_every,
            profiler=profiler,
            until=until,
        ):
            self.at_rest = at_rest
            self.history.append(event)
            if "test" in event:
                self.selection = loop.selection_of(self, [event])
                self.selected = selected_of(self)
            yield event

    def run(
        self,
        listen: Callable[[Event], None] | None = None,
        rest: Callable[[Event], None] | None = None,
        rest_every: int = 0,
        profiler: loop.Profiler | None = None,
    ) -> dict[str, Any]:
        """Trains to the end and evaluates the baselines.

        Args:
            listen: called with every event as it happens.
            rest: called after `listen` if `snapshot` is possible; an exception ends the
                run.
            rest_every: see `events`.
            profiler: see `loop.Profiler`.

        Returns:
            The result: `metrics` (`val` and `test` at the selected round; empty if none
            was evaluated), `selected` (that round, or 0), `diverged_in_round` (`None`,
            or the round at which the run stopped, since no client's message was sound
            or the model was not finite), `baselines`, `protocol`, `rounds`, `seconds`
            (of this call), `history`.
        """
        listen = listen or (lambda event: None)
        started = time.perf_counter()
        seconds = {"train": 0.0, "evaluate": 0.0}
        for event in self.events(rest_every, profiler):
            kind = "train" if event["event"] == "round" else "evaluate"
            seconds[kind] += event["seconds"]
            listen(event)
            if rest is not None and self.at_rest:
                rest(event)
        begun = time.perf_counter()
        # They use no device of other processes, so only the first has to rank them.
        ranked = self.baselines() if jax.process_index() == 0 else {}
        seconds["baselines"] = time.perf_counter() - begun
        event = {"event": "baselines", "round": self.rounds, **ranked}
        event["seconds"] = seconds["baselines"]
        self.history.append(event)
        listen(event)
        seconds["total"] = time.perf_counter() - started
        return {**self.outcome(self.history, ranked), "seconds": seconds}

    def outcome(self, history: list[Event], ranked: dict[str, Any]) -> dict[str, Any]:
        """The result of `run` without its seconds, from events and baselines."""
        selected, metrics = selected_metrics(history)
        return {
            "metrics": metrics,
            "selected": selected,
            "diverged_in_round": loop.diverged_in(history),
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
        return rank_baselines(self, [self.key])[0]

    def draw_count(self, rounds: int) -> dict[str, Any] | None:
        """The leak ranker after `rounds` rounds; `None` without sampled negatives."""
        return rank_draws(self, rounds, [self.key])[0]
