"""The loop of rounds and evaluations, for one experiment or several side by side.

A snapshot is the state of a run between two events, from which it can continue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from fedjax_rec.core.arrays import Tree
from fedjax_rec.evaluation.selection import (
    is_selected,
    selected_metrics,
    selection_value,
)
from fedjax_rec.simulation.processes import everyones

if TYPE_CHECKING:
    from fedjax_rec.simulation.simulation import Simulation

Event = dict[str, Any]
"""`{"event": "round" | "evaluation" | "baselines", "round": n, ...}`, plain values."""

Profiler = Callable[[int], int]
"""`(rounds done) -> rounds`, called before each program of rounds, which may hold at
most as many, and after the last one."""

PROGRAM_SECONDS = 0.5
"""About how long a program of rounds takes: a progress bar moves, and the host seldom
waits for the device."""


class Lanes(NamedTuple):
    """Experiments that one program runs side by side, each of them a lane.

    Attributes:
        advance: `(count) -> logs`: runs rounds; a dict of metrics `[count]` per lane.
        evaluate: `(part, lanes) -> metrics` of `"val"` or `"test"`, for some lanes.
        rmse: `(part, lanes) -> values` of a rated part, for some lanes.
    """

    advance: Callable[[int], Sequence[dict[str, np.ndarray]]]
    evaluate: Callable[[str, Sequence[int]], Sequence[dict[str, float]]]
    rmse: Callable[[str, Sequence[int]], Sequence[float]]


def run_lanes(
    sim: Simulation,
    lanes: Lanes,
    best: Sequence[float],
    *,
    done: int = 0,
    lost: Iterable[int] = (),
    rest_every: int = 0,
    profiler: Profiler | None = None,
    until: int | None = None,
) -> Iterator[tuple[int, Event, bool]]:
    """Trains, with one event per lane and round, and one per lane and evaluation.

    A lane that diverges has no event after that round. Its program has run on until
    its rounds were read, so the state of the lane is of no use.

    Args:
        sim: rounds and evaluations, common to all lanes.
        lanes: the experiments.
        best: validation value of each lane's selected round so far.
        done: finished rounds.
        lost: lanes that diverged in one of them.
        rest_every: also come to rest at multiples of this round; 0 for none.
        profiler: see `Profiler`.
        until: stop after this round, by default after the last.

    Yields:
        The lane, its event, and whether all lanes are at rest after it: none has
        another event of this round, and a lane that has not diverged can go on.
    """
    best, at_once, lost = list(best), 1, set(lost)
    stops = [every for every in (sim.eval_every, rest_every) if every]
    last = sim.rounds if until is None else min(until, sim.rounds)
    while done < last and len(lost) < len(best):
        stop = min(last, *((done // every + 1) * every for every in stops))
        if profiler is not None:
            stop = min(stop, done + profiler(done))
        # Several processes take the same steps, however fast each of them is.
        count = int(everyones(min(at_once, stop - done))[0])
        started = time.perf_counter()
        logs = lanes.advance(count)
        seconds = time.perf_counter() - started
        due = (done + count) % sim.eval_every == 0 or done + count == sim.rounds
        for i in range(count):
            done += 1
            event = {"event": "round", "round": done}
            event["seconds"] = seconds / count / len(logs)
            metrics = {
                lane: {name: float(column[i]) for name, column in log.items()}
                for lane, log in enumerate(logs)
                if lane not in lost
            }
            lost |= {x for x, m in metrics.items() if not math.isfinite(m["loss"])}
            ends = i == count - 1 and not due and len(lost) < len(best)
            for lane, values in metrics.items():
                yield lane, {**event, **values}, ends and lane == max(metrics)
        if done > 1:  # the first round compiles
            at_once = max(1, int(PROGRAM_SECONDS * count / seconds))
        going = [lane for lane in range(len(best)) if lane not in lost]
        if due and going:
            events = _evaluate(sim, lanes, going, best, done)
            for lane, event in zip(going, events, strict=True):
                yield lane, event, lane == going[-1]
    if profiler is not None:
        profiler(done)


def _evaluate(
    sim: Simulation, lanes: Lanes, going: list[int], best: list[float], done: int
) -> list[Event]:
    """Evaluates the lanes `going`, and updates `best`."""
    started = time.perf_counter()
    events: dict[int, Event] = {
        lane: {"event": "evaluation", "round": done} for lane in going
    }
    if "val" in sim.targets:
        for lane, metrics in zip(going, lanes.evaluate("val", going), strict=True):
            events[lane]["val"] = metrics
    for part in [part for part in sim.rated if part != "test"]:
        for lane, value in zip(going, lanes.rmse(part, going), strict=True):
            events[lane][f"rmse_{part}"] = value
    values = {
        lane: selection_value(sim.protocol, event, sim.rounds)
        for lane, event in events.items()
    }
    # The test part is looked at only if validation improved.
    improved = [
        lane for lane in going if is_selected(sim.protocol, values[lane], best[lane])
    ]
    if improved:
        tests = lanes.evaluate("test", improved)
        for lane, metrics in zip(improved, tests, strict=True):
            best[lane] = values[lane]
            events[lane]["test"] = metrics
        if "test" in sim.rated:
            for lane, value in zip(improved, lanes.rmse("test", improved), strict=True):
                events[lane]["rmse_test"] = value
    seconds = (time.perf_counter() - started) / len(events)
    return [{**event, "seconds": seconds} for event in events.values()]


def diverged_in(events: Iterable[Mapping[str, Any]]) -> int | None:
    """The first round with a loss that is not finite (`null` in a file), or `None`."""
    for event in events:
        if event["event"] == "round" and "loss" in event:
            loss = event["loss"]
            if loss is None or not math.isfinite(loss):
                return event["round"]
    return None


class Snapshot(NamedTuple):
    """The state that a run needs, in addition to its experiment, to continue.

    Attributes:
        arrays: `{"server": ServerState, "personal": [N, ...]}`, JAX or NumPy leaves.
        progress: plain values: `round` (finished rounds), and the fields of
            `Selection`.
    """

    arrays: Tree
    progress: dict[str, Any]


class Selection(NamedTuple):
    """The evaluation that a run is judged by so far.

    Attributes:
        best: its validation value.
        selected: its round.
        metrics: its metrics, by part.
    """

    best: float = -np.inf
    selected: int = 0
    metrics: dict[str, Any] = {}  # noqa: RUF012


def selection_of(sim: Simulation, history: Sequence[Event]) -> Selection:
    """The evaluation that a run is judged by after some events."""
    tested = [event for event in history if "test" in event]
    if not tested:
        return Selection()
    best = selection_value(sim.protocol, tested[-1], sim.rounds)
    return Selection(best, *selected_metrics(tested[-1:]))


def progress_of(done: int, selection: Selection) -> dict[str, Any]:
    """`Snapshot.progress` after `done` rounds."""
    return {"round": done, **selection._asdict(), "best": float(selection.best)}


def overwrite(old: Tree, new: Tree) -> Tree:
    """`new` on the devices of `old`, or written into its memory.

    NumPy leaves of `old` are kept, since they may lie in a mapped file.
    """

    def overwrite_leaf(old: Any, new: Any) -> Any:
        if isinstance(old, np.ndarray):
            old[...] = new
            return old
        array = np.array(new)  # a copy, since rounds donate their state
        return jax.make_array_from_callback(
            array.shape, old.sharding, array.__getitem__
        )

    return jax.tree.map(overwrite_leaf, old, new)
