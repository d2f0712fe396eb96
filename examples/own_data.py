"""Data from a frame: the diaries of readers, with titles, genres and dates.

fedjax-rec train quickstart --plugin examples/own_data.py --data diaries
fedjax-rec data describe diaries --plugin examples/own_data.py
fedjax-rec train quickstart --plugin examples/own_data.py --data diaries \\
    --data.readers 300 --backbone.template "{title}, a {genre}"

The columns are made here; a frame of pandas or polars, or `from_rows(rows)` for any
tuples or dicts, takes their place. Prepared data are cached by the content that `load`
returns; an optional `origin(progress)`, a text that identifies it, saves the loading.
"""

from __future__ import annotations

import dataclasses

import numpy as np

import fedjax_rec as fr

GENRES = np.array(["thriller", "romance", "western", "fantasy"])


@fr.kind("data")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Diaries:
    """Readers who mostly read books of one genre.

    Attributes:
        readers: number of readers.
        books: number of books.
        seed: seed of the diaries.
    """

    readers: int = 80
    books: int = 120
    seed: int = 0

    def load(self, progress: bool) -> fr.Interactions:
        """The interactions, with titles and genres."""
        rng = np.random.default_rng(self.seed)
        genre = rng.integers(len(GENRES), size=self.books)
        reader = np.repeat(np.arange(self.readers), 15)
        book = rng.integers(self.books, size=len(reader))
        same = genre[book] == reader % len(GENRES)
        chosen = same | (rng.random(len(reader)) < 0.3)
        day = rng.integers(365, size=len(reader))
        diary = {
            "reader": reader,
            "book": book,
            "read_on": np.datetime64("2024-01-01") + day,
        }
        diary = {name: column[chosen] for name, column in diary.items()}
        titles = [f"The {GENRES[g]} number {i}" for i, g in enumerate(genre)]
        books = {"book": np.arange(self.books), "title": titles, "genre": GENRES[genre]}
        columns = {"user": "reader", "item": "book", "timestamp": "read_on"}
        return fr.from_frame(diary, **columns, items=books, name="diaries")
