"""Runs points into their folders: together where they share a program, else in turn."""

import concurrent.futures
import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record
from fedjax_rec.experiment.settings import Experiment, MeshConfig
from fedjax_rec.report.write import write_result
from fedjax_rec.runs import tracking
from fedjax_rec.runs.folder import RunFolder, open_run, plain
from fedjax_rec.runs.session import versions
from fedjax_rec.simulation.lanes import Lanes, lay_out
from fedjax_rec.simulation.points import Points, point_bytes
from fedjax_rec.simulation.simulation import Event, Simulation
from fedjax_rec.sweep.grouping import (
    DiffersError,
    common_recipe,
    data_of,
    groups_of,
    scalars_of,
)
from fedjax_rec.sweep.memory import most_points
from fedjax_rec.sweep.store import Point


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told what happens; all do nothing by default.

    Attributes:
        say: a sentence on how points are run.
        round_done: `(point's name, event)`.
        point_done: `(point's name, error or "")`.
        block_done: called after all points that ran side by side are done.
    """

    say: Callable[[str], None] = lambda text: None
    round_done: Callable[[str, Event], None] = lambda name, event: None
    point_done: Callable[[str, str], None] = lambda name, error: None
    block_done: Callable[[], None] = lambda: None


def run_points(
    points: Sequence[Point],
    folder: Path,
    listener: Listener,
    memory: int = 0,
    data: Mapping[str, Interactions] | None = None,
) -> None:
    """Runs points; what one of them meets does not end the others.

    Args:
        points: of any groups.
        folder: of the sweep.
        listener: is told of everything.
        memory: bytes that points beside one another may take; 0 is half of the free.
        data: what is loaded already, by `data_of`.
    """
    data = dict(data or {})
    waiting = [
        [points[i] for i in group]
        for group in groups_of([point.experiment for point in points])
    ]
    while waiting:
        group = waiting.pop(0)
        first = group[0].experiment
        try:
            if data_of(first) not in data:
                data = {data_of(first): first.data.load()}  # one data set at a time
            loaded = data[data_of(first)]
            if len(group) == 1 or not _fits_one_device(first):
                for point in group:
                    try:
                        _alone(point, loaded, folder, listener)
                    except Exception as error:
                        listener.point_done(point.name, _told(error))
                continue
            try:
                recipe = common_recipe([point.experiment for point in group])
                alone = dataclasses.replace(first, mesh=MeshConfig(devices=1))
                simulation = build(alone, data=loaded, recipe_of=recipe)
            except DiffersError as differs:
                parts: dict[Any, list[Point]] = {}
                for point, outcome in zip(group, differs.outcomes, strict=True):
                    parts.setdefault(outcome, []).append(point)
                waiting = [*parts.values(), *waiting]
                continue
        except Exception as error:
            for point in group:
                listener.point_done(point.name, _told(error))
            continue
        _together(group, simulation, loaded, folder, listener, memory)


def _fits_one_device(experiment: Experiment) -> bool:
    """Whether a run asks for no more than a device, so that points can share one."""
    whole = experiment.mesh.model == experiment.mesh.items == 1
    return whole and experiment.store.location in ("auto", "device")


def _together(
    group: list[Point],
    simulation: Simulation,
    data: Interactions,
    folder: Path,
    listener: Listener,
    memory: int,
) -> None:
    done: set[str] = set()
    seeds = [point.experiment.seed for point in group]
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        devices = jax.local_devices()
        each = point_bytes(simulation)
        most = most_points(each, devices, memory)
        blocks = lay_out(
            seeds,
            devices=min(len(devices), len(group)),
            most=most,
            # One lane cannot fill an accelerator; on a CPU it overfills the cache.
            seeds_at_once=devices[0].platform != "cpu",
        )
        shape = blocks[0].points.shape
        listener.say(
            f"{len(group)} points as one program, in blocks of {shape[0]} device(s) x "
            f"{shape[1]} seed(s) x {shape[2]} setting(s), {len(blocks)} in turn; about "
            f"{each / 2**20:,.1f} MiB a point, room for {most} on a device"
        )
        # Baselines know no setting: once a seed, compiled while the rounds compile.
        distinct = list(dict.fromkeys(seeds))
        keys = [jax.random.key(seed) for seed in distinct]
        ranked = pool.submit(simulation.baselines_of, keys)
        programs = Points(simulation, shape, devices)
        for block in blocks:
            for i, history, files in _rounds(block, group, programs, folder, listener):
                found = ranked.result()[distinct.index(seeds[i])]
                files.append(
                    {"event": "baselines", "round": simulation.rounds, **found}
                )
                result = simulation.outcome(history, found)
                _finish(group[i], simulation, result, files)
                done.add(group[i].name)
                listener.point_done(group[i].name, "")
            listener.block_done()
    except Exception as error:
        rest = [point for point in group if point.name not in done]
        listener.say(
            f"the common program failed ({_short(error)}): its {len(rest)} points run "
            "one by one"
        )
        for point in rest:
            try:
                _alone(point, data, folder, listener)
            except Exception as own:
                listener.point_done(point.name, _told(own))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _rounds(
    block: Lanes,
    group: list[Point],
    programs: Points,
    folder: Path,
    listener: Listener,
) -> Iterator[tuple[int, list[Event], RunFolder]]:
    """Runs a block; then each point's position, events and open folder."""
    recipe = programs.simulation.recipe
    here = [int(i) for i in block.points[block.real]]
    history: dict[int, list[Event]] = {i: [] for i in here}
    seeds = [point.experiment.seed for point in group]
    scalars = [scalars_of(recipe, point.experiment) for point in group]
    software = versions()
    with contextlib.ExitStack() as stack:
        folders = {
            i: stack.enter_context(_open(group[i], folder, software, listener.say))
            for i in here
        }
        for i, event in programs.events(block, seeds, scalars):
            history[i].append(event)
            folders[i].append(event)
            listener.round_done(group[i].name, event)
        for i in here:
            yield i, history[i], folders[i]


def _alone(point: Point, data: Interactions, folder: Path, listener: Listener) -> None:
    simulation = build(point.experiment, data=data)
    history: list[Event] = []
    with _open(point, folder, versions(), listener.say) as files:

        def listen(event: Event) -> None:
            history.append(event)
            files.append(event)
            listener.round_done(point.name, event)

        result = simulation.run(listen)
        _finish(point, simulation, result, files)
    listener.point_done(point.name, "")


@contextlib.contextmanager
def _open(
    point: Point, folder: Path, software: dict[str, Any], say: Callable[[str], None]
) -> Iterator[RunFolder]:
    config = plain(point.experiment)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(open_run(folder / point.name, config, software))
        trackers = tracking.start(point.track, files, config, say, group=folder.name)
        stack.push(lambda kind, *_: trackers.close(finished=kind is None))
        files.tracker = trackers
        yield files


def _finish(
    point: Point,
    simulation: Simulation,
    result: dict[str, Any],
    files: RunFolder,
) -> None:
    write_result(files, record(point.experiment, simulation, result), draw=False)


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _told(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(frame[0].filename).name}:{frame[0].lineno})" if frame else ""
    return _short(error) + where
