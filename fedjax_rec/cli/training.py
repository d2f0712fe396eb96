"""Runs an experiment into its folder, with progress, checkpoints and trackers."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from fedjax_rec.cli import profile as profiling
from fedjax_rec.cli import resume as resuming
from fedjax_rec.cli.config_file import in_flags
from fedjax_rec.cli.interrupts import Stopped, put_off
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.progress import Progress
from fedjax_rec.cli.waiting import Waiting
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record, run_name
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.report import run as report
from fedjax_rec.report.write import write_report, write_result
from fedjax_rec.runs import tracking
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.runs.fingerprint import fingerprint
from fedjax_rec.runs.folder import (
    CHECKPOINTS,
    REPORT,
    Run,
    RunFolder,
    check_folder,
    continue_run,
    free_folder,
    open_run,
    plain,
    read_run,
)
from fedjax_rec.runs.session import join, set_up_jax, versions
from fedjax_rec.runs.writer import SilentFolder
from fedjax_rec.simulation.mesh import agree
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError, UserError

Say = Callable[[str], None]


def train(experiment: Experiment, options: Train | None = None) -> dict[str, Any]:
    """Runs an experiment into its folder, with progress on stderr.

    Args:
        experiment: what to run.
        options: folder, progress, checkpoints, trackers.

    Returns:
        The result, as in `result.json`.

    Raises:
        UserError: the experiment or the folder is not right.
    """
    options = options or Train()
    tracking.kinds_of(options.track)
    if options.profile and options.resume is None:
        rounds, every = experiment.rounds, experiment.eval_every
        profiling.window_of(options.profile, 0, rounds, every)
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    if options.distributed and not join(
        options.coordinator, options.processes, options.process_id
    ):
        return _follow(experiment, options)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    before = None if options.resume is None else resuming.read(options.resume)
    path = options.output or free_folder("runs", run_name(experiment))
    if before is not None:
        path = before.path
    try:
        if before is None:
            check_folder(path, plain(experiment), options.overwrite)
        else:
            resuming.check_config(before, plain(experiment))
            if before.result is not None and before.config == plain(experiment):
                return _finished(path, say)
        simulation, changed = _built(experiment, options, before, say)
    except ValueError as error:
        raise UserError(in_flags(error)) from error
    try:
        with _opened(path, experiment, options, before, simulation) as folder:
            if options.distributed:
                agree(str(folder.path.absolute()))
            # Trackers end last: waiting for a network must not delay the result.
            with contextlib.ExitStack() as ending:
                run = _Run(experiment, options, simulation, folder, say, ending)
                result = run.compute(before, changed)
                write_result(folder, record(experiment, simulation, result))
    except FileError as error:
        raise UserError(f"{error}{resuming.advice(path)}") from error
    except Stopped as stopped:
        say(f"{stopped}; continue with\n  {resuming.command(path)}")
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(128 + stopped.number) from stopped
    except KeyboardInterrupt:
        rounds = f"\nstopped; the finished rounds are in {path}/metrics.jsonl"
        say(f"{rounds}{resuming.advice(path)}")
        raise
    return _shown(path, written=True)


def _built(
    experiment: Experiment, options: Train, before: Run | None, say: Say
) -> tuple[Simulation, dict[str, Any]]:
    """The simulation, and what changed in software or machine since `before`."""
    changed: dict[str, Any] = {}
    if before is not None:
        changed = resuming.check_versions(before, versions(), options.accept_versions)
    if not options.quiet:
        say("preparing data and clients…")
    simulation = build(experiment, progress=not options.quiet)
    if before is not None:
        resuming.check_prepared(before, fingerprint(simulation))
    if not options.quiet:
        say(opening(experiment, simulation))
    return simulation, changed


def _opened(
    path: Path,
    experiment: Experiment,
    options: Train,
    before: Run | None,
    simulation: Simulation,
):
    """The run's folder, locked and ready to be written."""
    if before is not None:
        return continue_run(path)
    software = {**versions(), "prepared": fingerprint(simulation)}
    return open_run(path, plain(experiment), software, options.overwrite)


def _finished(path: Path, say: Say) -> dict[str, Any]:
    say(f"{path} is finished; there is no round left")
    if not (path / REPORT).exists():  # killed while it was being drawn
        write_report(RunFolder(path))
    return _shown(path)


def _shown(path: Path, written: bool = False) -> dict[str, Any]:
    """Prints a finished run's table, and returns its result."""
    run = read_run(path)
    report.show(Console(), run)
    if written:
        Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return run.result or {}


def _follow(experiment: Experiment, options: Train) -> dict[str, Any]:
    """Does the share of a process that is not the first: it computes, and is silent."""
    before = None if options.resume is None else resuming.read(options.resume)
    quiet = dataclasses.replace(options, quiet=True, track=())
    try:
        simulation = build(experiment)
        folder = SilentFolder(Path(agree("")))
        with contextlib.ExitStack() as ending:
            run = _Run(experiment, quiet, simulation, folder, lambda text: None, ending)
            return run.compute(before, {})
    except ValueError as error:
        raise UserError(in_flags(error)) from error


@dataclasses.dataclass(frozen=True)
class _Run:
    """A simulation with the folder that its events go to.

    Attributes:
        experiment: what is run.
        options: of the command.
        simulation: ready to run.
        folder: of the run.
        say: prints a line for the user.
        ending: closes trackers after the result is written.
    """

    experiment: Experiment
    options: Train
    simulation: Simulation
    folder: RunFolder
    say: Say
    ending: contextlib.ExitStack

    def compute(self, before: Run | None, changed: dict[str, Any]) -> dict[str, Any]:
        """Trains to the end; the result of `Simulation.run`."""
        options, simulation, folder = self.options, self.simulation, self.folder
        with contextlib.ExitStack() as stack:
            done, rest = self._checkpoints(before, changed, stack)
            trackers = tracking.start(
                tracking.kinds_of(options.track),
                folder,
                plain(self.experiment),
                self.say,
                simulation.history,
            )
            self.ending.push(lambda kind, *_: trackers.close(finished=kind is None))
            folder.tracker = trackers
            waiting = Waiting(simulation, folder)
            progress = Progress(
                simulation.rounds,
                simulation.eval_every,
                not options.quiet,
                done,
                waiting,
            )
            stack.callback(progress.close)

            def listen(event: dict[str, Any]) -> None:
                folder.append(event)
                waiting(event)
                progress(event)

            profiler = self._profiler(done, stack)
            every = options.checkpoint.every or 0
            result = simulation.run(listen, rest, every, profiler)
            progress.close()
            if not options.quiet and waiting.sentence():
                self.say(waiting.sentence())
            return result

    def _checkpoints(self, before: Run | None, changed: dict[str, Any], stack):
        """The finished rounds, and a callback that saves; goes back to a checkpoint."""
        options, simulation, folder = self.options, self.simulation, self.folder
        config, every = plain(self.experiment), options.checkpoint.every
        if every == 0 and before is None:
            return 0, None
        checkpoints = Checkpoints(
            folder.path / CHECKPOINTS,
            resuming.config_hash(config),
            options.checkpoint.keep,
            self.say,
        )
        stack.callback(checkpoints.close)
        done = 0
        if before is not None:
            done = resuming.go_back(
                before, simulation, folder, checkpoints, config, changed
            )
            self.say(
                f"resumed after round {done}" if done else "no checkpoint: from round 0"
            )
        if every == 0:
            return done, None
        signalled = lambda: 0  # noqa: E731
        if not options.distributed:  # one of several processes cannot stop on its own
            signalled = stack.enter_context(put_off())
        return done, resuming.saver(simulation, folder, checkpoints, every, signalled)

    def _profiler(self, done: int, stack: contextlib.ExitStack):
        if not self.options.profile:
            return None
        rounds, every = self.simulation.rounds, self.simulation.eval_every
        window = profiling.window_of(self.options.profile, done, rounds, every)
        writes = not isinstance(self.folder, SilentFolder)
        profiler = profiling.recording(window, every, self.folder, self.say, writes)
        stack.enter_context(profiling.stages_kept())
        stack.callback(profiler.close, finished=False)
        return profiler


def opening(experiment: Experiment, simulation: Simulation) -> str:
    """A few lines about the run that starts."""
    train, cohort = simulation.split.train, simulation.cohort_size
    device = f"{jax.device_count()} {jax.default_backend()} device(s)"
    return (
        f"{experiment.name}: {type(experiment.algorithm).__name__} on {train.name}: "
        f"{train.num_users:,} users, {train.num_items:,} items, {len(train):,} "
        f"training interactions on {simulation.data.num_clients:,} clients\n"
        f"{experiment.rounds} rounds of {cohort:,} clients on {device}"
        + "".join(f"\n{reason}" for reason in simulation.why)
    )
