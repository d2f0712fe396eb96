"""Tables in a terminal and in Markdown, and the frame of plots.

Matplotlib (the extra `analysis`) is only imported here.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box, table
from rich.console import Console
from rich.markup import escape
from rich.segment import Segments

from fedjax_rec.runs.plain import flat

_LABEL = 24
"""Largest width of the labels for which a table is wider than the terminal."""


class Table(NamedTuple):
    """A table with a column of labels.

    Attributes:
        headings: headings of all columns.
        rows: cells of each row.
        styles: style of each row in a terminal.
        title: title in a terminal.
        label_width: smallest width of the first column in a terminal.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    styles: Sequence[str]
    title: str = ""
    label_width: int = 10

    def print(self, console: Console) -> None:
        """Prints the table, wider than the terminal if its numbers need it.

        Labels wrap, and no cell is cut.
        """
        first, *others = self.headings
        lines = table.Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        lines.padding = (0, 1, 0, 0)
        lines.pad_edge = False
        lines.add_column(first, min_width=self.label_width or None, overflow="fold")
        for heading in others:
            lines.add_column(heading, justify="right", no_wrap=True)
        for cells, style in zip(self.rows, self.styles, strict=True):
            lines.add_row(*map(escape, cells), style=style)
        columns = zip(self.headings, *self.rows, strict=True)
        label, *numbers = (max(map(len, column)) for column in columns)
        least = min(label, _LABEL) + sum(numbers) + len(self.headings)
        options = console.options.update(width=max(console.width, least))
        segments = Segments(console.render(lines, options))
        console.print(segments, soft_wrap=True, end="")

    def markdown(self) -> list[str]:
        """Lines of Markdown."""
        rule = "|---|" + "---:|" * (len(self.headings) - 1)
        rows = [[cell.replace("|", "/") for cell in cells] for cells in self.rows]
        head, *body = (f"| {' | '.join(cells)} |" for cells in (self.headings, *rows))
        return [head, rule, *body]


def fields_of(config: dict[str, Any]) -> list[str]:
    """A table of a configuration's fields in Markdown."""
    lines = [f"| `{name}` | {value} |" for name, value in flat(config).items()]
    return ["| field | value |", "|---|---|", *lines]


def say(console: Console, texts: Sequence[str], prefix: str = "") -> None:
    """Prints texts as they are, each after a prefix with markup."""
    for text in texts:
        console.print(prefix + escape(text), highlight=False)


def can_plot() -> bool:
    """Whether Matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def panels(count: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure with a row of axes.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        # A Figure without pyplot needs no display and leaves no global state.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plotting needs Matplotlib, which is not installed. Install the extra: "
            "pip install 'fedjax-rec[analysis]'"
        ) from error
    # It warns of each font of its list that is absent, for each text.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **options)[0]


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure into an image file, with a light frame."""
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
