"""Runs a sweep into its folder: points, tables, plots."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.report.tables import can_plot
from fedjax_rec.runs import tracking
from fedjax_rec.runs.plain import plain
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep import plots, space, table
from fedjax_rec.sweep.choose import Values, check_optuna, choose
from fedjax_rec.sweep.fan_out import run_in_processes
from fedjax_rec.sweep.grouping import data_of
from fedjax_rec.sweep.memory import read_bytes
from fedjax_rec.sweep.on_ray import check_ray, run_on_ray
from fedjax_rec.sweep.progress import SweepProgress
from fedjax_rec.sweep.run_points import Listener, run_points
from fedjax_rec.sweep.store import Point, SweepFolder


def sweep(
    options: Any, bases: Sequence[Experiment], usual: Sequence[str], name: str
) -> int:
    """Runs a sweep into its folder.

    Args:
        options: what, and where to.
        bases: the experiments that points change.
        usual: the config's own grid, for fields that `options` do not name.
        name: of the sweep.

    Returns:
        0, or 1 where points failed.

    Raises:
        UserError: the options, a value or the folder is not right; nothing has run.
    """
    axes = [space.parse_grid(bases, text) for text in options.grid]
    draws = [space.parse_sample(bases, text) for text in options.sample]
    named = {part.field for part in (*axes, *draws)}
    usual_axes = [space.parse_grid(bases, text) for text in usual]
    axes = [axis for axis in usual_axes if axis.field not in named] + axes
    if len(bases) > 1 and "name" not in named:
        axes.insert(0, space.names_axis(bases))
    _check(options, axes, draws)
    memory = read_bytes(options.memory) if options.memory else 0
    try:
        kinds = tracking.kinds_of(options.track)
    except tracking.TrackingError as error:
        raise UserError(str(error)) from error
    options = dataclasses.replace(options, track=kinds)
    path = options.output or Path("runs") / f"sweep-{name}"
    folder = SweepFolder(path, bases)
    grid = space.grid_settings(axes)
    samples = space.sampled_settings(draws, options.points, options.sample_seed)
    wanted = [{**s, **g} for s in samples or [{}] for g in grid]
    points = [] if options.optuna else [folder.add(values) for values in wanted]
    for experiment in _corners(folder, draws, grid):
        if options.optuna:
            _check_selection(experiment)
    log = [a.field for a in axes if a.geometric]
    log += [d.field for d in draws if d.kind == "log"]
    folder.geometric = list(dict.fromkeys([*folder.geometric, *log]))
    fans_out = options.jobs > 1 or options.engine == "ray"
    set_up_jax(bases[0].execution.dtype, devices=1 if fans_out else 0)
    with folder.locked():
        runner = _Runner(folder, options, memory, name)
        if options.optuna:
            _optuna(runner, draws, grid, options)
        else:
            runner.run(points)
        return runner.finish()


class _Runner:
    """Runs points of one sweep, and keeps its folder up to date."""

    def __init__(self, folder: SweepFolder, options: Any, memory: int, name: str):
        self.folder, self.options, self.memory = folder, options, memory
        self.name = name
        self.console = Console(stderr=True, quiet=options.quiet)

    def run(self, points: Sequence[Point]) -> None:
        """Runs those that are not finished."""
        folder, options = self.folder, self.options
        todo, again, kept = [], 0, 0
        for point in points:
            if folder.is_finished(point):
                kept += 1
                folder.points[point.name] = {
                    "values": point.values,
                    "status": "finished",
                }
                continue
            again += folder.points[point.name]["status"] == "failed"
            folder.points[point.name] = {"values": point.values, "status": "waiting"}
            todo.append(dataclasses.replace(point, track=options.track))
        data = _load(todo[0].experiment) if todo else {}
        folder.save()
        words = [f"{len(points)} points in {folder.path}"]
        words += [f"{kept} finished before and kept"] if kept else []
        words += [f"{again} failed before and run again"] if again else []
        self.console.print(", ".join(words), highlight=False, soft_wrap=True)
        if not todo:
            return
        rounds = {point.name: point.experiment.rounds for point in todo}
        progress = SweepProgress(rounds, enabled=not options.quiet)

        def done(name: str, error: str) -> None:
            folder.tell(name, "failed" if error else "finished", error)
            progress.point_done(name, error)

        listener = Listener(
            say=progress.say,
            round_done=progress.round_done,
            point_done=done,
            block_done=self.write_tables,
        )
        try:
            if options.engine == "ray":
                run_on_ray(todo, folder.path, done, self.memory, options.jobs)
            elif options.jobs > 1:
                run_in_processes(todo, folder.path, done, self.memory, options.jobs)
            else:
                run_points(todo, folder.path, listener, self.memory, data)
        except KeyboardInterrupt:
            progress.close()
            self.console.print(
                "\nstopped; the same command goes on from here", highlight=False
            )
            raise
        finally:
            progress.close()

    def settings(self) -> tuple[list[table.Setting], str]:
        """The table's rows so far, and the metric they are compared by."""
        folder = self.folder
        lost = [
            plain(folder.experiment(told["values"]))
            for told in folder.points.values()
            if told["status"] == "failed"
        ]
        runs = folder.runs()
        rows = table.settings_of(runs, folder.fields(), lost)
        return rows, table.selection_metric(runs)

    def write_tables(self) -> None:
        """Writes `table.csv` and `table.md` of what is finished so far."""
        settings, metric = self.settings()
        writer = self.folder.writer()
        writer.write_text("table.csv", table.as_csv(settings, metric))
        writer.write_text("table.md", table.markdown(settings, self.name, metric))

    def finish(self) -> int:
        """Writes tables and plots, prints the table; 1 where points failed."""
        settings, metric = self.settings()
        self.write_tables()
        console, folder = Console(), self.folder
        if can_plot() and metric and any(s.runs for s in settings):
            writer = folder.writer()
            for field in plots.numeric_fields(settings):
                log = field in folder.geometric
                with writer.replacing(plots.plot_name(field)) as temporary:
                    plots.plot_field(settings, field, metric, log, temporary)
            with writer.replacing(plots.CURVES) as temporary:
                plots.plot_curves(settings, metric, temporary)
            if table.sent_differs(settings):
                with writer.replacing(plots.FRONT) as temporary:
                    plots.plot_front(settings, metric, temporary)
        table.show(console, settings, metric)
        failed = {
            name: told["error"]
            for name, told in folder.points.items()
            if told["status"] == "failed"
        }
        for name, error in failed.items():
            console.print(f"failed: {name}: {error}", highlight=False, markup=False)
        if not can_plot():
            console.print("no plots: pip install 'fedjax-rec[analysis]'", markup=False)
        console.print(f"written: {folder.path}", highlight=False, soft_wrap=True)
        return 1 if failed else 0


def _optuna(
    runner: _Runner, draws: list[space.Draw], grid: list[Values], options: Any
) -> None:
    folder, fields = runner.folder, [draw.field for draw in draws]

    def reached(setting: Values) -> float | None:
        """Mean validation over the setting's seeds; `None` unless all have finished."""
        names = {folder.add({**setting, **g}).name for g in grid}
        runs = [r for r in folder.runs() if r.path.name in names]
        if len(runs) < len(names):
            return None
        row = table.settings_of(runs, fields)[0]
        metric = table.selection_metric(runs)
        return row.val[metric].mean if metric in row.val else None

    def run(settings: list[Values]) -> list[float | None]:
        runner.run([folder.add({**s, **g}) for s in settings for g in grid])
        runner.write_tables()
        return [reached(setting) for setting in settings]

    tried: list[Values] = []
    for told in list(folder.points.values()):
        setting = {f: told["values"][f] for f in fields if f in told["values"]}
        if len(setting) == len(fields) and setting not in tried:
            tried.append(setting)
    values = run(tried) if tried else []
    before = [(s, v) for s, v in zip(tried, values, strict=True) if v is not None]
    choose(draws, options.optuna, options.batch, options.sample_seed, before, run)


def _check(options: Any, axes: list[space.Axis], draws: list[space.Draw]) -> None:
    space.check_fields(axes, draws)
    if not axes and not draws:
        raise UserError(
            "nothing to sweep; expected for example --grid algorithm.client-lr=0.1,1"
        )
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
    if options.optuna:
        check_optuna()
    if options.engine == "ray":
        check_ray()


def _check_selection(experiment: Experiment) -> None:
    if experiment.protocol.selection == "last":
        raise UserError(
            "--optuna compares settings by validation, but protocol.selection='last' "
            "uses none; expected a metric such as --protocol.selection ndcg@10"
        )


def _load(experiment: Experiment) -> dict[str, Interactions]:
    """The data, by `data_of`: what is wrong with them is wrong with every point."""
    try:
        return {data_of(experiment): experiment.data.load()}
    except ValueError as error:
        raise UserError(str(error)) from error


def _corners(folder: SweepFolder, draws: list[space.Draw], grid: list[Values]):
    """Experiments at the ends of all ranges: what they refuse, they refuse at once."""
    for g in grid:
        for draw in draws:
            for value in draw.values or (draw.low, draw.high):
                own = int(value) if draw.whole else value
                yield folder.experiment({**g, draw.field: own})
