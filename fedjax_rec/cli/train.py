"""`fedjax-rec train CONFIG`: from a config file to a folder of results."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from fedjax_rec.cli import profile as profiling
from fedjax_rec.cli import resume as resuming
from fedjax_rec.cli.config_file import (
    choices_help,
    load_config,
    override,
    switch,
    value_error,
)
from fedjax_rec.cli.interrupts import Stopped, put_off
from fedjax_rec.cli.progress import Progress
from fedjax_rec.cli.stored_config import stored_experiment
from fedjax_rec.cli.waiting import Waiting
from fedjax_rec.experiment.build import Experiment, build, check
from fedjax_rec.experiment.record import record
from fedjax_rec.report.write import write_report, write_result
from fedjax_rec.runs import tracking
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
from fedjax_rec.runs.session import Processes, join, set_up_jax, versions
from fedjax_rec.runs.writer import SilentFolder
from fedjax_rec.simulation.mesh import agree
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError, UserError

HELP = """\
usage: fedjax-rec train CONFIG [--output DIR] [--overwrite] [--quiet] [--FIELD VALUE]
                        [--track tensorboard,wandb] [--profile [ROUNDS]]
       fedjax-rec train --resume RUN [--rounds MORE] [--accept-versions] [--quiet]

Runs the experiment that CONFIG describes: trains it round by round, evaluates it, and
sets it beside rankers that learn nothing.

CONFIG is a Python file whose get_config() returns a fedjax_rec.Experiment; its
docstring says what to expect. Every field can be changed on the way:

  fedjax-rec train configs/quickstart.py --rounds 50
  fedjax-rec train configs/quickstart.py --algorithm.client-lr 0.3 --seed 1
  fedjax-rec train configs/quickstart.py --algorithm FedNCF --cohort.sampling uniform
  fedjax-rec train configs/fedmf_ml100k.py --data.dir ~/ml-100k --output runs/mine

`fedjax-rec train CONFIG --help` lists the fields with their values and meaning.

A run that was stopped or killed goes on from its last checkpoint, and ends with the
same bits as if it had never stopped:

  fedjax-rec train --resume runs/mine
  fedjax-rec train --resume runs/mine --rounds 200     # more than it was begun with
  fedjax-rec train CONFIG --checkpoint.every 50        # by default at each evaluation

Others can be told of a run while it goes on (extra `tracking`), and a profile says what
takes how long; neither changes a result:

  fedjax-rec train CONFIG --track tensorboard          # tensorboard --logdir RUN
  WANDB_MODE=offline fedjax-rec train CONFIG --track wandb
  fedjax-rec train CONFIG --profile                    # of 3 rounds; --profile 10

The folder (by default runs/NAME-ALGORITHM-DATA-sSEED) then holds:
  config.json     every field as it was run
  versions.json   of the software, the device and the data; when it was resumed
  metrics.jsonl   a line a round and a line an evaluation, written as they happen
  timings.jsonl   the seconds they took
  checkpoints/    a folder a checkpoint: the last two, and the selected round's
  result.json     metrics, baselines, protocol; only once the run is finished
  report.md       the same to read
  curves.png      with the extra `analysis`
  tensorboard/, wandb/      with --track
  profile/, profile.json    with --profile
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a run saves its state. None of it changes results.

    Attributes:
        every: rounds between checkpoints; 0 for none, by default at each evaluation.
        keep: how many of the last are kept, beside the selected round's.
    """

    every: int | None = None
    keep: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """What `train` takes.

    Attributes:
        experiment: what is run.
        output: the run's folder; by default runs/NAME-ALGORITHM-DATA-sSEED.
        overwrite: replace a run of the same config.
        quiet: no progress; only the table at the end, and warnings.
        distributed: this is one of several processes of the run; the first writes.
        processes: how the processes find each other.
        resume: folder of a run to continue; CONFIG is not needed.
        accept_versions: resume under other software or on another machine.
        checkpoint: when state is saved.
        track: who is told of the run beside its folder: tensorboard, wandb.
        profile: rounds of which a profile is taken, after all is compiled; 3 where the
            number is left out.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    output: Path | None = None
    overwrite: bool = False
    quiet: bool = False
    distributed: bool = False
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Processes
    )
    resume: Path | None = None
    accept_versions: bool = False
    checkpoint: CheckpointOptions = CheckpointOptions()
    track: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    profile: int = 0


def main(args: list[str]) -> int:
    """Runs the command."""
    place = resuming.named(args)
    path = next((a for a in args if a.endswith(".py")), args[0] if args else "")
    named = path and not path.startswith("-")
    if not named and place is None:
        print(HELP, end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    rest = profiling.with_number(args)
    if named:
        rest.remove(path)
        experiment, doc = load_config(path)
    else:
        assert place is not None
        experiment = stored_experiment(resuming.read(place).config, str(place))
        path, doc = f"--resume {place}", f"Continues {place}; only --rounds may grow."
    experiment, rest = switch(experiment, rest)
    options = override(
        Train,
        Train(experiment=experiment),
        rest,
        prog=f"fedjax-rec train {path}",
        doc=f"{doc}\n\n{choices_help()}",
    )
    train(options)
    return 0


def train(options: Train) -> dict[str, Any]:
    """Runs an experiment into its folder, with progress on stderr.

    Args:
        options: what, and where to.

    Returns:
        The result, as `result.json` holds it.

    Raises:
        UserError: the experiment or the folder is not right.
    """
    experiment, show = options.experiment, not options.quiet
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    if options.distributed and not join(options.processes):
        return follow(options)
    config = plain(experiment)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    _check_options(options)
    before = None if options.resume is None else resuming.read(options.resume)
    path = options.output or free_folder("runs", run_name(experiment))
    changed: dict[str, Any] = {}
    try:
        check(experiment)
        if before is None:
            check_folder(path, config, options.overwrite)
        else:
            path = before.path
            resuming.check_config(before, config)
            if before.result is not None and before.config == config:
                say(f"{path} is finished; nothing is left to be done")
                if not (path / REPORT).exists():  # killed while it was being drawn
                    write_report(RunFolder(path))
                return _told(path)
            changed = resuming.check_versions(
                before, versions(), options.accept_versions
            )
        if show:
            say("preparing data and clients…")
        simulation = build(experiment, progress=show)
        prepared = fingerprint(simulation)
        if before is not None:
            resuming.check_prepared(before, prepared)
    except ValueError as error:
        raise UserError(value_error(error)) from error
    if show:
        say(opening(experiment, simulation))
    try:
        if before is None:
            found = {**versions(), "prepared": prepared}
            opened = open_run(path, config, found, options.overwrite)
        else:
            opened = continue_run(path)
        with opened as folder:
            if options.distributed:
                agree(str(folder.path.absolute()))
            _run(options, simulation, folder, before, changed, say)
    except (FileError, tracking.TrackingError) as error:
        raise UserError(f"{error}{resuming.advice(path)}") from error
    except Stopped as stopped:
        say(f"{stopped}; continue with\n  {resuming.command(path)}")
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(128 + stopped.number) from stopped
    except KeyboardInterrupt:
        told = f"\nstopped; the rounds so far are in {path}/metrics.jsonl"
        say(f"{told}{resuming.advice(path)}")
        raise
    return _told(path, written=True)


def _check_options(options: Train) -> None:
    every, keep = options.checkpoint.every, options.checkpoint.keep
    if every is not None and every < 0:
        raise UserError(f"checkpoint.every must not be negative, got {every}")
    if keep < 1:
        raise UserError(f"checkpoint.keep must be at least 1, got {keep}")
    try:
        tracking.kinds_of(options.track)
    except tracking.TrackingError as error:
        raise UserError(str(error)) from error
    experiment = options.experiment
    if options.profile and options.resume is None:
        profiling.window_of(
            options.profile, 0, experiment.rounds, experiment.eval_every
        )
    if options.resume is not None and (options.output or options.overwrite):
        raise UserError(
            "--resume continues a run in its own folder: leave --output and "
            "--overwrite out"
        )


def _told(path: Path, written: bool = False) -> dict[str, Any]:
    """Prints a finished run's table, and returns its result."""
    from fedjax_rec.report import run as report

    run = read_run(path)
    report.show(Console(), run)
    if written:
        Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return run.result or {}


def follow(options: Train) -> dict[str, Any]:
    """Does the share of a process that is not the first: it computes, and is silent."""
    before = None if options.resume is None else resuming.read(options.resume)
    try:
        check(options.experiment)
        simulation = build(options.experiment)
        folder = SilentFolder(Path(agree("")))
        quiet = dataclasses.replace(options, quiet=True, track=())
        with contextlib.ExitStack() as ending:
            return _compute(
                quiet, simulation, folder, before, {}, lambda text: None, ending
            )
    except ValueError as error:
        raise UserError(value_error(error)) from error


def _run(
    options: Train,
    simulation: Simulation,
    folder: RunFolder,
    before: Run | None,
    changed: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    # Trackers end last: what waits for a network must not keep the result waiting.
    with contextlib.ExitStack() as ending:
        found = _compute(options, simulation, folder, before, changed, say, ending)
        write_result(folder, record(options.experiment, simulation, found))


def _compute(
    options: Train,
    simulation: Simulation,
    folder: RunFolder,
    before: Run | None,
    changed: dict[str, Any],
    say: Callable[[str], None],
    ending: contextlib.ExitStack,
) -> dict[str, Any]:
    config, every = plain(options.experiment), options.checkpoint.every
    with contextlib.ExitStack() as stack:
        done, rest, checkpoints = 0, None, None
        if every != 0 or before is not None:
            from fedjax_rec.runs.checkpoint import Checkpoints

            checkpoints = Checkpoints(
                folder.path / CHECKPOINTS,
                resuming.config_hash(config),
                options.checkpoint.keep,
                say,
            )
            stack.callback(checkpoints.close)
        if before is not None and checkpoints is not None:
            done = resuming.go_back(
                before, simulation, folder, checkpoints, config, changed
            )
            say(
                f"resumed after round {done}" if done else "no checkpoint: from round 0"
            )
        if every != 0 and checkpoints is not None:
            # Of several processes one alone cannot stop for a checkpoint.
            asked = lambda: 0  # noqa: E731
            if not options.distributed:
                asked = stack.enter_context(put_off())
            rest = resuming.saver(simulation, folder, checkpoints, every, asked)
        kinds = tracking.kinds_of(options.track)
        trackers = tracking.start(kinds, folder, config, say, simulation.history)
        ending.push(lambda kind, *_: trackers.close(finished=kind is None))
        folder.tracker = trackers
        waiting = Waiting(simulation, folder)
        progress = Progress(
            simulation.rounds, simulation.eval_every, not options.quiet, done, waiting
        )
        stack.callback(progress.close)

        def listen(event: dict[str, Any]) -> None:
            folder.append(event)
            waiting(event)
            progress(event)

        watch = None
        if options.profile:
            rounds, eval_every = simulation.rounds, simulation.eval_every
            window = profiling.window_of(options.profile, done, rounds, eval_every)
            here = not isinstance(folder, SilentFolder)
            watch = profiling.recording(window, eval_every, folder, say, here)
            stack.enter_context(profiling.stages_kept())
            stack.callback(watch.close, finished=False)
        found = simulation.run(listen, rest, every or 0, watch)
        progress.close()
        if not options.quiet and waiting.sentence():
            say(waiting.sentence())
        return found


def run_name(experiment: Experiment) -> str:
    """`NAME-ALGORITHM-DATA-sSEED`."""
    data = experiment.data
    source = getattr(data, "source", None) or Path(getattr(data, "dir", "") or "").stem
    kind = type(data).__name__.removesuffix("Data").lower()
    algorithm = type(experiment.algorithm).__name__.lower()
    return f"{experiment.name}-{algorithm}-{source or kind}-s{experiment.seed}"


def opening(experiment: Experiment, simulation: Simulation) -> str:
    """What is about to run, in a line or two."""
    import jax

    train, cohort = simulation.split.train, simulation.cohort_size
    device = f"{jax.device_count()} {jax.default_backend()} device(s)"
    return (
        f"{experiment.name}: {type(experiment.algorithm).__name__} on {train.name}: "
        f"{train.num_users:,} users, {train.num_items:,} items, {len(train):,} "
        f"training interactions on {simulation.data.num_clients:,} clients\n"
        f"{experiment.rounds} rounds of {cohort:,} clients on {device}"
        + "".join(f"\n{reason}" for reason in simulation.why)
    )
