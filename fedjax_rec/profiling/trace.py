"""What the devices did, operation by operation, as the profiler's trace has it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

from fedjax_rec.profiling.hlo_names import CONTROL, Names, read_names
from fedjax_rec.profiling.stages import EVALUATION_HERE, ROUNDS_HERE
from fedjax_rec.profiling.window import MARK

HOST = (ROUNDS_HERE, EVALUATION_HERE)

# Of an accelerator's lines, those that hold what really ran; others repeat it.
_RUNS = re.compile(r"XLA Ops|Stream")
# A TPU's operations are called by their whole text: `%fusion.3 = f32[8] fusion(...)`.
_FIRST_NAME = re.compile(r"%?([\w.-]+)")


class Ran(NamedTuple):
    """An operation that ran.

    Attributes:
        device: it ran on, such as `CPU:0`.
        start: nanoseconds.
        end: nanoseconds.
        program: it belongs to, or "".
        name: in that program.
        kind: what it does, such as `dot_general`.
        stage: of `stages.stage_of`, or "" where the trace names none.
        control: it consists of others, which the trace has, too.
    """

    device: str
    start: float
    end: float
    program: str
    name: str
    kind: str
    stage: str
    control: bool


def newest(folder: str | Path) -> Path:
    """The last trace that the profiler wrote below a folder, an `.xplane.pb` file.

    Raises:
        FileNotFoundError: there is none.
    """
    found = list(Path(folder).rglob("*.xplane.pb"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no trace (*.xplane.pb)")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


class Trace(NamedTuple):
    """What a trace tells.

    Attributes:
        ran: operations of all devices.
        window: begin and end of the profiled rounds in the same nanoseconds, or `None`.
        host: the same of all that the host did under each name of `HOST`.
    """

    ran: list[Ran]
    window: tuple[float, float] | None
    host: dict[str, list[tuple[float, float]]]


def read_trace(path: str | Path) -> Trace:
    """Reads a trace, an `.xplane.pb` file."""
    data, names = ProfileData.from_file(str(path)), read_names(path)
    ran: list[Ran] = []
    window, host = None, {name: [] for name in HOST}
    for plane in data.planes:
        accelerator = plane.name.startswith("/device:")
        # Some devices are there twice: what is no operation has a plane of its own.
        device = re.sub(r"^/device:| .*$", "", plane.name) if accelerator else ""
        for line in plane.lines:
            if accelerator and not _RUNS.match(line.name):
                continue
            for event in line.events:
                if accelerator:
                    ran.append(_told(event, device, names))
                elif event.name == MARK:
                    window = event.start_ns, event.start_ns + event.duration_ns
                elif event.name in host:
                    span = event.start_ns, event.start_ns + event.duration_ns
                    host[event.name].append(span)
                else:
                    ran += _of_cpu(event, names)
    return Trace(ran, window, host)


def _of_cpu(event: Any, names: Names) -> Iterator[Ran]:
    """A CPU's operations run in the host's threads, among much else."""
    if event.name.startswith(("end: ", "Threadpool")):  # most of it, and no operations
        return
    stats = dict(event.stats)
    if "hlo_op" in stats:
        yield _told(event, f"CPU:{stats.get('device_ordinal', 0)}", names, stats)


def _told(event: Any, device: str, names: Names, stats: dict | None = None) -> Ran:
    stats = dict(event.stats) if stats is None else stats
    program = str(stats.get("hlo_module", ""))
    name = str(stats.get("hlo_op") or _FIRST_NAME.findall(event.name + "_")[0])
    known = names.find(stats.get("program_id"), program, name)
    return Ran(
        device=device,
        start=event.start_ns,
        end=event.start_ns + event.duration_ns,
        program=program,
        name=name,
        kind=known.kind if known else re.sub(r"[.\d]+$", "", name),
        stage=known.stage if known else "",
        control=known.opcode in CONTROL if known else name.startswith(CONTROL),
    )
