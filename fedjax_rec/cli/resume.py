"""What `fedjax-rec train --resume RUN` needs: the run, checks, the way back into it."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_rec.cli.interrupts import Stopped
from fedjax_rec.runs.folder import (
    CONFIG,
    METRICS,
    VERSIONS,
    Run,
    RunFolder,
    differences,
    has_checkpoint,
    read_run,
)
from fedjax_rec.simulation.simulation import Event, Simulation
from fedjax_rec.storage.errors import FileError, UserError

if TYPE_CHECKING:  # Orbax is loaded only where a run begins
    from fedjax_rec.runs.checkpoint import Checkpoints

DECISIVE = (
    "fedjax_rec", "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices",
    "processor", "threads", "xla_flags",
)  # fmt: skip
"""What of `versions.json` decides the bits of a result."""


def read(path: Path) -> Run:
    """The run that is to be continued.

    Raises:
        UserError: the folder holds none that could be.
    """
    try:
        run = read_run(path)
    except FileError as error:
        raise UserError(str(error)) from error
    if "few_shot" in run.config:
        raise UserError(f"{path} holds a transfer; only `train` keeps checkpoints")
    return run


def named(args: Sequence[str]) -> Path | None:
    """The folder that `--resume` names among arguments.

    Raises:
        UserError: it names none.
    """
    for index, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag == "--resume":
            value = value if equals else "".join(args[index + 1 : index + 2])
            if not value or value.startswith("-"):
                raise UserError("--resume: expected the folder of a run")
            return Path(value)
    return None


def command(path: Path) -> str:
    """What continues the run in `path`."""
    return f"fedjax-rec train --resume {shlex.quote(str(path))}"


def advice(path: Path) -> str:
    """A line on how a run that broke off goes on, if it can."""
    if not has_checkpoint(path):
        return ""
    return f"\nIts checkpoints are intact. Continue with\n  {command(path)}"


def check_config(run: Run, config: Mapping[str, Any]) -> None:
    """Raises a FileError if more changed than a greater number of rounds."""
    old, new = dict(run.config), dict(config)
    more = isinstance(old.get("rounds"), int) and new["rounds"] > old["rounds"]
    if more:
        new["rounds"] = old["rounds"]
    changes = differences(old, new)
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise FileError(
            f"{run.path} holds a run of another config:\n{lines}\n"
            "A run continues as it began; only --rounds may grow"
        )
    if more and old["eval_every"] > old["rounds"]:
        raise FileError(
            f"{run.path} was evaluated after its {old['rounds']} rounds only, not "
            f"every {old['eval_every']}: with more rounds it would not equal an "
            "unbroken run"
        )


def check_versions(run: Run, now: Mapping[str, Any], accept: bool) -> dict[str, Any]:
    """What of the software or the machine is not as it was.

    Args:
        run: as it was left.
        now: of `versions()`.
        accept: go on all the same.

    Returns:
        The values of now that differ.

    Raises:
        FileError: something differs, and nobody accepted it.
    """
    before = dict(run.versions)
    for life in run.versions.get("resumed", []):
        before |= life["changed"]
    old, new = ({n: v.get(n) for n in DECISIVE} for v in (before, now))
    changes = differences(old, new)
    if changes and not accept:
        lines = "\n".join(f"  {line}" for line in changes)
        raise FileError(
            f"{run.path} was computed by other software or on another machine:\n"
            f"{lines}\nIts bits could change on the way. Restore what was there, or "
            "pass --accept-versions to go on all the same; versions.json will say so"
        )
    return {name: new[name] for name in DECISIVE if old[name] != new[name]}


def check_prepared(run: Run, prepared: Mapping[str, Any]) -> None:
    """Raises a FileError if the data are not what the run began with."""
    changes = differences(run.versions.get("prepared"), dict(prepared), "data")
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise FileError(
            f"{run.path} began with other data (hashes of what was read):\n{lines}\n"
            "Put the data, the backbone and the machine's settings back, or start it "
            "again with its config and --overwrite"
        )


def config_hash(config: Mapping[str, Any]) -> str:
    """Of all but the number of rounds, which may grow."""
    kept = {name: value for name, value in config.items() if name != "rounds"}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def go_back(
    run: Run,
    simulation: Simulation,
    folder: RunFolder,
    checkpoints: "Checkpoints",
    config: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> int:
    """Brings simulation and files to the newest checkpoint that is whole.

    Args:
        run: as it was left.
        simulation: as it was built.
        folder: of the run.
        checkpoints: of the run.
        config: with the number of rounds asked for.
        changed: of `check_versions`.

    Returns:
        The rounds that are done.

    Raises:
        FileError: no checkpoint can be continued with more rounds.
    """
    size, last = _size(folder.path / METRICS), run.config["rounds"]
    selects_last = simulation.protocol.selection == "last"
    evaluated_early = last % run.config["eval_every"] != 0

    def fits(progress: Mapping[str, Any]) -> str:
        if progress["position"] > size:
            return f"{METRICS} ends before it"
        if simulation.rounds == last or progress["round"] != last:
            return ""
        if selects_last or evaluated_early:
            return f"round {last} was evaluated only because it was the last"
        return ""

    if simulation.rounds != last and not any(
        done != last or not (selects_last or evaluated_early)
        for done in checkpoints.rounds
    ):
        raise FileError(
            f"{folder.path} keeps no checkpoint that a run of {simulation.rounds} "
            f"rounds would come by: round {last} was evaluated only because it was the "
            "last. Start a run of that many rounds in another --output"
        )
    arrays = simulation.snapshot().arrays
    found = checkpoints.restore(arrays, fits)
    events = folder.cut_back(found.position if found else 0)
    if found:
        simulation.restore(found.snapshot, events)
    done = found.snapshot.progress["round"] if found else 0
    folder.start(done)
    life = {
        "round": done,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["fedjax-rec", *sys.argv[1:]],
        "changed": dict(changed),
    }
    lives = [*run.versions.get("resumed", []), life]
    folder.write_json(VERSIONS, {**run.versions, "resumed": lives})
    if simulation.rounds != last:
        folder.write_json(CONFIG, config)
    return done


def saver(
    simulation: Simulation,
    folder: RunFolder,
    checkpoints: "Checkpoints",
    every: int | None,
    asked: Callable[[], int],
) -> Callable[[Event], None]:
    """What `Simulation.run` calls at rest: it saves when that is due, and may stop.

    Args:
        simulation: that runs.
        folder: of the run.
        checkpoints: of the run.
        every: rounds between checkpoints; `None` is at each evaluation.
        asked: the signal that asks to stop, or 0.

    Raises:
        Stopped: from what is returned.
    """

    def rest(event: Event) -> None:
        done = event["round"]
        due = done == simulation.rounds or (
            event["event"] == "evaluation" if every is None else done % every == 0
        )
        stop = asked()
        if due or stop:
            started = time.perf_counter()
            checkpoints.save(simulation.snapshot(), folder.position())
            folder.time("checkpoint", done, time.perf_counter() - started)
        if stop:
            checkpoints.wait()
            raise Stopped(done, stop)

    return rest


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
