"""`fedjax-rec data prepare` and `data describe`."""

import pytest

from fedjax_rec.cli.data import SOURCES, data_of


def test_prepare_shows_counts_and_limits(folder, shows):
    table = folder / "t.csv"
    table.write_text("user,item\n" + "".join(f"u{i % 5},i{i}\n" for i in range(20)))
    text = shows("data", "prepare", "csv", "--dir", str(table))
    assert "users 5 items 20 interactions 20" in text
    assert f"prepared in {folder / 'cache'}" in text
    text = shows("data", "prepare", "synthetic", "--num-interactions", "3000")
    assert "interactions 3,000" in text
    assert "Real data have these properties, and this lacks them" in text


def test_describe_takes_sources_configs_and_fields(folder, write, shows):
    small = ["--data.num-users", "24", "--data.num-items", "40"]
    small += ["--data.num-interactions", "300", "--partition", "iid"]
    small += ["--partition.num-clients", "6", "--plot", "sizes.png"]
    text = shows("data", "describe", "synthetic", *small)
    assert "Real data have" in text
    assert (folder / "sizes.png").exists()
    config = write()
    clients = ["--partition.num-clients", "6"]
    assert "iid(6" in shows("data", "describe", config, "--partition", "iid", *clients)


def test_fields_are_explained(shows):
    text = shows("data", "prepare", "csv", "--help")
    assert "usage: fedjax-rec data prepare csv" in text
    assert "--min-rating none" in text
    text = shows("data", "describe", "synthetic", "--help", "partition")
    assert "--partition dirichlet" in text


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_settings(source):
    assert getattr(data_of(source), "source", source) == source


def test_the_usual_folders(folder, monkeypatch, shows, fails):
    """`FEDJAX_REC_DATA` serves every command; a folder that is named wins."""
    ratings = "userId,movieId,rating,timestamp\n" + "".join(
        f"{1 + i % 6},{1 + i % 9},4.0,{i}\n" for i in range(54)
    )
    movies = "movieId,title,genres\n" + "".join(
        f"{i},Film {i} (1999),Drama\n" for i in range(1, 10)
    )
    small = folder / "sets" / "ml-latest-small"
    small.mkdir(parents=True)
    (small / "ratings.csv").write_text(ratings)
    (small / "movies.csv").write_text(movies)
    source = "movielens-latest-small"
    assert "Pass --dir DIR" in fails("data", "prepare", source)
    monkeypatch.setenv("FEDJAX_REC_DATA", str(folder / "sets"))
    assert "users 6 items 9" in shows("data", "prepare", source)
    assert "clients 6" in shows("data", "describe", source)
    other = folder / "other"
    other.mkdir()
    (other / "ratings.csv").write_text(ratings.replace("6,9,", "7,9,"))
    (other / "movies.csv").write_text(movies)
    assert "users 7 items 9" in shows("data", "prepare", source, "--dir", str(other))
    text = fails("data", "prepare", "movielens-100k")
    assert f"put ml-100k into FEDJAX_REC_DATA={folder / 'sets'}, which lacks it" in text
