"""The data sets that can be read, by name."""

from fedjax_rec.data.sources import (
    amazon,
    generic_csv,
    movielens_1m,
    movielens_100k,
    movielens_latest_small,
)
from fedjax_rec.data.sources.source import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        movielens_100k.SOURCE,
        movielens_1m.SOURCE,
        movielens_latest_small.SOURCE,
        amazon.SOURCE,
        generic_csv.SOURCE,
    )
}

__all__ = ["SOURCES", "Source"]
