"""The slowest parts of a trace, and how much of the time the devices were busy."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from fedjax_rec.profiling.trace import Ran, Trace

OPERATIONS = 5
"""So many kinds of operations are told of each part."""


def summarise_trace(trace: Trace, devices: int, rounds: int) -> dict[str, Any]:
    """Where the devices' time went.

    A device is busy while any of its operations runs. A part's seconds are those of its
    operations, added up: operations that ran at the same time count each. Operations
    that consist of others, such as loops, keep a device busy and are no part: what of
    the busy time is in no part was spent between operations.

    Args:
        trace: what ran outside its window is left out; without a window that is from
            the first operation to the last.
        devices: how many there are; one that did nothing was idle.
        rounds: in the window.

    Returns:
        `seconds` of the window, `rounds`, `devices`, `busy` (fraction of the devices'
        time, or `None` where no operation is known), `busy_of_devices` (each one's
        own), `while` (what the host does: its `seconds`, and how `busy` the devices
        were meanwhile), `between_operations` (fraction of the devices' time), `stages`
        (whether the trace tells them) and `parts`, slowest first: `name`, `seconds` (of
        all devices), `fraction` (of the devices' time), `seconds_a_round` (of one
        device, on average) and `operations`, each kind's fraction of the part.
    """
    ran, window = trace.ran, trace.window
    if window is None and ran:
        window = min(r.start for r in ran), max(r.end for r in ran)
    begin, end = window or (0.0, 0.0)
    ran = [r for r in ran if r.end > begin and r.start < end]
    spans: dict[str, list] = defaultdict(list)
    leaves: dict[str, list] = defaultdict(list)
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    told = any(r.stage for r in ran)
    for r in ran:
        span = max(r.start, begin), min(r.end, end)
        spans[r.device].append(span)
        if not r.control:
            leaves[r.device].append(span)
            parts[_part(r, told)][r.kind] += (span[1] - span[0]) / 1e9
    count = max(devices, len(spans))
    whole = (end - begin) * count
    busy = {name: covered(found) for name, found in spans.items()}
    between = sum(busy.values()) - sum(covered(x) for x in leaves.values())
    found = []
    for name, kinds in parts.items():
        seconds = sum(kinds.values())
        slowest = sorted(kinds.items(), key=lambda item: -item[1])[:OPERATIONS]
        found.append(
            {
                "name": name,
                "seconds": seconds,
                "fraction": seconds * 1e9 / whole,
                "seconds_a_round": seconds / (max(rounds, 1) * count),
                "operations": {k: x / seconds for k, x in slowest if seconds},
            }
        )
    return {
        "seconds": (end - begin) / 1e9,
        "rounds": rounds,
        "devices": count,
        "busy": sum(busy.values()) / whole if ran else None,
        "busy_of_devices": {k: x / (end - begin) for k, x in sorted(busy.items())},
        "while": {
            name: _meanwhile(doing, spans, count)
            for name, doing in trace.host.items()
            if doing
        },
        "between_operations": between / whole if ran else None,
        "stages": told,
        "parts": sorted(found, key=lambda part: -part["seconds"]),
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
    doing: Iterable[tuple[float, float]], spans: dict[str, list], devices: int
) -> dict[str, float]:
    """How long the host did something, and how busy the devices were at that time.

    What both cover is what they cover one by one less what they cover together.
    """
    doing = list(doing)
    here = covered(doing)
    both = sum(here + covered(x) - covered([*doing, *x]) for x in spans.values())
    return {"seconds": here / 1e9, "busy": both / (here * devices) if here else 0.0}


def _part(ran: Ran, told: bool) -> str:
    """What a user knows an operation by: its stage, else its program, else itself."""
    if not told:
        return ran.name
    return ran.stage or f"other, in {ran.program.removeprefix('jit_') or 'no program'}"
