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
from fedjax_rec.cli.config_file import user_errors
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.progress import Progress, Waiting
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.record import record, run_name
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.experiment.stored import located
from fedjax_rec.report import run as report
from fedjax_rec.runs import folder as runs
from fedjax_rec.runs import tracking
from fedjax_rec.runs.checkpoint import Checkpoints, RestoreError
from fedjax_rec.runs.fingerprint import fingerprint
from fedjax_rec.runs.folder import Run, RunFolder
from fedjax_rec.runs.interrupts import Stopped, put_off
from fedjax_rec.runs.model import write_model
from fedjax_rec.runs.plain import own_files, plain
from fedjax_rec.runs.resume import config_hash
from fedjax_rec.runs.session import join, set_up_jax, versions
from fedjax_rec.runs.writer import SilentFolder
from fedjax_rec.simulation.processes import agree, everyones, together
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError, UserError

Say = Callable[[str], None]


def train(experiment: Experiment, options: Train | None = None) -> dict[str, Any]:
    """Runs an experiment into its folder, with progress on stderr.

    Args:
        experiment: the experiment.
        options: folder, progress, checkpoints, trackers.

    Returns:
        The result, as in `result.json`.

    Raises:
        UserError: the experiment or the folder is not valid.
    """
    options = options or Train()
    tracking.kinds_of(options.track)
    if options.profile and options.resume is None:
        rounds, every = experiment.rounds, experiment.eval_every
        profiling.window_of(options.profile, 0, rounds, every)
    before = None if options.resume is None else resuming.read(options.resume)
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    if options.distributed and not join(
        options.coordinator, options.processes, options.process_id
    ):
        return _follow(experiment, options, before)
    say, config = _speaker(), plain(experiment)
    path = options.output if before is None else before.path
    changed: dict[str, Any] = {}
    if before is not None and _is_finished(before, config):
        return _finished(before.path, say)
    with together(), user_errors():
        if before is not None:
            resuming.check_config(before, config)
            accept = options.accept_versions
            changed = resuming.check_versions(before, versions(), accept)
        elif path is not None:
            runs.check_folder(path, config, options.overwrite)
    with together(), user_errors():
        start = resuming.start_of(before, options.start_from)
        simulation = _built(located(experiment, before), options, say, start)
        prepared = fingerprint(simulation)
        if before is not None:
            accept = options.accept_versions
            changed |= resuming.check_prepared(before, prepared, accept)
        files = own_files(experiment)
        software = {**versions(), "prepared": prepared, "own_files": files}
        software |= {} if start is None else {"started_from": start}
        path = path or runs.new_folder("runs", run_name(experiment))
    overwrite = options.overwrite
    try:
        with contextlib.ExitStack() as stack:
            with together():
                folder = stack.enter_context(
                    runs.open_run(path, config, software, overwrite)
                    if before is None
                    else runs.continue_run(path)
                )
            agree(str(folder.path.absolute()))
            _Run(experiment, options, simulation, folder, say).compute(before, changed)
    except RestoreError:
        raise
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
    result = _shown(path)
    Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return result


def _speaker() -> Say:
    console = Console(stderr=True)
    return lambda text: console.print(
        text, highlight=False, soft_wrap=True, markup=False
    )


def _built(
    experiment: Experiment, options: Train, say: Say, start: str | None
) -> Simulation:
    if not options.quiet:
        say("preparing data and clients…")
    simulation = build(experiment, progress=not options.quiet, start=start)
    if not options.quiet:
        say(opening(experiment, simulation))
    return simulation


def _is_finished(before: Run, config: Any) -> bool:
    return before.result is not None and before.config == config


def _finished(path: Path, say: Say) -> dict[str, Any]:
    """The result of a run that was finished before."""
    say(f"{path} is finished; there is no round left")
    if not (path / runs.REPORT).exists():  # killed while it was being drawn
        report.write_report(RunFolder(path))
    return _shown(path)


def _shown(path: Path) -> dict[str, Any]:
    """Prints a finished run's table, and returns its result."""
    run = runs.read_run(path)
    report.show(Console(), run)
    return run.result or {}


def _follow(
    experiment: Experiment, options: Train, before: Run | None
) -> dict[str, Any]:
    """The part of a process that is not the first: it computes, and is silent."""
    if before is not None and _is_finished(before, plain(experiment)):
        return {}
    with together():
        pass  # the first process checks config and folder
    with together(), user_errors():
        start = resuming.start_of(before, options.start_from)
        simulation = build(located(experiment, before), start=start)
    with together():
        pass  # the first process opens the folder
    folder = SilentFolder(Path(agree("")))
    quiet = dataclasses.replace(options, quiet=True, track=())
    run = _Run(experiment, quiet, simulation, folder, lambda text: None)
    try:
        return run.compute(before, {})
    except Stopped as stopped:
        raise SystemExit(128 + stopped.number) from stopped


@dataclasses.dataclass(frozen=True)
class _Run:
    """A simulation with the folder that its events go to.

    Attributes:
        experiment: the experiment.
        options: options of the command.
        simulation: the simulation, ready to run.
        folder: the run's folder.
        inform: prints a line for the user.
    """

    experiment: Experiment
    options: Train
    simulation: Simulation
    folder: RunFolder
    inform: Say

    def compute(self, before: Run | None, changed: dict[str, Any]) -> dict[str, Any]:
        """Trains to the end, and writes and returns the result.

        Args:
            before: the run that is continued.
            changed: see `resume.check_versions`.
        """
        simulation, folder = self.simulation, self.folder
        # Trackers end last: waiting for a network must not delay the result.
        with contextlib.ExitStack() as ending:
            with contextlib.ExitStack() as stack:
                done, pause = self._checkpoints(before, changed, stack)
                trackers = tracking.start(
                    tracking.kinds_of(self.options.track),
                    folder,
                    plain(self.experiment),
                    self.inform,
                    simulation.history,
                )
                ending.push(lambda kind, *_: trackers.close(finished=kind is None))
                folder.tracker = trackers
                result = self._run(done, pause, stack)
            if not isinstance(folder, SilentFolder):
                report.write_result(folder, record(self.experiment, simulation, result))
            return result

    def _run(self, done: int, pause: Any, stack: contextlib.ExitStack):
        """The result of `Simulation.run`, with progress on the way."""
        simulation, show = self.simulation, not self.options.quiet
        waiting = Waiting(simulation, self.folder)
        rounds, every = simulation.rounds, simulation.eval_every
        progress = Progress(rounds, every, show, done, waiting)
        stack.callback(progress.close)

        def listen(event: dict[str, Any]) -> None:
            self.folder.append(event)
            if "test" in event:  # the round that is selected so far
                self.folder.write_users(simulation.users())
                write_model(self.folder, simulation)
            waiting(event)
            progress(event)

        profiler = self._profiler(done, stack)
        rest_every = self.options.checkpoint.every or 0
        result = simulation.run(listen, pause, rest_every, profiler)
        progress.close()
        if show and waiting.sentence():
            self.inform(waiting.sentence())
        return result

    def _checkpoints(self, before: Run | None, changed: dict[str, Any], stack):
        """The finished rounds, and a callback that saves; goes back to a checkpoint."""
        options, simulation, folder = self.options, self.simulation, self.folder
        config, every = plain(self.experiment), options.checkpoint.every
        if every == 0 and before is None:
            return 0, None
        root, digest = folder.path / runs.CHECKPOINTS, config_hash(config)
        checkpoints = Checkpoints(root, digest, options.checkpoint.keep)
        stack.callback(checkpoints.close)
        done = 0
        if before is not None:
            done = resuming.go_back(
                before,
                simulation,
                folder,
                checkpoints,
                config,
                changed,
                options.skip_damaged,
                self.inform,
            )
            self.inform(
                f"resumed after round {done}" if done else "no checkpoint: from round 0"
            )
        if every == 0:
            return done, None
        received = stack.enter_context(put_off())

        def signalled() -> int:  # a process among several cannot stop on its own
            return int(everyones(received()).max())

        return done, resuming.saver(simulation, folder, checkpoints, every, signalled)

    def _profiler(self, done: int, stack: contextlib.ExitStack):
        if not self.options.profile:
            return None
        rounds, every = self.simulation.rounds, self.simulation.eval_every
        window = profiling.window_of(self.options.profile, done, rounds, every)
        writes = not isinstance(self.folder, SilentFolder)
        profiler = profiling.recording(window, every, self.folder, self.inform, writes)
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
