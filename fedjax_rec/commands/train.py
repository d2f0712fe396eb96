"""`fedjax-rec train CONFIG`: from a config file to a folder of results."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from fedjax_rec.commands.config_file import (
    choices_help,
    load_config,
    override,
    switch,
    value_error,
)
from fedjax_rec.commands.progress import Progress
from fedjax_rec.commands.session import (
    Processes,
    UserError,
    join,
    set_up_jax,
    versions,
)
from fedjax_rec.experiment import Experiment, build, check
from fedjax_rec.simulation.runfolder import (
    REPORT,
    RESULT,
    Run,
    RunFolder,
    RunFolderError,
    check_folder,
    free_folder,
    open_run,
    plain,
    read_run,
)
from fedjax_rec.simulation.simulation import Simulation

HELP = """\
usage: fedjax-rec train CONFIG [--output DIR] [--overwrite] [--quiet] [--FIELD VALUE]

Runs the experiment that CONFIG describes: trains it round by round, evaluates it, and
sets it beside rankers that learn nothing.

CONFIG is a Python file whose get_config() returns a fedjax_rec.Experiment; its
docstring says what to expect. Every field can be changed on the way:

  fedjax-rec train configs/quickstart.py --rounds 50
  fedjax-rec train configs/quickstart.py --algorithm.client-lr 0.3 --seed 1
  fedjax-rec train configs/quickstart.py --algorithm FedNCF --cohort.sampling uniform
  fedjax-rec train configs/fedmf_ml100k.py --data.dir ~/ml-100k --output runs/mine

`fedjax-rec train CONFIG --help` lists the fields with their values and meaning.

The folder (by default runs/NAME-ALGORITHM-DATA-sSEED) then holds:
  config.json     every field as it was run
  versions.json   of the software, and the device
  metrics.jsonl   a line a round and a line an evaluation, written as they happen
  result.json     metrics, baselines, protocol, seconds; only once the run is finished
  report.md       the same to read
  curves.png      with the extra `analysis`
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """What `train` takes.

    Attributes:
        experiment: what is run.
        output: the run's folder; by default runs/NAME-ALGORITHM-DATA-sSEED.
        overwrite: replace the results of a finished run of the same config.
        quiet: no progress; only the table at the end, and warnings.
        distributed: this is one of several processes of the run; the first writes.
        processes: how the processes find each other.
    """

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    output: Path | None = None
    overwrite: bool = False
    quiet: bool = False
    distributed: bool = False
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Processes
    )


def main(args: list[str]) -> int:
    """Runs the command."""
    path = next((a for a in args if a.endswith(".py")), args[0] if args else "")
    if not path or path.startswith("-"):
        print(HELP, end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    rest = list(args)
    rest.remove(path)
    experiment, doc = load_config(path)
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
        return follow(experiment)
    config = plain(experiment)
    path = options.output or free_folder("runs", run_name(experiment))
    console = Console(stderr=True)
    try:
        check(experiment)
        check_folder(path, config, options.overwrite)
        if show:
            console.print("preparing data and clients…")
        simulation = build(experiment, progress=show)
    except ValueError as error:
        raise UserError(value_error(error)) from error
    if show:
        console.print(opening(experiment, simulation), highlight=False, soft_wrap=True)
    try:
        with open_run(path, config, versions(), options.overwrite) as folder:
            result = _run(experiment, simulation, folder, show)
    except RunFolderError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"\nstopped; the rounds so far are in {path}/metrics.jsonl")
        raise
    from fedjax_rec import report

    run = read_run(path)
    report.show(Console(), run)
    Console().print(f"written: {path}", highlight=False, soft_wrap=True)
    return result


def follow(experiment: Experiment) -> dict[str, Any]:
    """Does the share of a process that is not the first: it computes, and is silent."""
    try:
        return build(experiment).run()
    except ValueError as error:
        raise UserError(value_error(error)) from error


def _run(
    experiment: Experiment, simulation: Simulation, folder: RunFolder, show: bool
) -> dict[str, Any]:
    progress = Progress(simulation.rounds, simulation.eval_every, enabled=show)

    def listen(event: dict[str, Any]) -> None:
        folder.append(event)
        progress(event)

    try:
        result = record(experiment, simulation, simulation.run(listen))
    finally:
        progress.close()
    if progress.not_finite is not None:
        result["loss_not_finite_since_round"] = progress.not_finite
    run = write_result(folder, result)
    from fedjax_rec import report

    if report.can_plot():
        with folder.replacing(report.CURVES) as temporary:
            report.plot_curves([run], temporary)
    return result


def write_result(folder: RunFolder, result: dict[str, Any]) -> Run:
    """Finishes a run's folder: `result.json`, then the same to read."""
    # First what took long to compute: a fault in drawing must not lose it.
    folder.write_json(RESULT, result)
    from fedjax_rec import report

    run = read_run(folder.path)
    folder.write_text(REPORT, report.markdown(run))
    return run


def record(
    experiment: Experiment, simulation: Simulation, result: dict[str, Any]
) -> dict[str, Any]:
    """What `result.json` holds: the simulation's result, and what it was run on."""
    train, protocol = simulation.split.train, dict(result["protocol"])
    # `history` is in metrics.jsonl; the split's info may hold whole data sets.
    protocol["split_info"] = {
        name: value
        for name, value in protocol["split_info"].items()
        if isinstance(value, bool | int | float | str)
    }
    return {
        "name": experiment.name,
        "algorithm": type(experiment.algorithm).__name__,
        "seed": experiment.seed,
        "metrics": result["metrics"],
        "selected": result["selected"],
        "baselines": result["baselines"],
        "protocol": protocol,
        "data": {
            "name": train.name,
            "users": train.num_users,
            "items": train.num_items,
            "train": len(train),
            "val": len(simulation.split.val),
            "test": len(simulation.split.test),
            "clients": simulation.data.num_clients,
        },
        **simulation.notes,
        "rounds": result["rounds"],
        "seconds": result["seconds"],
    }


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
