"""Runs points into their folders: together if they share a program, else in turn."""

import concurrent.futures
import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fedjax_rec.core.arrays import Tree
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.returned import load_data
from fedjax_rec.evaluation.per_user import PerUser
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record
from fedjax_rec.experiment.settings import Experiment, MeshConfig
from fedjax_rec.runs.fingerprint import digest, fingerprint
from fedjax_rec.runs.interrupts import Stopped, put_off
from fedjax_rec.runs.session import versions
from fedjax_rec.simulation.baselines import rank_baselines
from fedjax_rec.simulation.loop import Event, Snapshot, progress_of, selection_of
from fedjax_rec.simulation.side_by_side import Arrays, SideBySide
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.sweep.grouping import (
    DiffersError,
    common_recipe,
    data_key,
    groups_of,
    layouts_of,
    scalars_of,
)
from fedjax_rec.sweep.point_run import Pauses, PointRun, open_point, start_round
from fedjax_rec.sweep.store import Point

_ENDING = (DiskFull, Stopped)
"""Errors that end all points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listener:
    """Callbacks for the progress of a sweep, all empty by default.

    Attributes:
        say: `(sentence)` about how points run.
        round_done: `(point's name, event)`.
        point_done: `(point's name, error or "")`.
        block_done: called when all points that ran side by side are done.
    """

    say: Callable[[str], None] = lambda text: None
    round_done: Callable[[str, Event], None] = lambda name, event: None
    point_done: Callable[[str, str], None] = lambda name, error: None
    block_done: Callable[[], object] = lambda: None


def run_points(
    points: Sequence[Point],
    folder: Path,
    listener: Listener,
    memory: int = 0,
    data: Mapping[str, Interactions] | None = None,
) -> None:
    """Runs points; an error of one of them does not end the others.

    A full disk does: every other point would fail by it, after its rounds. Points that
    a signal stopped go on from their checkpoints, together if they are equally far.

    Args:
        points: points of any groups.
        folder: folder of the sweep.
        listener: callbacks.
        memory: bytes for points side by side; 0 is half of the free memory.
        data: data that are loaded already, by `data_key`.

    Raises:
        DiskFull: a folder has no room.
        Stopped: a signal asked for it; the points that ran have checkpoints.
    """
    with put_off() as signalled:
        _Runner(folder, listener, memory, Pauses(signalled)).run(points, data or {})


@dataclasses.dataclass(frozen=True)
class _Runner:
    """Runs points into a folder.

    Attributes:
        folder: folder of the sweep.
        listener: callbacks.
        memory: bytes for points side by side.
        pauses: decides when points are saved and stop.
    """

    folder: Path
    listener: Listener
    memory: int
    pauses: Pauses

    def run(self, points: Sequence[Point], data: Mapping[str, Interactions]) -> None:
        """Runs all points, group by group."""
        data, waiting = dict(data), self._groups(points)
        while waiting:
            self.pauses.check()
            group, done = waiting.pop(0)
            first, simulation = group[0].experiment, None
            try:
                if data_key(first) not in data:
                    data = {data_key(first): load_data(first.data)}  # one at a time
                loaded = data[data_key(first)]
                if len(group) > 1 and _fits_one_device(first):
                    simulation = build(
                        dataclasses.replace(first, mesh=MeshConfig(devices=1)),
                        data=loaded,
                        recipe_of=common_recipe([point.experiment for point in group]),
                    )
            except DiffersError as differs:
                parts: dict[Any, list[Point]] = {}
                for point, outcome in zip(group, differs.outcomes, strict=True):
                    parts.setdefault(outcome, []).append(point)
                waiting = [*((part, done) for part in parts.values()), *waiting]
            except _ENDING:
                raise
            except Exception as error:
                for point in group:
                    self.listener.point_done(point.name, _reason(error))
            else:
                if simulation is None:
                    self._in_turn(group, loaded)
                else:
                    self._together(group, simulation, loaded, done)

    def _groups(self, points: Sequence[Point]) -> list[tuple[list[Point], int]]:
        """Points that may share a program, and the round that they start from."""
        software, groups = versions(), []
        for group in groups_of([point.experiment for point in points]):
            by_round: dict[int, list[Point]] = {}
            for point in (points[i] for i in group):
                done = start_round(point, self.folder, software)
                by_round.setdefault(done, []).append(point)
            groups += [(part, done) for done, part in by_round.items()]
        return groups

    def _together(
        self, group: list[Point], simulation: Simulation, data: Interactions, done: int
    ) -> None:
        """Runs a group as one program; in turn if that fails."""
        unfinished = dict(enumerate(group))
        seeds = [point.experiment.seed for point in group]
        scalars = [scalars_of(simulation.recipe, point.experiment) for point in group]
        pool = concurrent.futures.ThreadPoolExecutor(1)
        try:
            devices = jax.local_devices()
            layouts = layouts_of(
                simulation, seeds, devices, self.memory, self.listener.say
            )
            # Baselines depend on the seed only, and compile while the rounds compile.
            distinct = list(dict.fromkeys(seeds))
            keys = [jax.random.key(seed) for seed in distinct]
            ranked = pool.submit(rank_baselines, simulation, keys)

            def baselines_of(i: int) -> dict[str, Any]:
                return ranked.result()[distinct.index(seeds[i])]

            programs = SideBySide(simulation, layouts[0].index.shape, devices)
            for layout in layouts:
                points = {int(i): group[i] for i in layout.index[layout.real]}
                with self._opened(points, simulation, scalars, done) as runs:
                    starts = {i: run.start for i, run in runs.items() if run.start}
                    lost = [i for i, run in runs.items() if run.diverged]
                    events = programs.events(layout, seeds, scalars, starts, lost)
                    users_of = programs.users.get
                    for i in self._write(
                        runs, simulation, events, baselines_of, users_of
                    ):
                        del unfinished[i]
                self.listener.block_done()
        except _ENDING:
            raise
        except Exception as error:
            self.listener.say(
                f"the common program failed ({_short(error)}): its {len(unfinished)} "
                "points run one by one"
            )
            self._in_turn(unfinished.values(), data)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _in_turn(self, points: Iterable[Point], data: Interactions) -> None:
        for point in points:
            self.pauses.check()
            try:
                self._alone(point, data)
            except _ENDING:
                raise
            except Exception as error:
                self.listener.point_done(point.name, _reason(error))

    def _alone(self, point: Point, data: Interactions) -> None:
        """Runs a point by a program of its own."""
        done = start_round(point, self.folder, versions())
        simulation = build(point.experiment, data=data)

        def arrays_of(i: int) -> Tree:
            return simulation.snapshot().arrays

        scalars = [dict(simulation.recipe.hparams)]
        with self._opened({0: point}, simulation, scalars, done) as runs:
            if runs[0].start is not None:
                simulation.restore(runs[0].start, runs[0].history)
            events = (
                (0, event, arrays_of if simulation.at_rest else None)
                for event in simulation.events()
            )
            baselines_of = lambda i: simulation.baselines()  # noqa: E731
            users_of = lambda i: simulation.users()  # noqa: E731
            list(self._write(runs, simulation, events, baselines_of, users_of))

    @contextlib.contextmanager
    def _opened(
        self,
        points: Mapping[int, Point],
        simulation: Simulation,
        scalars: Sequence[Mapping[str, Any]],
        done: int,
    ) -> Iterator[dict[int, PointRun]]:
        """The runs of points, by position, that start after `done` rounds."""
        software, prepared = versions(), fingerprint(simulation)
        like = jax.device_get(simulation.snapshot().arrays) if done else None
        with contextlib.ExitStack() as stack:
            runs = {}
            for i, point in points.items():
                own = {**prepared, "hparams": digest(scalars[i])}
                facts = {**software, "prepared": own}
                opened = open_point(point, self.folder, facts, self.listener.say, like)
                runs[i] = stack.enter_context(opened)
            yield runs

    def _write(
        self,
        runs: Mapping[int, PointRun],
        simulation: Simulation,
        events: Iterable[tuple[int, Event, Arrays | None]],
        baselines_of: Callable[[int], dict[str, Any]],
        users_of: Callable[[int], PerUser | None],
    ) -> Iterator[int]:
        """Writes points into their folders as they run.

        Args:
            runs: the points, by position.
            simulation: simulation of one of them.
            events: as `SideBySide.events` yields them.
            baselines_of: `(position) -> baselines`, called after the last event.
            users_of: `(position) -> metrics of each test user`, called after the test
                was evaluated.

        Yields:
            The position of each point when its result is written.
        """
        for i, event, arrays_of in events:
            runs[i].take(event)
            if "test" in event:  # the round that is selected so far
                runs[i].folder.write_users(users_of(i))
            self.listener.round_done(runs[i].point.name, event)
            if arrays_of is not None and self.pauses.is_due():
                for j, run in runs.items():
                    selection = selection_of(simulation, run.history)
                    progress = progress_of(event["round"], selection)
                    run.save(Snapshot(arrays_of(j), progress))
                self.pauses.saved(event["round"])
        for i, run in runs.items():
            baselines = baselines_of(i)
            run.take({"event": "baselines", "round": simulation.rounds, **baselines})
            result = simulation.outcome(run.history, baselines)
            run.finish(record(run.point.experiment, simulation, result))
            self.listener.point_done(run.point.name, "")
            yield i


def _fits_one_device(experiment: Experiment) -> bool:
    """Whether a run needs only one device, so that points can share it."""
    one_part = experiment.mesh.model == experiment.mesh.items == 1
    return one_part and experiment.store.location in ("auto", "device")


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _reason(error: BaseException) -> str:
    """An error in one line, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    places = [f" ({Path(frame.filename).name}:{frame.lineno})" for frame in frames]
    return _short(error) + "".join(places)
