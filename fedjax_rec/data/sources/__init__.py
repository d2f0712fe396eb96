"""Data sets and file formats that can be read, by name."""

from fedjax_rec.data.sources import movielens, tabular
from fedjax_rec.data.sources.source import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        movielens.ML_100K,
        movielens.ML_1M,
        movielens.ML_LATEST_SMALL,
        tabular.AMAZON,
        tabular.CSV,
    )
}
