"""`train --profile`: a trace of some rounds, and its summary in words."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedjax_rec.profiling.window import Recording, Window, choose_window
from fedjax_rec.runs.writer import RunFolder
from fedjax_rec.storage.errors import UserError

FOLDER, SUMMARY = "profile", "profile.json"
SHOWN = 5


def window_of(count: int, done: int, rounds: int, eval_every: int) -> Window:
    """The rounds that `--profile COUNT` profiles, see `choose_window`.

    Raises:
        UserError: no round can be profiled.
    """
    try:
        return choose_window(count, done, rounds, min(eval_every, rounds))
    except ValueError as error:
        raise UserError(f"--profile: {error}") from error


def recording(
    window: Window,
    eval_every: int,
    folder: RunFolder,
    say: Callable[[str], None],
    record: bool = True,
) -> Recording:
    """A simulation's `profiler`, which prints the summary at its end.

    Args:
        window: the rounds to record.
        eval_every: rounds between evaluations.
        folder: the run's folder.
        say: prints the summary.
        record: whether this process records; among several, the first does.
    """
    traces = folder.path / FOLDER

    def recorded(seconds: float) -> None:
        import jax

        from fedjax_rec.profiling.trace import newest, read_trace, summarise_trace

        path = newest(traces)
        first, last, _ = window
        devices = jax.local_device_count()
        summary = {
            "first_round": first + 1,
            "last_round": last,
            # The last round is always evaluated.
            "evaluations": -(-last // eval_every) - first // eval_every,
            **summarise_trace(read_trace(path), devices, last - first),
            "trace": str(path.relative_to(folder.path)),
        }
        folder.write_json(SUMMARY, summary)
        say(in_words(summary, folder.path, window.warm))

    def failed(reason: str) -> None:
        say(f"warning: no profile ({reason}); the run goes on without one")

    return Recording(window, traces if record else None, recorded, failed)


def in_words(summary: dict[str, Any], folder: Path, warm: bool = True) -> str:
    """The slowest parts, how busy the devices were, and the trace's folder.

    Args:
        summary: contents of `profile.json`.
        folder: the run's folder.
        warm: whether everything was compiled before.
    """
    evaluations, devices = summary["evaluations"], summary["devices"]
    title = f"profile of rounds {summary['first_round']} to {summary['last_round']}"
    if evaluations:
        title += f" and {evaluations} evaluation{'s' * (evaluations > 1)}"
    title += f": {summary['seconds']:.3f} s on {devices} device{'s' * (devices > 1)}"
    if summary["busy"] is None:
        lines = [
            title,
            "  the trace of this backend names no operation that ran on a device, so "
            "parts and busy time are unknown",
        ]
    else:
        title += f", busy {summary['busy']:.1%} of the time; the slowest parts:"
        lines = [title, *_parts(summary)]
    if not warm:
        lines.append(
            "  too few rounds follow the first evaluation: compiling it may be part of "
            "the time"
        )
    trace = folder / summary["trace"]
    lines.append(
        f"  trace: {trace.parent}; open its .trace.json.gz in https://ui.perfetto.dev, "
        f"or `tensorboard --logdir {folder / FOLDER}` (pip install xprof tensorboard)"
    )
    return "\n".join(lines)


def _parts(summary: dict[str, Any]) -> Iterator[str]:
    """A line for each part, then the time outside of them."""
    shown = summary["parts"][:SHOWN]
    width = max((len(part["name"]) for part in shown), default=0)
    for part in shown:
        kinds = list(part["operations"].items())[:3]
        yield (
            f"  {part['name']:<{width}} {part['fraction']:6.1%} "
            f"{1e3 * part['seconds_a_round']:9.2f} ms a round: "
            + ", ".join(f"{kind} {share:.0%}" for kind, share in kinds)
        )
    yield f"  {'between operations':<{width}} {summary['between_operations']:6.1%}"
    host = summary["while"]
    if host:
        work = [
            f"{k} {x['seconds']:.3f} s, busy {x['busy']:.0%}" for k, x in host.items()
        ]
        others = summary["seconds"] - sum(x["seconds"] for x in host.values())
        yield (
            f"  while the host did {'; '.join(work)}; other work (files, checkpoints) "
            f"{others:.3f} s"
        )
    if not summary["stages"]:
        yield (
            "  this backend does not name the stage of a round that an operation "
            "belongs to: the parts are operations of XLA"
        )


@contextlib.contextmanager
def stages_kept() -> Iterator[None]:
    """Within the block, no compiled program comes from a cache under other names.

    The cache takes programs for equal that differ only in the names of their stages.
    """
    import jax

    name = "jax_compilation_cache_include_metadata_in_key"
    before = jax.config.values[name]
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
