"""The loop of rounds and evaluations, for one experiment or several side by side.

A snapshot is the state of a run between two events, from which it can continue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from fedjax_rec.core.arrays import Tree
from fedjax_rec.evaluation.protocol import is_selected, selection_value

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
    rest_every: int = 0,
    profiler: Profiler | None = None,
) -> Iterator[tuple[int, Event, bool]]:
    """Trains, with one event per lane and round, and one per lane and evaluation.

    Args:
        sim: rounds and evaluations, common to all lanes.
        lanes: the experiments.
        best: validation value of each lane's selected round so far.
        done: finished rounds.
        rest_every: also come to rest at multiples of this round; 0 for none.
        profiler: see `Profiler`.

    Yields:
        The lane, its event, and whether it is at rest: no evaluation is due.
    """
    best, at_once = list(best), 1
    stops = [every for every in (sim.eval_every, rest_every) if every]
    while done < sim.rounds:
        until = min(sim.rounds, *((done // every + 1) * every for every in stops))
        if profiler is not None:
            until = min(until, done + profiler(done))
        # Several processes take the same steps, however fast each of them is.
        count = until - done
        if jax.process_count() == 1:
            count = min(at_once, count)
        started = time.perf_counter()
        logs = lanes.advance(count)
        seconds = time.perf_counter() - started
        due = (done + count) % sim.eval_every == 0 or done + count == sim.rounds
        for i in range(count):
            done += 1
            event = {"event": "round", "round": done}
            event["seconds"] = seconds / count / len(logs)
            for lane, log in enumerate(logs):
                metrics = {name: float(column[i]) for name, column in log.items()}
                yield lane, {**event, **metrics}, i == count - 1 and not due
        if done > 1:  # the first round compiles
            at_once = max(1, int(PROGRAM_SECONDS * count / seconds))
        if due:
            for lane, event in enumerate(_evaluate(sim, lanes, best, done)):
                yield lane, event, True
    if profiler is not None:
        profiler(done)


def _evaluate(sim: Simulation, lanes: Lanes, best: list[float], done: int):
    """Evaluates all lanes, and updates `best`."""
    started = time.perf_counter()
    every = range(len(best))
    events: list[Event] = [{"event": "evaluation", "round": done} for _ in every]
    if "val" in sim.targets:
        for event, metrics in zip(events, lanes.evaluate("val", every), strict=True):
            event["val"] = metrics
    for part in sim.rated:
        for event, value in zip(events, lanes.rmse(part, every), strict=True):
            event[f"rmse_{part}"] = value
    values = [
        selection_value(sim.protocol.selection, event, sim.rounds) for event in events
    ]
    # The test part is ranked only if validation improved.
    improved = [
        lane for lane in every if is_selected(sim.protocol, values[lane], best[lane])
    ]
    if improved:
        tests = lanes.evaluate("test", improved)
        for lane, metrics in zip(improved, tests, strict=True):
            best[lane] = values[lane]
            events[lane]["test"] = metrics
    seconds = (time.perf_counter() - started) / len(events)
    return [{**event, "seconds": seconds} for event in events]


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
