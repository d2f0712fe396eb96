"""Checks and state for `fedjax-rec train --resume RUN`."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_rec.report.remarks import diverged_advice
from fedjax_rec.runs import folder as runs
from fedjax_rec.runs.folder import Run, RunFolder
from fedjax_rec.runs.interrupts import Stopped
from fedjax_rec.runs.resume import DECISIVE, decisive, record_life
from fedjax_rec.storage.errors import FileError, UserError

if TYPE_CHECKING:  # JAX and Orbax are loaded only when a run begins
    from fedjax_rec.runs.checkpoint import Checkpoints
    from fedjax_rec.simulation.simulation import Event, Simulation

_ACCEPT = (
    "The bits of the result could change. Restore the versions, or pass "
    "--accept-versions to continue anyway, which versions.json will record"
)


def read(path: Path) -> Run:
    """Reads the run to be continued.

    Raises:
        UserError: the folder holds no run that can be continued.
    """
    run = runs.read_run(path)
    if "few_shot" in run.config:
        raise UserError(f"{path} holds a transfer; only `train` keeps checkpoints")
    return run


def start_of(run: Run | None, start_from: Path | None) -> str | None:
    """The folder that a run starts from, or that a continued one started from."""
    if run is not None:
        return run.versions.get("started_from")
    return None if start_from is None else str(start_from.absolute())


def command(path: Path) -> str:
    """The command that continues the run in `path`."""
    return f"fedjax-rec train --resume {shlex.quote(str(path))}"


def advice(path: Path) -> str:
    """A line on how to continue a run that was interrupted, if it can be."""
    if not runs.has_checkpoint(path):
        return ""
    return f"\nIts checkpoints are intact. Continue with\n  {command(path)}"


def check_config(run: Run, config: Mapping[str, Any]) -> None:
    """Raises a FileError if more than the number of rounds has changed."""
    old, new = dict(run.config), dict(config)
    more = isinstance(old.get("rounds"), int) and new["rounds"] > old["rounds"]
    if more and (since := run.part().get("diverged_in_round")):
        raise FileError(
            f"{run.path} diverged in round {since} and cannot go on: "
            f"{diverged_advice(since)}. Start again in another --output"
        )
    if more:
        new["rounds"] = old["rounds"]
    fix = "A run continues with its own config; only --rounds may grow"
    runs.check_same(run.path, "holds a run of another config", old, new, fix)
    if more and old["eval_every"] > old["rounds"]:
        raise FileError(
            f"{run.path} was evaluated only after its {old['rounds']} rounds, not "
            f"every {old['eval_every']}: with more rounds it would not equal an "
            "unbroken run"
        )


def check_versions(run: Run, now: Mapping[str, Any], accept: bool) -> dict[str, Any]:
    """Compares the software and the machine with those of the run.

    Args:
        run: the run to be continued.
        now: the current `versions()`.
        accept: whether to continue with other versions.

    Returns:
        The current values that differ.

    Raises:
        FileError: values differ, and `accept` is false.
    """
    old, new = decisive(run.versions), decisive(now)
    if not accept:
        runs.check_same(
            run.path,
            "was computed by other software or on another machine",
            old,
            new,
            _ACCEPT,
        )
    return {name: new[name] for name in DECISIVE if old[name] != new[name]}


def check_prepared(
    run: Run, prepared: Mapping[str, Any], accept: bool
) -> dict[str, Any]:
    """Compares data and chunks with those that the run began with.

    Args:
        run: the run to be continued.
        prepared: the current `fingerprint`.
        accept: whether to continue in other chunks, which depend on the devices.

    Returns:
        The current chunks, if they differ.

    Raises:
        FileError: the data differ, or the chunks, and `accept` is false.
    """
    old, new = dict(run.versions.get("prepared") or {}), dict(prepared)
    for life in run.versions.get("resumed", []):
        old |= {n: x for n, x in life["changed"].items() if n == "chunks"}
    chunks = old.pop("chunks", None), new.pop("chunks", None)
    runs.check_same(
        run.path,
        "began with other data (hashes of everything read)",
        {"data": old},
        {"data": new},
        "Restore the data and the backbone, or start the run again with its config and "
        "--overwrite",
    )
    if not accept:
        problem = "was computed in other chunks of clients, by other devices"
        then, now = ({"chunks": value} for value in chunks)
        runs.check_same(run.path, problem, then, now, _ACCEPT)
    return {} if chunks[0] == chunks[1] else {"chunks": chunks[1]}


def go_back(
    run: Run,
    simulation: Simulation,
    folder: RunFolder,
    checkpoints: Checkpoints,
    config: Mapping[str, Any],
    changed: Mapping[str, Any],
    skip_damaged: bool,
    say: Callable[[str], None],
) -> int:
    """Restores simulation and files to the newest valid checkpoint.

    Args:
        run: the run to be continued.
        simulation: the simulation, not yet run.
        folder: the run's folder.
        checkpoints: the run's checkpoints.
        config: the config with the new number of rounds.
        changed: see `check_versions`.
        skip_damaged: see `Checkpoints.restore`.
        say: called with a sentence about each checkpoint that is skipped.

    Returns:
        The number of finished rounds.

    Raises:
        FileError: no checkpoint can be continued with more rounds, or the newest cannot
            be used.
    """
    metrics, last = folder.path / runs.METRICS, run.config["rounds"]
    size = metrics.stat().st_size if metrics.exists() else 0
    more = simulation.rounds != last
    # A longer run would not have evaluated or selected that round.
    early = simulation.protocol.selection == "last"
    early = more and (early or last % run.config["eval_every"] != 0)

    def unfit(progress: Mapping[str, Any]) -> str:
        if progress["position"] > size:
            return f"{runs.METRICS} ends before it"
        if early and progress["round"] == last:
            return f"round {last} was evaluated only because it was the last"
        return ""

    if more and not any(done != last or not early for done in checkpoints.rounds):
        raise FileError(
            f"{folder.path} keeps no checkpoint that a run of {simulation.rounds} "
            f"rounds would have: round {last} was evaluated only because it was the "
            "last. Start a run of that many rounds in another --output"
        )
    like = simulation.snapshot().arrays
    restored = checkpoints.restore(like, unfit, skip_damaged)
    for done, reason in restored.skipped.items():
        say(f"the checkpoint of round {done} is skipped: {reason}")
    checkpoints.set_aside(restored.skipped)
    if restored.skipped and restored.snapshot is None and size:
        shutil.copy2(metrics, folder.path / f"{runs.METRICS}.before-round-0")
    events, done = folder.cut_back(restored.position), 0
    if restored.snapshot is not None:
        simulation.restore(restored.snapshot, events)
        done = restored.snapshot.progress["round"]
    folder.start(done)
    record_life(folder, run.versions, done, changed)
    if more:
        folder.write_json(runs.CONFIG, config)
    return done


def saver(
    simulation: Simulation,
    folder: RunFolder,
    checkpoints: Checkpoints,
    every: int | None,
    signalled: Callable[[], int],
) -> Callable[[Event], None]:
    """A callback for `Simulation.run` at rest, which saves if due, and may stop.

    Args:
        simulation: the simulation that runs.
        folder: the run's folder.
        checkpoints: the run's checkpoints.
        every: rounds between checkpoints; `None` is at each evaluation.
        signalled: returns the signal that asks to stop, or 0.

    Raises:
        Stopped: from the callback.
    """

    def rest(event: Event) -> None:
        done = event["round"]
        due = done == simulation.rounds or (
            event["event"] == "evaluation" if every is None else done % every == 0
        )
        stop = signalled()
        if due or stop:
            started = time.perf_counter()
            checkpoints.save(simulation.snapshot(), folder.position())
            folder.time("checkpoint", done, time.perf_counter() - started)
        if stop:
            checkpoints.wait()
            raise Stopped(done, stop)

    return rest
