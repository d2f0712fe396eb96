"""Runs points of a sweep, and keeps tables and plots in its folder up to date."""

import dataclasses
import signal
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from fedjax_rec.data.returned import load_data
from fedjax_rec.report.tables import can_plot
from fedjax_rec.runs.interrupts import Stopped
from fedjax_rec.runs.plain import plain
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep import plots, table
from fedjax_rec.sweep.choose import Values, choose
from fedjax_rec.sweep.fan_out import run_in_processes, run_on_ray
from fedjax_rec.sweep.grouping import data_key
from fedjax_rec.sweep.progress import SweepProgress
from fedjax_rec.sweep.run_points import Listener, run_points
from fedjax_rec.sweep.space import Draw
from fedjax_rec.sweep.store import FAILED, FINISHED, WAITING, Point, SweepFolder


class Session:
    """One call of a sweep.

    Args:
        folder: folder of the sweep, locked.
        options: options of the command.
        memory: bytes for points side by side; 0 is half of the free memory.
        name: name of the sweep.
    """

    def __init__(self, folder: SweepFolder, options: Any, memory: int, name: str):
        self.folder, self.options, self.memory = folder, options, memory
        self.name = name
        self.console = Console(stderr=True, quiet=options.quiet)

    def run(self, points: Sequence[Point]) -> None:
        """Runs the points that are not finished.

        Raises:
            UserError: the data cannot be loaded.
        """
        folder, options = self.folder, self.options
        waiting, again = [], 0
        for point in points:
            finished = folder.is_finished(point)
            if finished:
                folder.complete(point)
            else:
                again += folder.points[point.name]["status"] == FAILED
                waiting.append(dataclasses.replace(point, track=options.track))
            folder.set_status(point.name, FINISHED if finished else WAITING)
        data = {}
        if waiting:
            first = waiting[0].experiment
            try:  # data that cannot be loaded fail every point
                data = {data_key(first): load_data(first.data)}
            except ValueError as error:
                raise UserError(str(error)) from error
        folder.save()
        finished = len(points) - len(waiting)
        words = [f"{len(points)} points in {folder.path}"]
        words += [f"{finished} finished before and kept"] if finished else []
        words += [f"{again} failed before and run again"] if again else []
        self.console.print(", ".join(words), highlight=False, soft_wrap=True)
        if not waiting:
            return
        rounds = {point.name: point.experiment.rounds for point in waiting}
        progress = SweepProgress(rounds, enabled=not options.quiet)

        def done(name: str, error: str) -> None:
            folder.set_status(name, FAILED if error else FINISHED, error)
            folder.save()
            progress.point_done(name, error)

        try:
            if options.engine == "ray":
                run_on_ray(waiting, folder.path, done, self.memory, options.jobs)
            elif options.jobs > 1:
                run_in_processes(waiting, folder.path, done, self.memory, options.jobs)
            else:
                listener = Listener(
                    say=progress.say,
                    round_done=progress.round_done,
                    point_done=done,
                    block_done=self.write_tables,
                )
                run_points(waiting, folder.path, listener, self.memory, data)
        except (KeyboardInterrupt, Stopped) as stop:
            progress.close()
            self.console.print(
                "\nstopped; the same command goes on from here", highlight=False
            )
            if isinstance(stop, Stopped) and stop.number != signal.SIGINT:
                raise SystemExit(128 + stop.number) from stop
            raise KeyboardInterrupt from stop
        finally:
            progress.close()

    def choose(self, draws: Sequence[Draw], grid: Sequence[Values]) -> None:
        """Runs settings that Optuna chooses, each at every point of the grid."""
        folder, options = self.folder, self.options
        fields = [draw.field for draw in draws]

        def points_of(setting: Values) -> list[Point]:
            return [folder.add({**setting, **values}) for values in grid]

        def value_of(setting: Values) -> float | None:
            """Mean validation, higher is better; `None` if a seed has failed."""
            names = {point.name for point in points_of(setting)}
            runs = [run for run in folder.runs() if run.path.name in names]
            if len(runs) < len(names):
                return None
            row, every = table.settings_of(runs, fields)[0], folder.runs()
            metric = table.selection_metric(every)
            if not metric and len(different := table.metrics_of(every)) > 1:
                raise UserError(table.MIXED.format(metrics=", ".join(different)))
            if metric not in row.val:
                return None
            return row.sign(metric) * row.val[metric].mean

        def run(settings: list[Values]) -> list[float | None]:
            self.run([point for setting in settings for point in points_of(setting)])
            self.write_tables()
            return [value_of(setting) for setting in settings]

        tried: list[Values] = []
        for entry in list(folder.points.values()):
            setting = {f: entry["values"][f] for f in fields if f in entry["values"]}
            if len(setting) == len(fields) and setting not in tried:
                tried.append(setting)
        values = run(tried) if tried else []
        before = [(s, v) for s, v in zip(tried, values, strict=True) if v is not None]
        choose(draws, options.optuna, options.batch, options.sample_seed, before, run)

    def write_tables(self) -> tuple[list[table.Setting], str]:
        """Writes `table.csv` and `table.md` of the finished points.

        Returns:
            The rows, and the metric they are compared by.
        """
        folder, runs = self.folder, self.folder.runs()
        failed = [
            plain(folder.experiment(entry["values"]))
            for entry in folder.with_status(FAILED).values()
        ]
        settings = table.settings_of(runs, folder.fields(), failed)
        metric, writer = table.selection_metric(runs), folder.writer()
        writer.write_text("table.csv", table.as_csv(settings, metric))
        writer.write_text("table.md", table.markdown(settings, self.name, metric))
        return settings, metric

    def finish(self) -> int:
        """Writes tables and plots, and prints the table; 1 if points failed."""
        settings, metric = self.write_tables()
        console, folder = Console(), self.folder
        if can_plot() and metric and any(s.runs for s in settings):
            self._plot(settings, metric)
        table.show(console, settings, metric)
        failed = folder.with_status(FAILED)
        for name, entry in failed.items():
            text = f"failed: {name}: {entry['error']}"
            console.print(text, highlight=False, markup=False)
        if not can_plot():
            console.print("no plots: pip install 'fedjax-rec[analysis]'", markup=False)
        console.print(f"written: {folder.path}", highlight=False, soft_wrap=True)
        return 1 if failed else 0

    def _plot(self, settings: Sequence[table.Setting], metric: str) -> None:
        writer = self.folder.writer()
        for field in plots.numeric_fields(settings):
            log = field in self.folder.geometric
            with writer.replacing(plots.plot_name(field)) as temporary:
                plots.plot_field(settings, field, metric, log, temporary)
        with writer.replacing(plots.CURVES) as temporary:
            plots.plot_curves(settings, metric, temporary)
        if table.sent_differs(settings):
            with writer.replacing(plots.FRONT) as temporary:
                plots.plot_front(settings, metric, temporary)
