"""TEMPORARY: replaced by branch data."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from etils import epy

with epy.lazy_imports():
    import jax

    from fedjax_rec.data import interactions as _i
    from fedjax_rec.data import subset as _subset


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Embedded, made from a seed: nothing to download.

    Attributes:
        num_users: how many people.
        num_items: how many items.
        num_interactions: about how many (user, item) pairs, each once.
        num_tastes: latent tastes behind users, items and titles.
        seed: of the data; independent of the experiment's.
    """

    num_users: int = 1000
    num_items: int = 1500
    num_interactions: int = 40_000
    num_tastes: int = 8
    seed: int = 0

    def origin(self, progress: bool = False) -> str:
        """All that decides them."""
        del progress
        return repr(self)

    def load(self, progress: bool = False) -> _i.Interactions:
        """Makes the interactions."""
        del progress
        from fedjax_rec.data.synthetic import synthetic

        return synthetic(
            jax.random.key(self.seed),
            num_users=self.num_users,
            num_items=self.num_items,
            num_interactions=self.num_interactions,
            num_tastes=self.num_tastes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileData:
    """A known data set in its original files, prepared once into the cache.

    Attributes:
        source: which format.
        dir: folder (or zip) with the original files.
        cache: where prepared data go; by default `$FEDJAX_REC_CACHE` or
            `~/.cache/fedjax_rec`.
        min_interactions: users with fewer are dropped, and counted.
        top_items: keep only so many of the most rated items; 0 keeps all.
        first_users: keep only so many users, of the lowest ids; 0 keeps all.
        download: fetch and verify the files where a public address is known.
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

    def origin(self, progress: bool = False) -> str:
        """All that decides them; files by their content."""
        from fedjax_rec.data.prepare import locate

        name = locate(**self._source(progress)).name
        return f"{name} {self.top_items} {self.first_users} {self.min_interactions}"

    def _source(self, progress: bool) -> dict[str, Any]:
        return {
            "source": self.source,
            "dir": self.dir,
            "cache": self.cache,
            "min_interactions": self.min_interactions,
            "download": self.download,
            "progress": progress,
        }

    def load(self, progress: bool = False) -> _i.Interactions:
        """Prepares the data if need be, reads them, and takes the slice asked for."""
        from fedjax_rec.data.prepare import load

        data = load(**self._source(progress))
        if not (self.top_items or self.first_users):
            return data
        return _subset.subset(
            data,
            top_items=self.top_items or None,
            first_users=self.first_users or None,
            min_interactions=self.min_interactions,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvData:
    """Your own table of user, item, and maybe rating and timestamp.

    Attributes:
        dir: the file, or the folder it lies in.
        items_file: table of items with titles and attributes.
        user: name of the user column; columns left empty are guessed from the header.
        item: name of the item column.
        rating: name of the rating column.
        timestamp: name of the timestamp column.
        delimiter: between columns; empty finds it out.
        encoding: of the files.
        min_rating: interactions rated lower are dropped, and counted.
        min_interactions: users with fewer are dropped, and counted.
        cache: where prepared data go; see `FileData`.
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
        """All that decides them; files by their content."""
        from fedjax_rec.data.prepare import locate

        return locate(**self._source(progress)).name

    def load(self, progress: bool = False) -> _i.Interactions:
        """Prepares the data if need be, and reads them."""
        from fedjax_rec.data.prepare import load

        return load(**self._source(progress))

    def _source(self, progress: bool) -> dict[str, Any]:
        given = {
            name: getattr(self, name)
            for name in ("user", "item", "rating", "timestamp", "delimiter")
            if getattr(self, name)
        }
        if self.min_rating is not None:
            given["min_rating"] = self.min_rating
        return {
            "source": "csv",
            "dir": self.dir,
            "items_file": self.items_file,
            "cache": self.cache,
            "min_interactions": self.min_interactions,
            "encoding": self.encoding,
            "progress": progress,
            **given,
        }
