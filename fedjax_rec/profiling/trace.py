"""Operations that devices ran, as the profiler recorded them, and their summary."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

from fedjax_rec.profiling.programs import Operation, Programs, read_programs
from fedjax_rec.profiling.stages import EVALUATION_HERE, ROUNDS_HERE
from fedjax_rec.profiling.window import MARK

HOST = (ROUNDS_HERE, EVALUATION_HERE)
OPERATIONS = 5
"""Number of kinds of operations in the summary of a part."""

# The lines of an accelerator that hold executed operations; others repeat them.
_RUNS = re.compile(r"XLA Ops|Stream")
# A TPU's operations are called by their whole text: `%fusion.3 = f32[8] fusion(...)`.
_FIRST_NAME = re.compile(r"%?([\w.-]+)")
# Most events of the host's threads, among which a CPU's operations run.
_SKIPPED = ("end: ", "Threadpool")


class Ran(NamedTuple):
    """An operation that ran.

    Attributes:
        device: such as `CPU:0`.
        start: nanoseconds.
        end: nanoseconds.
        program: name of the program, or "".
        name: name within the program.
        operation: its description, guessed from the name if the trace has none.
    """

    device: str
    start: float
    end: float
    program: str
    name: str
    operation: Operation


class Trace(NamedTuple):
    """A recorded trace.

    Attributes:
        ran: operations of all devices.
        window: begin and end of the profiled rounds in the same nanoseconds, or `None`.
        host: spans of the host's work, by the names in `HOST`.
    """

    ran: list[Ran]
    window: tuple[float, float] | None
    host: dict[str, list[tuple[float, float]]]


def newest(folder: str | Path) -> Path:
    """The last trace that the profiler wrote below a folder, an `.xplane.pb` file.

    Raises:
        FileNotFoundError: the folder holds no trace.
    """
    paths = list(Path(folder).rglob("*.xplane.pb"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no trace (*.xplane.pb)")
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_trace(path: str | Path) -> Trace:
    """Reads a trace, an `.xplane.pb` file."""
    data, programs = ProfileData.from_file(str(path)), read_programs(path)
    events: list[tuple[Any, str, dict]] = []
    window, host = None, {name: [] for name in HOST}
    for plane in data.planes:
        accelerator = plane.name.startswith("/device:")
        # A device can have a second plane, which holds no operations.
        device = re.sub(r"^/device:| .*$", "", plane.name) if accelerator else ""
        for line in plane.lines:
            if accelerator and not _RUNS.match(line.name):
                continue
            for event in line.events:
                span = event.start_ns, event.start_ns + event.duration_ns
                if accelerator:
                    events.append((event, device, dict(event.stats)))
                elif event.name == MARK:
                    window = span
                elif event.name in host:
                    host[event.name].append(span)
                elif not event.name.startswith(_SKIPPED):
                    stats = dict(event.stats)
                    if "hlo_op" in stats:
                        device = f"CPU:{stats.get('device_ordinal', 0)}"
                        events.append((event, device, stats))
    programs = programs.that_ran(_names(event, stats) for event, _, stats in events)
    ran = [_ran(event, device, programs, stats) for event, device, stats in events]
    return Trace(ran, window, host)


def _names(event: Any, stats: dict) -> tuple[str, str]:
    """The names of an event's program and operation."""
    name = stats.get("hlo_op") or _FIRST_NAME.findall(event.name + "_")[0]
    return str(stats.get("hlo_module", "")), str(name)


def _ran(event: Any, device: str, programs: Programs, stats: dict) -> Ran:
    program, name = _names(event, stats)
    operation = programs.find(stats.get("program_id"), program, name)
    if operation is None:
        kind = re.sub(r"[.\d]+$", "", name)
        operation = Operation(kind, kind, "")
    end = event.start_ns + event.duration_ns
    return Ran(device, event.start_ns, end, program, name, operation)


def summarise_trace(trace: Trace, devices: int, rounds: int) -> dict[str, Any]:
    """Adds up the devices' time.

    A device is busy while any of its operations runs. A part's seconds are those of its
    operations, added up: operations that ran at the same time count each. Operations
    that consist of others, such as loops, keep a device busy and belong to no part;
    busy time in no part was spent between operations.

    Args:
        trace: only operations inside its window count; without a window that is from
            the first operation to the last.
        devices: number of devices; one without operations was idle.
        rounds: number of rounds in the window.

    Returns:
        `seconds` of the window, `rounds`, `devices`, `busy` (fraction of the devices'
        time, or `None` if the trace holds no operation), `busy_of_devices` (fraction
        of each device's time), `while` (for each kind of host work its `seconds`, and
        how `busy` the devices were meanwhile), `between_operations` (fraction of the
        devices' time), `stages` (whether the trace names them) and `parts`, slowest
        first: `name`, `seconds` (total over devices), `fraction` (of the devices'
        time), `seconds_a_round` (mean over devices) and `operations`, each kind's
        fraction of the part.
    """
    ran, window = trace.ran, trace.window
    if window is None and ran:
        window = min(r.start for r in ran), max(r.end for r in ran)
    begin, end = window or (0.0, 0.0)
    ran = [r for r in ran if r.end > begin and r.start < end]
    spans: dict[str, list] = defaultdict(list)
    leaves: dict[str, list] = defaultdict(list)
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    has_stages = any(r.operation.stage for r in ran)
    for r in ran:
        span = max(r.start, begin), min(r.end, end)
        spans[r.device].append(span)
        if not r.operation.control:
            leaves[r.device].append(span)
            parts[_part(r, has_stages)][r.operation.kind] += (span[1] - span[0]) / 1e9
    count = max(devices, len(spans))
    total = (end - begin) * count
    busy = {name: covered(device_spans) for name, device_spans in spans.items()}
    between = sum(busy.values()) - sum(covered(x) for x in leaves.values())
    rows = []
    for name, kinds in parts.items():
        seconds = sum(kinds.values())
        slowest = sorted(kinds.items(), key=lambda item: -item[1])[:OPERATIONS]
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "fraction": seconds * 1e9 / total,
                "seconds_a_round": seconds / (max(rounds, 1) * count),
                "operations": {k: x / seconds for k, x in slowest if seconds},
            }
        )
    host = trace.host.items()
    return {
        "seconds": (end - begin) / 1e9,
        "rounds": rounds,
        "devices": count,
        "busy": sum(busy.values()) / total if ran else None,
        "busy_of_devices": {k: x / (end - begin) for k, x in sorted(busy.items())},
        "while": {name: _meanwhile(work, spans, count) for name, work in host if work},
        "between_operations": between / total if ran else None,
        "stages": has_stages,
        "parts": sorted(rows, key=lambda part: -part["seconds"]),
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals.

    >>> covered([(0, 2), (5, 6), (1, 3)])
    4
    """
    total, until = 0, float("-inf")
    for start, end in sorted(spans):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def _meanwhile(
    work: list[tuple[float, float]], spans: dict[str, list], devices: int
) -> dict[str, float]:
    """Length of the host's work, and how busy the devices were at that time.

    The length of an intersection is that of both sets less that of their union.
    """
    length = covered(work)
    both = sum(length + covered(x) - covered([*work, *x]) for x in spans.values())
    return {"seconds": length / 1e9, "busy": both / (length * devices) if length else 0}


def _part(ran: Ran, has_stages: bool) -> str:
    """The stage of an operation, else its program, else its name."""
    if not has_stages:
        return ran.name
    program = ran.program.removeprefix("jit_") or "no program"
    return ran.operation.stage or f"other, in {program}"
