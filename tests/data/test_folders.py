"""Usual folders of data sets in `FEDJAX_REC_DATA`."""

import subprocess
import sys

import pytest

from fedjax_rec.data.folders import USUAL, advice, check_folder, usual_folder
from fedjax_rec.data.prepare import locate
from fedjax_rec.data.sources import SOURCES
from fedjax_rec.storage.errors import FileError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty folder of data sets, and an empty cache."""
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


def test_every_published_source_has_a_usual_name():
    assert USUAL.keys() == SOURCES.keys() - {"csv"}


@pytest.mark.parametrize("source", USUAL)
def test_a_folder_or_a_zip_is_found(root, source, monkeypatch):
    assert usual_folder(source) is None
    (root / f"{USUAL[source]}.zip").write_bytes(b"")
    assert usual_folder(source) == root / f"{USUAL[source]}.zip"
    (root / USUAL[source]).mkdir()
    assert usual_folder(source) == root / USUAL[source]
    check_folder(source, None)
    monkeypatch.delenv("FEDJAX_REC_DATA")
    assert usual_folder(source) is None
    assert usual_folder("csv") is None


def test_data_are_read_from_there_unless_a_folder_is_named(root, tmp_path):
    folder = root / "ml-latest-small"
    folder.mkdir()
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n2,A,B\n")
    source = "movielens-latest-small"
    assert locate(source) == locate(source, dir=folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,5\n")
    (other / "movies.csv").write_text("movieId,title,genres\n2,A,B\n")
    assert locate(source, dir=other) != locate(source)


def test_messages_mention_the_variable(root, monkeypatch):
    lacks = f", or put ml-1m into FEDJAX_REC_DATA={root}, which lacks it"
    assert advice("movielens-1m") == lacks
    for check in (
        lambda: locate("movielens-1m"),
        lambda: check_folder("movielens-1m", None),
    ):
        with pytest.raises(FileError) as caught:
            check()
        assert "no folder given. Pass dir=" in str(caught.value)
        assert lacks in str(caught.value)
    monkeypatch.delenv("FEDJAX_REC_DATA")
    with pytest.raises(FileError, match="set FEDJAX_REC_DATA to a folder that"):
        check_folder("amazon", None)
    assert advice("csv") == ""


def test_a_download_needs_no_folder(tmp_path):
    check_folder("movielens-100k", None, download=True)
    (tmp_path / "cache" / "downloads").mkdir(parents=True)
    (tmp_path / "cache" / "downloads" / "ml-100k.zip").write_bytes(b"")
    check_folder("movielens-100k", None)  # it may be the archive
    with pytest.raises(FileError, match="no folder given"):
        check_folder("movielens-100k", None, cache=str(tmp_path / "elsewhere"))


def test_a_folder_that_is_not_there(root):
    (root / "ml-100k").mkdir()
    with pytest.raises(FileError) as caught:
        check_folder("movielens-100k", str(root / "ml100k"))
    assert str(caught.value).startswith(
        f"{root / 'ml100k'}: found no folder, zip or file; expected files of "
        f"movielens-100k. Did you mean {root / 'ml-100k'}? Pass dir=, the folder of"
    )
    with pytest.raises(FileError, match="found no folder"):
        check_folder("csv", "/nowhere/at/all")
    check_folder("csv", str(root))


def test_the_module_loads_nothing_heavy():
    code = "import sys, fedjax_rec.data.folders; "
    code += "print({'jax', 'numpy'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
