"""Checks a sweep's options, and runs it into its folder."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs import tracking
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.errors import DiskFull, UserError
from fedjax_rec.sweep import space
from fedjax_rec.sweep.store import SweepFolder

_PACKAGES = {
    "optuna": "--optuna needs Optuna: pip install 'fedjax-rec[sweep]' (or --points N, "
    "which draws at random)",
    "ray": "--engine ray needs Ray: pip install 'fedjax-rec[sweep]' (or --jobs N for "
    "processes on this machine)",
}


def sweep(
    options: Any, bases: Sequence[Experiment], grid: Sequence[str], name: str
) -> int:
    """Runs a sweep into its folder.

    Args:
        options: options of the command, `cli.sweep.Sweep`.
        bases: the experiments that points change.
        grid: the config's own grid, for fields that `options` do not name.
        name: name of the sweep.

    Returns:
        0, or 1 if points failed.

    Raises:
        UserError: an option, a value or the folder is not right; no point has run.
    """
    axes, draws = _axes_and_draws(options, bases, grid)
    _check(options, axes, draws)
    options = dataclasses.replace(options, track=tracking.kinds_of(options.track))
    memory = space.read_bytes(options.memory) if options.memory else 0
    path = options.output or Path("runs") / f"sweep-{name}"
    folder = SweepFolder(path, bases)
    settings = space.grid_settings(axes)
    samples = space.sampled_settings(draws, options.points, options.sample_seed)
    wanted = [{**sample, **s} for sample in samples or [{}] for s in settings]
    for values in [] if options.optuna else wanted:
        folder.experiment(values)
    for experiment in _extremes(folder, draws, settings):
        if options.optuna and experiment.protocol.selection == "last":
            raise UserError(
                "--optuna compares settings by validation, but protocol.selection="
                "'last' uses none; expected a metric such as --protocol.selection "
                "ndcg@10"
            )
    geometric = [axis.field for axis in axes if axis.geometric]
    geometric += [draw.field for draw in draws if draw.kind == "log"]
    fans_out = options.jobs > 1 or options.engine == "ray"
    set_up_jax(bases[0].execution.dtype, devices=1 if fans_out else 0)
    from fedjax_rec.sweep.session import Session

    with folder.locked(), _continuable():
        folder.geometric = list(dict.fromkeys([*folder.geometric, *geometric]))
        points = [] if options.optuna else [folder.add(values) for values in wanted]
        session = Session(folder, options, memory, name)
        if options.optuna:
            session.choose(draws, settings)
        else:
            session.run(points)
        return session.finish()


@contextlib.contextmanager
def _continuable() -> Iterator[None]:
    """Adds to the error of a full disk how the sweep goes on."""
    try:
        yield
    except DiskFull as error:
        raise UserError(
            f"{error}. Points that are done are kept: free some space, and run the "
            "same command again"
        ) from error


def _axes_and_draws(
    options: Any, bases: Sequence[Experiment], grid: Sequence[str]
) -> tuple[list[space.Axis], list[space.Draw]]:
    variants = space.with_kinds(bases, (*grid, *options.grid, *options.sample))
    axes = [space.parse_grid(variants, text) for text in options.grid]
    draws = [space.parse_sample(variants, text) for text in options.sample]
    named = {part.field for part in (*axes, *draws)}
    defaults = [space.parse_grid(variants, text) for text in grid]
    axes = [axis for axis in defaults if axis.field not in named] + axes
    if len(bases) > 1 and "name" not in named:
        axes.insert(0, space.names_axis(bases))
    return axes, draws


def _check(options: Any, axes: list[space.Axis], draws: list[space.Draw]) -> None:
    space.check_fields(axes, draws)
    if not axes and not draws:
        raise UserError("nothing to sweep; expected for example --grid seed=0:3")
    if draws and not (options.optuna or options.points):
        raise UserError("--sample needs --points N (how many) or --optuna N")
    if not draws and (options.optuna or options.points):
        flag = "--optuna" if options.optuna else "--points"
        raise UserError(f"{flag} needs ranges: --sample FIELD=log:LOW:HIGH")
    if options.optuna and [a.field for a in axes if a.field != "seed"]:
        raise UserError(
            "--optuna chooses the settings: expected no --grid but that of seeds; give "
            "other fields as --sample FIELD=choice:a,b"
        )
    needed = ["optuna"] if options.optuna else []
    needed += ["ray"] if options.engine == "ray" else []
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise UserError(_PACKAGES[package])


def _extremes(
    folder: SweepFolder, draws: list[space.Draw], settings: list[dict[str, Any]]
) -> Iterator[Experiment]:
    """Experiments at the ends of all ranges, so that bad values are refused early."""
    for setting in settings:
        for draw in draws:
            for value in draw.values or (draw.low, draw.high):
                value = int(value) if draw.integer else value
                yield folder.experiment({**setting, draw.field: value})
