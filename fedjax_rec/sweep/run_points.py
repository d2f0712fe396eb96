"""Runs points into their folders: together if they share a program, else in turn."""

import concurrent.futures
import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record
from fedjax_rec.experiment.settings import Experiment, MeshConfig
from fedjax_rec.report.run import write_result
from fedjax_rec.runs import tracking
from fedjax_rec.runs.folder import RunFolder, open_run, plain
from fedjax_rec.runs.session import versions
from fedjax_rec.simulation.baselines import rank_baselines
from fedjax_rec.simulation.cells import Layout, arrange
from fedjax_rec.simulation.loop import Event
from fedjax_rec.simulation.side_by_side import SideBySide
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.sweep.grouping import (
    DiffersError,
    common_recipe,
    data_key,
    groups_of,
    most_points,
    point_bytes,
    scalars_of,
)
from fedjax_rec.sweep.store import Point


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

    A full disk does: every other point would fail by it, after its rounds.

    Args:
        points: points of any groups.
        folder: folder of the sweep.
        listener: callbacks.
        memory: bytes for points side by side; 0 is half of the free memory.
        data: data that are loaded already, by `data_key`.

    Raises:
        DiskFull: a folder has no room.
    """
    data = dict(data or {})
    waiting = [
        [points[i] for i in group]
        for group in groups_of([point.experiment for point in points])
    ]
    while waiting:
        group = waiting.pop(0)
        first, simulation = group[0].experiment, None
        try:
            if data_key(first) not in data:
                data = {data_key(first): first.data.load()}  # one data set at a time
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
            waiting = [*parts.values(), *waiting]
        except DiskFull:
            raise
        except Exception as error:
            for point in group:
                listener.point_done(point.name, _reason(error))
        else:
            if simulation is None:
                _run_in_turn(group, loaded, folder, listener)
            else:
                _run_together(group, simulation, loaded, folder, listener, memory)


def _fits_one_device(experiment: Experiment) -> bool:
    """Whether a run needs only one device, so that points can share it."""
    one_part = experiment.mesh.model == experiment.mesh.items == 1
    return one_part and experiment.store.location in ("auto", "device")


def _run_together(
    group: list[Point],
    simulation: Simulation,
    data: Interactions,
    folder: Path,
    listener: Listener,
    memory: int,
) -> None:
    """Runs a group as one program; in turn if that fails."""
    unfinished = dict(enumerate(group))
    seeds = [point.experiment.seed for point in group]
    scalars = [scalars_of(simulation.recipe, point.experiment) for point in group]
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        devices = jax.local_devices()
        layouts = _layouts(simulation, seeds, devices, memory, listener.say)
        # Baselines depend on the seed only, and compile while the rounds compile.
        distinct = list(dict.fromkeys(seeds))
        keys = [jax.random.key(seed) for seed in distinct]
        ranked = pool.submit(rank_baselines, simulation, keys)

        def baselines_of(i: int) -> dict[str, Any]:
            return ranked.result()[distinct.index(seeds[i])]

        programs = SideBySide(simulation, layouts[0].index.shape, devices)
        for layout in layouts:
            points = {int(i): group[i] for i in layout.index[layout.real]}
            events = programs.events(layout, seeds, scalars)
            for i in _write(points, simulation, events, baselines_of, folder, listener):
                del unfinished[i]
            listener.block_done()
    except DiskFull:
        raise
    except Exception as error:
        listener.say(
            f"the common program failed ({_short(error)}): its {len(unfinished)} "
            "points run one by one"
        )
        _run_in_turn(unfinished.values(), data, folder, listener)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _layouts(
    simulation: Simulation, seeds: list[int], devices: list[Any], memory: int, say
) -> list[Layout]:
    """The layouts of a group, as many points at once as fit."""
    each = point_bytes(simulation)
    most = most_points(each, devices, memory)
    layouts = arrange(
        seeds,
        devices=min(len(devices), len(seeds)),
        most=most,
        # One row cannot fill an accelerator; on a CPU it overfills the cache.
        seeds_at_once=devices[0].platform != "cpu",
    )
    shape = layouts[0].index.shape
    say(
        f"{len(seeds)} points as one program, in blocks of {shape[0]} device(s) x "
        f"{shape[1]} seed(s) x {shape[2]} setting(s), {len(layouts)} in turn; about "
        f"{each / 2**20:,.1f} MiB a point, room for {most} on a device"
    )
    return layouts


def _run_in_turn(
    points: Iterable[Point], data: Interactions, folder: Path, listener: Listener
) -> None:
    for point in points:
        try:
            simulation = build(point.experiment, data=data)
            events = ((0, event) for event in simulation.events())
            ranked = lambda i, sim=simulation: sim.baselines()  # noqa: E731
            list(_write({0: point}, simulation, events, ranked, folder, listener))
        except DiskFull:
            raise
        except Exception as error:
            listener.point_done(point.name, _reason(error))


def _write(
    points: Mapping[int, Point],
    simulation: Simulation,
    events: Iterable[tuple[int, Event]],
    baselines_of: Callable[[int], dict[str, Any]],
    folder: Path,
    listener: Listener,
) -> Iterator[int]:
    """Writes points into their folders as they run.

    Args:
        points: the points, by position.
        simulation: simulation of one of them.
        events: `(position, event)` as they happen.
        baselines_of: `(position) -> baselines`, called after the last event.
        folder: folder of the sweep.
        listener: callbacks.

    Yields:
        The position of each point when its result is written.
    """
    software = versions()
    history: dict[int, list[Event]] = {i: [] for i in points}
    with contextlib.ExitStack() as stack:
        folders = {
            i: stack.enter_context(_open(point, folder, software, listener.say))
            for i, point in points.items()
        }
        for i, event in events:
            history[i].append(event)
            folders[i].append(event)
            listener.round_done(points[i].name, event)
        for i, point in points.items():
            baselines = baselines_of(i)
            event = {"event": "baselines", "round": simulation.rounds, **baselines}
            folders[i].append(event)
            result = simulation.outcome(history[i], baselines)
            result = record(point.experiment, simulation, result)
            write_result(folders[i], result, draw=False)
            listener.point_done(point.name, "")
            yield i


@contextlib.contextmanager
def _open(
    point: Point, folder: Path, software: dict[str, Any], say: Callable[[str], None]
) -> Iterator[RunFolder]:
    """The folder of a point, with its trackers."""
    config = plain(point.experiment)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(open_run(folder / point.name, config, software))
        trackers = tracking.start(point.track, files, config, say, group=folder.name)
        stack.push(lambda kind, *_: trackers.close(finished=kind is None))
        files.tracker = trackers
        yield files


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _reason(error: BaseException) -> str:
    """An error in one line, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    places = [f" ({Path(frame.filename).name}:{frame.lineno})" for frame in frames]
    return _short(error) + "".join(places)
