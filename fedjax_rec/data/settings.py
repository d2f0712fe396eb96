"""Data of an experiment as settings, which are cheap to import."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.storage.errors import FileError

if TYPE_CHECKING:
    from fedjax_rec.data.interactions import Interactions

with epy.lazy_imports():
    from fedjax_rec.data import filters, orders, prepare, synthetic
    from fedjax_rec.data.sources import files

QUICKSORT = "quicksort_by_user"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Synthetic data, generated from a seed without a download.

    Attributes:
        num_users: Number of users.
        num_items: Number of items.
        num_interactions: Number of distinct (user, item) pairs.
        num_tastes: Number of latent tastes behind users, items and titles.
        seed: Seed of the data, independent of the experiment's.
    """

    num_users: int = 1000
    num_items: int = 1500
    num_interactions: int = 40_000
    num_tastes: int = 8
    seed: int = 0

    def origin(self, progress: bool = False) -> str:
        """Identifies the data."""
        return repr(self)

    def load(self, progress: bool = False) -> Interactions:
        """Generates the interactions."""
        sizes = dataclasses.asdict(self)
        return synthetic.synthetic(sizes.pop("seed"), **sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileData:
    """A published data set in its original files, prepared once into the cache.

    Attributes:
        source: Name of the data set.
        dir: Folder (or zip) with the original files.
        cache: Folder for prepared data, by default `$FEDJAX_REC_CACHE` or
            `~/.cache/fedjax_rec`.
        min_interactions: Users with fewer interactions are dropped and counted.
        top_items: Keep only this many of the most rated items; 0 keeps all.
        first_users: Keep only this many users with the lowest ids; 0 keeps all.
        download: Download and verify the files if they have a public address.
        order: Order of the rows, which decides between equal timestamps: empty for that
            of the source; `quicksort_by_user`, see `orders.quicksorted_by_user`; or
            the path of a table of the same interactions without a header, user and item
            first.
    """

    source: Literal[
        "movielens-100k", "movielens-1m", "movielens-latest-small", "amazon"
    ] = "movielens-100k"
    dir: str | None = None
    cache: str | None = None
    min_interactions: int = 0
    top_items: int = 0
    first_users: int = 0
    download: bool = False
    order: str = ""

    def __post_init__(self) -> None:
        check_settings(self)

    def origin(self, progress: bool = False) -> str:
        """Identifies the data by the content of their files."""
        name = prepare.locate(**self._options(progress)).name
        order = self.order
        if order not in ("", QUICKSORT):
            order = hashlib.sha256(files.InputFile.read(order).data).hexdigest()
        slice = f"{self.top_items} {self.first_users} {self.min_interactions}"
        return f"{name} {slice} {order}".rstrip()

    def load(self, progress: bool = False) -> Interactions:
        """Prepares the data if necessary, reads them, and takes the slice."""
        data = prepare.load(**self._options(progress))
        if self.order == QUICKSORT:
            data = orders.quicksorted_by_user(data)
        elif self.order:
            data = orders.ordered_as(data, files.InputFile.read(self.order))
        if not (self.top_items or self.first_users):
            return data
        return filters.subset(
            data,
            top_items=self.top_items or None,
            first_users=self.first_users or None,
            min_interactions=self.min_interactions,
        )

    def _options(self, progress: bool) -> dict[str, Any]:
        options = dataclasses.asdict(self)
        for name in ("top_items", "first_users", "order"):
            del options[name]
        return {**options, "progress": progress}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenData:
    """Interactions that a Python program has given, as in `train(..., data=...)`.

    It records them in the config of a run, and cannot load them again.

    Attributes:
        name: Name of the data set.
        content: Hash of all interactions, users and items.
    """

    name: str = ""
    content: str = ""

    def load(self, progress: bool = False) -> Interactions:
        """Refuses.

        Raises:
            FileError: Always.
        """
        raise FileError(
            f"the interactions of {self.name!r} were given in Python, and are in no "
            "file",
            fix="Pass the same ones: fedjax_rec.load(RUN, data=...), or data=... of "
            "build and train",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvData:
    """A table of users, items, and optionally ratings and timestamps.

    Attributes:
        dir: The file, or the folder that contains it.
        items_file: Table of items with titles and attributes.
        user: Name of the user column; empty names are guessed from the header.
        item: Name of the item column.
        rating: Name of the rating column.
        timestamp: Name of the timestamp column.
        delimiter: Separator of the columns; if empty, it is inferred.
        encoding: Encoding of the files.
        min_rating: Interactions with lower ratings are dropped and counted.
        min_interactions: Users with fewer interactions are dropped and counted.
        cache: Folder for prepared data, see `FileData`.
    """

    dir: str | None = None
    items_file: str | None = None
    user: str = ""
    item: str = ""
    rating: str = ""
    timestamp: str = ""
    delimiter: str = ""
    encoding: str = "utf-8"
    min_rating: float | None = None
    min_interactions: int = 0
    cache: str | None = None

    def origin(self, progress: bool = False) -> str:
        """Identifies the data by the content of their files."""
        return prepare.locate(**self._options(progress)).name

    def load(self, progress: bool = False) -> Interactions:
        """Prepares the data if necessary, and reads them."""
        return prepare.load(**self._options(progress))

    def _options(self, progress: bool) -> dict[str, Any]:
        named = {k: v for k, v in dataclasses.asdict(self).items() if v != ""}
        return {"source": "csv", **named, "progress": progress}
