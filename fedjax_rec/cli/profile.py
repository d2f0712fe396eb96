"""`train --profile`: a trace of some rounds, and its summary in words."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.profiling.window import Recording, Window, choose_window
from fedjax_rec.runs.writer import RunFolder
from fedjax_rec.storage.errors import UserError

ROUNDS = 3
"""That are profiled where `--profile` says no number."""
FOLDER, SUMMARY = "profile", "profile.json"
SHOWN = 5


def with_number(args: Sequence[str]) -> list[str]:
    """Arguments in which `--profile` has its number.

    >>> with_number(["--profile", "--seed", "1"])
    ['--profile=3', '--seed', '1']
    """
    following = [*args[1:], ""]
    return [
        f"--profile={ROUNDS}"
        if arg == "--profile" and not re.fullmatch(r"-?\d+", after)
        else arg
        for arg, after in zip(args, following, strict=True)
    ]


def window_of(count: int, done: int, rounds: int, eval_every: int) -> Window:
    """As `choose_window`, of what `--profile` asks for.

    Raises:
        UserError: there is nothing to profile.
    """
    if count < 1:
        raise UserError(f"--profile {count}: expected a number of rounds, from 1")
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
    """What a simulation calls as its `watch`: in the end it tells of the profile.

    Args:
        window: of `window_of`.
        eval_every: rounds between evaluations.
        folder: of the run.
        say: takes the summary.
        record: whether this process records; of several, the first does.
    """
    place = folder.path / FOLDER

    def recorded(seconds: float) -> None:
        import jax

        from fedjax_rec.profiling.summary import summarise_trace
        from fedjax_rec.profiling.trace import newest, read_trace

        path = newest(place)
        first, last, _ = window
        devices = jax.local_device_count()
        summary = {
            "first_round": first + 1,
            "last_round": last,
            # It ends with one: the last round is always evaluated.
            "evaluations": -(-last // eval_every) - first // eval_every,
            **summarise_trace(read_trace(path), devices, last - first),
            "trace": str(path.relative_to(folder.path)),
        }
        folder.write_json(SUMMARY, summary)
        say(in_words(summary, folder.path, window.warm))

    def failed(reason: str) -> None:
        say(f"warning: no profile ({reason}); the run goes on without one")

    return Recording(window, place if record else None, recorded, failed)


def in_words(summary: dict[str, Any], folder: Path, warm: bool = True) -> str:
    """The slowest parts, how busy the devices were, and where the trace lies.

    Args:
        summary: as `profile.json` holds it.
        folder: of the run.
        warm: whether nothing was compiled meanwhile.
    """
    evaluations, devices = summary["evaluations"], summary["devices"]
    what = f"profile of rounds {summary['first_round']} to {summary['last_round']}"
    if evaluations:
        what += f" and {evaluations} evaluation{'s' * (evaluations > 1)}"
    what += f": {summary['seconds']:.3f} s on {devices} device{'s' * (devices > 1)}"
    if summary["busy"] is None:
        lines = [
            what,
            "  the trace of this backend names no operation that ran on a device: it "
            "tells neither parts nor how busy the devices were",
        ]
    else:
        lines = [f"{what}, busy {summary['busy']:.1%} of the time; the slowest parts:"]
        shown = summary["parts"][:SHOWN]
        width = max((len(part["name"]) for part in shown), default=0)
        for part in shown:
            kinds = list(part["operations"].items())[:3]
            lines.append(
                f"  {part['name']:<{width}} {part['fraction']:6.1%} "
                f"{1e3 * part['seconds_a_round']:9.2f} ms a round: "
                + ", ".join(f"{kind} {share:.0%}" for kind, share in kinds)
            )
        lines.append(
            f"  {'between operations':<{width}} {summary['between_operations']:6.1%}"
        )
        during = [
            f"{name} {told['seconds']:.3f} s, busy {told['busy']:.0%}"
            for name, told in summary["while"].items()
        ]
        if during:
            rest = summary["seconds"] - sum(
                told["seconds"] for told in summary["while"].values()
            )
            lines.append(
                f"  while the host did {'; '.join(during)}; other things (files, "
                f"checkpoints) {rest:.3f} s"
            )
        if not summary["stages"]:
            lines.append(
                "  this backend does not tell to which stage of a round an operation "
                "belongs: the parts are operations of XLA"
            )
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


@contextlib.contextmanager
def stages_kept() -> Iterator[None]:
    """Within the block, no compiled program comes from a cache under other names.

    The cache takes programs for equal that differ in the names of their stages alone.
    """
    import jax

    name = "jax_compilation_cache_include_metadata_in_key"
    before = jax.config.values[name]
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
