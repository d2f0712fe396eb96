"""Lists of recommended items as a table on the screen, as CSV and as Parquet."""

import csv
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedjax_rec.report.tables import Table
from fedjax_rec.simulation.recommend import Recommendation
from fedjax_rec.storage.errors import UserError, writable
from fedjax_rec.storage.files import replacing

COLUMNS = ("user", "rank", "item", "title", "score")

Lists = Sequence[Sequence[Recommendation]]


def check(output: Path | None) -> None:
    """Raises a UserError if a file of this kind cannot be written here."""
    if output is None or output.suffix != ".parquet":
        return
    for package in ("pandas", "pyarrow"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--output {output} needs {package}: pip install pandas pyarrow, or "
                "write FILE.csv"
            )


def show(users: Sequence[str], lists: Lists) -> None:
    """Prints a table for each user."""
    console = Console()
    for user, items in zip(users, lists, strict=True):
        Table(
            headings=[f"for {user}", "item", "score"],
            rows=[
                [f"{place:>2} {x.title}", x.item, f"{x.score:.4f}"]
                for place, x in enumerate(items, 1)
            ],
            styles=[""] * len(items),
        ).print(console)


def write(output: Path, users: Sequence[str], lists: Lists) -> None:
    """Writes one line for each user and item, completely or not at all."""
    lines = [
        (user, place, *item)
        for user, items in zip(users, lists, strict=True)
        for place, item in enumerate(items, 1)
    ]
    with writable(output), replacing(output) as temporary:
        if output.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *lines])
            return
        import pandas as pd

        columns = dict(zip(COLUMNS, zip(*lines, strict=True), strict=True))
        frame = pd.DataFrame({name: list(column) for name, column in columns.items()})
        frame.to_parquet(temporary, index=False)
