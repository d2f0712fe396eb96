"""A transfer into its folder: `fedjax-rec transfer`."""

import contextlib
import dataclasses
import sys
from typing import Any

from rich.console import Console
from tqdm import tqdm

from fedjax_rec.cli.config_file import user_errors
from fedjax_rec.cli.options import Transfer
from fedjax_rec.cli.progress import Progress
from fedjax_rec.cli.training import opening
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.build import check as check_experiment
from fedjax_rec.experiment.record import data_name, record, run_name
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.report import transfer as report
from fedjax_rec.report.tables import can_plot
from fedjax_rec.runs import folder as runs
from fedjax_rec.runs.folder import RunFolder
from fedjax_rec.runs.plain import plain
from fedjax_rec.runs.session import set_up_jax, versions
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.transfer import run as transferring
from fedjax_rec.transfer.audiences import TargetSplit, load_target, target_protocol


def transfer(experiment: Experiment, options: Transfer) -> dict[str, Any]:
    """Trains, transfers and writes a run's folder, with progress on stderr.

    Args:
        experiment: the source.
        options: target, local steps and folder.

    Returns:
        The result, as `result.json` holds it.

    Raises:
        UserError: the experiment, the target or the folder is not right.
    """
    show = not options.quiet
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    config = {
        **plain(experiment),
        "target": plain(options.target),
        "few_shot": plain(options.few_shot),
    }
    name = f"{run_name(experiment)}-to-{data_name(options.target.data)}"
    path = options.output
    console = Console(stderr=True)

    def say(text: str) -> None:
        if show:
            console.print(text, highlight=False, soft_wrap=True)

    with user_errors():
        check_experiment(experiment)
        if path is not None:
            runs.check_folder(path, config, options.overwrite)
    with user_errors("--target.data.", "target: "):
        say("reading the target…")
        held = load_target(experiment, options.target, show)
    with user_errors():
        say("preparing the source's data and clients…")
        simulation = build(experiment, progress=show)
        transferring.check_source(simulation, options.few_shot)
    say(opening(experiment, simulation))
    say(
        f"then {len(held.users):,} users of {held.split.train.name}, "
        f"{held.split.train.num_items:,} items"
    )
    path = path or runs.new_folder("runs", name)
    try:
        with runs.open_run(path, config, versions(), options.overwrite) as folder:
            result = _run(experiment, options, simulation, held, folder)
    except KeyboardInterrupt:
        console.print(f"\nstopped; the finished rounds are in {path}/metrics.jsonl")
        raise
    report.show(Console(), runs.read_run(path))
    Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return result


def _run(
    experiment: Experiment,
    options: Transfer,
    simulation: Simulation,
    held: TargetSplit,
    folder: RunFolder,
) -> dict[str, Any]:
    """Trains, ranks, and writes the last files of the run."""
    show = not options.quiet
    training = Progress(simulation.rounds, simulation.eval_every, enabled=show)

    def listen(event: dict[str, Any]) -> None:
        folder.append(event)
        training(event)

    with contextlib.closing(training):
        source = transferring.train_source(simulation, listen)
    ranking = _Ranking(show)

    def ranked(name: str, metrics: dict[str, float]) -> None:
        event = {"event": "ranking", "round": simulation.rounds, "ranker": name}
        folder.append({**event, "metrics": metrics})
        ranking.done(name)

    with contextlib.closing(ranking):
        moved = transferring.transfer(
            experiment,
            options.target,
            options.few_shot,
            simulation,
            source,
            held,
            listen=ranked,
            start=ranking.start,
            advance=ranking.advance,
        )
    for kind, seconds in moved.seconds.items():
        folder.time(kind, simulation.rounds, seconds)
    result = _record(experiment, options, simulation, source, held, moved)
    # First, so that an error in drawing cannot lose it.
    folder.write_json(runs.RESULT, result)
    run = runs.read_run(folder.path)
    folder.write_text(runs.REPORT, report.markdown(run))
    if can_plot():
        with folder.replacing(report.CURVE) as temporary:
            report.plot(run, temporary)
    return result


def _record(
    experiment: Experiment,
    options: Transfer,
    simulation: Simulation,
    source: transferring.Source,
    held: TargetSplit,
    moved: transferring.Moved,
) -> dict[str, Any]:
    """The content of `result.json`: that of `train` for the target, and more."""
    trained = record(experiment, simulation, source.result)
    target, rankers = held.split.train, moved.rankers
    facts = ("name", "users", "items", "train")
    return {
        **trained,
        "metrics": {"test": rankers["zero_shot"]},
        "baselines": {n: rankers[n] for n in ("random", "popularity")},
        "protocol": {
            **dataclasses.asdict(target_protocol(experiment)),
            "split": held.split.name,
        },
        "data": {
            "name": target.name,
            "users": target.num_users,
            "users_with_history": held.eligible,
            "evaluated": len(held.users),
            "seed": options.target.seed,
            "items": target.num_items,
            "train": len(target),
            "test": len(held.split.test),
        },
        "rankers": rankers,
        "differences": moved.differences,
        "few_shot": {**dataclasses.asdict(options.few_shot), **moved.few_shot},
        "source": {
            **{name: trained["data"][name] for name in facts},
            "metrics": trained["metrics"],
            "untrained_val": source.untrained_val,
            "baselines": trained["baselines"],
        },
    }


class _Ranking:
    """A bar over the users that are ranked for; in a log, a line per ranker."""

    def __init__(self, enabled: bool):
        self._enabled = enabled
        self._bar = tqdm(disable=True)

    def start(self, stage: str, users: int) -> None:
        """Begins a stage of `users` rankings; 0 for one with bars of its own."""
        self.close()
        if self._enabled and not users:
            print(f"{stage}…", file=sys.stderr, flush=True)
        self._bar = tqdm(
            total=users,
            desc=stage,
            unit=" users",
            disable=not (self._enabled and users),
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 20,
        )

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def done(self, name: str) -> None:
        self._bar.set_postfix_str(f"{name} done", refresh=False)

    def close(self) -> None:
        self._bar.close()
