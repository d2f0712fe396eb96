"""`fedjax-rec transfer CONFIG`: trained on one data set, scored on another."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tqdm import tqdm

from fedjax_rec.cli.config_file import (
    choices_help,
    load_config,
    override,
    switch,
    value_error,
)
from fedjax_rec.cli.data import data_of
from fedjax_rec.cli.progress import Progress
from fedjax_rec.cli.train import opening, run_name
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.build import check as check_experiment
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.folder import (
    REPORT,
    RESULT,
    RunFolder,
    check_folder,
    free_folder,
    open_run,
    plain,
    read_run,
)
from fedjax_rec.runs.session import set_up_jax, versions
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError, UserError
from fedjax_rec.transfer import run as transferring
from fedjax_rec.transfer.audiences import TargetSplit, load_target, target_protocol
from fedjax_rec.transfer.config import FewShot, Target, check

HELP = """\
usage: fedjax-rec transfer CONFIG [--target NAME] [--target.FIELD VALUE]
                           [--few-shot.FIELD VALUE] [--output DIR] [--overwrite]
                           [--quiet] [--FIELD VALUE]

Trains the experiment that CONFIG describes (FedFM with users="history", everything
shared), then ranks another data set's items for its users, from their histories and
without training: beside random, the target's popularity, the same model with the
target's texts shuffled, and the model before training. Then every target user's client
takes a few local steps on its own history, and is ranked for again.

  fedjax-rec transfer configs/transfer_ml_to_games.py \\
      --data.dir ~/ml-latest-small --target amazon --target.data.dir ~/amazon-games
  fedjax-rec transfer CONFIG --target.users 1000 --few-shot.steps 1 2 4 8

--target NAME is a source of `fedjax-rec data prepare`; by default amazon.
`fedjax-rec transfer CONFIG --help` lists the fields with their values and meaning.

The folder (by default runs/NAME-ALGORITHM-DATA-sSEED-to-TARGET) then holds
config.json, versions.json, metrics.jsonl, timings.jsonl, result.json, report.md, and
few_shot.png with the extra `analysis`.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """What `transfer` takes.

    Attributes:
        experiment: what is trained.
        target: what it is transferred to.
        few_shot: the local steps of target clients.
        output: the run's folder; by default runs/NAME-ALGORITHM-DATA-sSEED-to-TARGET.
        overwrite: replace the results of a finished run of the same config.
        quiet: no progress; only the table at the end, and warnings.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    target: Target = dataclasses.field(default_factory=Target)
    few_shot: FewShot = dataclasses.field(default_factory=FewShot)
    output: Path | None = None
    overwrite: bool = False
    quiet: bool = False


def main(args: list[str]) -> int:
    """Runs the command."""
    path = next((a for a in args if a.endswith(".py")), args[0] if args else "")
    if not path or path.startswith("-"):
        print(HELP, end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    rest = list(args)
    rest.remove(path)
    experiment, doc = load_config(path)
    target, rest = _target(rest)
    experiment, rest = switch(experiment, rest)
    options = override(
        Transfer,
        Transfer(experiment=experiment, target=target),
        rest,
        prog=f"fedjax-rec transfer {path}",
        doc=f"{doc}\n\n--target NAME chooses the target's source.\n{choices_help()}",
    )
    transfer(options)
    return 0


def transfer(options: Transfer) -> dict[str, Any]:
    """Trains, transfers and writes a run's folder, with progress on stderr.

    Args:
        options: what, and where to.

    Returns:
        The result, as `result.json` holds it.

    Raises:
        UserError: the experiment, the target or the folder is not right.
    """
    experiment, show = options.experiment, not options.quiet
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    config = {
        **plain(experiment),
        "target": plain(options.target),
        "few_shot": plain(options.few_shot),
    }
    name = f"{run_name(experiment)}-to-{_name(options.target)}"
    path = options.output or free_folder("runs", name)
    console = Console(stderr=True)

    def say(text: str) -> None:
        if show:
            console.print(text, highlight=False, soft_wrap=True)

    try:
        check(experiment, options.target, options.few_shot)
        check_experiment(experiment)
        check_folder(path, config, options.overwrite)
    except ValueError as error:
        raise UserError(value_error(error)) from error
    try:
        say("reading the target…")
        held = load_target(experiment, options.target, show)
    except ValueError as error:
        raise UserError(f"target: {value_error(error, '--target.data.')}") from error
    try:
        say("preparing the source's data and clients…")
        simulation = build(experiment, progress=show)
        transferring.check_source(simulation, options.few_shot)
    except ValueError as error:
        raise UserError(value_error(error)) from error
    say(opening(experiment, simulation))
    say(
        f"then {len(held.users):,} users of {held.split.train.name}, "
        f"{held.split.train.num_items:,} items"
    )
    try:
        with open_run(path, config, versions(), options.overwrite) as folder:
            result = _run(options, simulation, held, folder, show)
    except FileError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"\nstopped; what was done so far is in {path}/metrics.jsonl")
        raise
    from fedjax_rec.report import transfer as report_transfer

    report_transfer.show(Console(), read_run(path))
    Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return result


def _run(
    options: Transfer,
    simulation: Simulation,
    held: TargetSplit,
    folder: RunFolder,
    show: bool,
) -> dict[str, Any]:
    experiment, target, few = options.experiment, options.target, options.few_shot
    training = Progress(simulation.rounds, simulation.eval_every, enabled=show)

    def listen(event: dict[str, Any]) -> None:
        folder.append(event)
        training(event)

    try:
        source = transferring.train_source(simulation, listen)
    finally:
        training.close()
    ranking = _Ranking(show)

    def ranked(name: str, metrics: dict[str, float]) -> None:
        event = {"event": "ranking", "round": simulation.rounds, "ranker": name}
        folder.append({**event, "metrics": metrics})
        ranking.done(name)

    try:
        moved = transferring.transfer(
            experiment, target, few, simulation, source, held,
            listen=ranked, start=ranking.start, advance=ranking.advance,
            progress=show,
        )  # fmt: skip
    finally:
        ranking.close()
    result = _record(options, simulation, source, held, moved)
    for kind, seconds in moved.seconds.items():
        folder.time(kind, simulation.rounds, seconds)
    if training.not_finite is not None:
        result["loss_not_finite_since_round"] = training.not_finite
    # First what took long to compute: a fault in drawing must not lose it.
    folder.write_json(RESULT, result)
    from fedjax_rec.report import run as report
    from fedjax_rec.report import transfer as report_transfer

    run = read_run(folder.path)
    folder.write_text(REPORT, report_transfer.markdown(run))
    if report.can_plot():
        with folder.replacing(report_transfer.CURVE) as temporary:
            report_transfer.plot(run, temporary)
    return result


def _record(
    options: Transfer,
    simulation: Simulation,
    source: transferring.Source,
    held: TargetSplit,
    moved: transferring.Moved,
) -> dict[str, Any]:
    """What `result.json` holds: `train`'s fields for the target, and the rest."""
    experiment, target = options.experiment, options.target
    trained_on, ranked_for = simulation.split.train, held.split.train
    rankers = moved.rankers
    return {
        "name": experiment.name,
        "algorithm": type(experiment.algorithm).__name__,
        "seed": experiment.seed,
        "metrics": {"test": rankers["zero_shot"]},
        "selected": source.result["selected"],
        "baselines": {n: rankers[n] for n in ("random", "popularity")},
        "protocol": {
            **dataclasses.asdict(target_protocol(experiment)),
            "split": held.split.name,
        },
        "data": {
            "name": ranked_for.name,
            "users": ranked_for.num_users,
            "users_with_history": held.eligible,
            "evaluated": len(held.users),
            "seed": target.seed,
            "items": ranked_for.num_items,
            "train": len(ranked_for),
            "test": len(held.split.test),
        },
        "rankers": rankers,
        "differences": moved.differences,
        "few_shot": {**dataclasses.asdict(options.few_shot), **moved.few_shot},
        "source": {
            "name": trained_on.name,
            "users": trained_on.num_users,
            "items": trained_on.num_items,
            "train": len(trained_on),
            "metrics": source.result["metrics"],
            "untrained_val": source.untrained_val,
            "baselines": source.result["baselines"],
        },
        **simulation.notes,
        "rounds": source.result["rounds"],
    }


class _Ranking:
    """A bar over the users that are ranked for; a line a ranker in a log."""

    def __init__(self, enabled: bool):
        self._enabled = enabled
        self._bar: tqdm | None = None
        self._started = time.monotonic()

    def start(self, what: str, users: int) -> None:
        """Begins a stretch of `users` rankings; with 0, what has bars of its own."""
        self.close()
        if not users:
            if self._enabled:
                print(f"{what}…", file=sys.stderr, flush=True)
            return
        self._started = time.monotonic()
        self._bar = tqdm(
            total=users,
            desc=what,
            unit=" users",
            disable=not self._enabled,
            dynamic_ncols=True,
            # In a log a bar is a line of its own: few of them.
            mininterval=0.1 if sys.stderr.isatty() else 20,
        )

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def done(self, name: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{name} done", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _target(args: list[str]) -> tuple[Target, list[str]]:
    """The target that `--target NAME` names, and the other arguments.

    Raises:
        UserError: there is no such source.
    """
    rest, name, index = [], None, 0
    while index < len(args):
        flag, equals, value = args[index].partition("=")
        index += 1
        if flag != "--target":
            rest.append(args[index - 1])
            continue
        if not equals:
            value = args[index] if index < len(args) else ""
            index += 1
        name = value
    if name is None:
        return Target(), rest
    try:
        return Target(data=data_of(name)), rest
    except UserError as error:
        raise UserError(f"--target: {error}") from error


def _name(target: Target) -> str:
    data = target.data
    source = getattr(data, "source", None) or Path(getattr(data, "dir", "") or "").stem
    return source or type(data).__name__.removesuffix("Data").lower()
