"""`load`: the cache is faithful, complete or absent, and used."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_rec.data.prepare import load
from fedjax_rec.data.sources import SOURCES, builder
from fedjax_rec.storage.download import Download
from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import temporary

TABLE = (
    "user,item,rating,timestamp\n"
    "ann,x,4.5,30\nbob,y,2,10\nann,z,5,20\nann,x,1,5\ncid,x,3,9\nbob,x,3,-7\n"
)
ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("user", "item", "rating", "timestamp", "position")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    path.write_text(TABLE)
    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def entries(cache):
    """What a later call could take for prepared data."""
    return sorted(p.name for p in (cache / "csv").glob("*"))


def leftovers(cache):
    return list(cache.glob(".partial-*"))


def forbid(monkeypatch, name):
    """From here on, parsing the source `name` is an error."""

    def refuse(inputs, options):
        raise AssertionError("the source was parsed")

    monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], parse=refuse))


def assert_same(one, two):
    for column in COLUMNS:
        a, b = getattr(one, column), getattr(two, column)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert one.users == two.users
    assert one.items == two.items
    assert one.name == two.name
    assert dict(one.notes) == dict(two.notes)


def test_round_trip_by_hand(table, cache):
    found = load("csv", dir=table.parent, cache=cache)
    assert list(found.users.ids) == ["ann", "bob", "cid"]
    assert list(found.items.ids) == ["x", "y", "z"]
    np.testing.assert_array_equal(found.user, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(found.item, [2, 0, 0, 1, 0])
    np.testing.assert_array_equal(found.rating, [5, 4.5, 3, 2, 3])
    np.testing.assert_array_equal(found.timestamp, [20, 30, -7, 10, 9])
    np.testing.assert_array_equal(found.position, [2, 0, 5, 1, 4])
    assert dict(found.notes) == {"duplicates_merged": 1}
    assert_same(found, SOURCES["csv"].read(table.parent))


def test_texts_survive_the_cache(tmp_path, cache):
    (tmp_path / "t.csv").write_text("user,item\na,1\n")
    (tmp_path / "i.csv").write_text('id,title,tags\n1,"É ""☃"", x",a|b\n2,,\n')
    options = {"dir": tmp_path / "t.csv", "items_file": "i.csv"}
    found = load("csv", cache=cache, **options)
    assert list(found.items.titles or ()) == ['É "☃", x', ""]
    assert dict(found.items.attributes) == {"tags": ["a|b", ""]}
    assert found.users.titles is None


def test_the_second_call_parses_nothing(table, cache, monkeypatch):
    first = load("csv", dir=table, cache=cache)
    forbid(monkeypatch, "csv")
    assert_same(load("csv", dir=table, cache=cache), first)
    # Where the file lies is not what is in it.
    moved = table.rename(table.with_name("moved.csv"))
    assert_same(load("csv", dir=moved, cache=cache), first)


def test_a_changed_file_or_option_is_prepared_anew(table, cache):
    load("csv", dir=table, cache=cache)
    stat = table.stat()
    table.write_text(TABLE.replace("4.5", "3.5"))
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert load("csv", dir=table, cache=cache).rating.tolist()[1] == 3.5
    assert len(load("csv", dir=table, cache=cache, min_rating=3)) == 4
    assert len(entries(cache)) == 3


def test_users_with_too_little_history_are_dropped_and_counted(table, cache):
    found = load("csv", dir=table, cache=cache, min_interactions=2)
    # cid has one; ann's two repeated lines count once, which leaves her two.
    assert list(found.users.ids) == ["ann", "bob"]
    assert list(found.items.ids) == ["x", "y", "z"]
    np.testing.assert_array_equal(found.user, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.position, [2, 0, 5, 1])
    assert dict(found.notes) == {
        "duplicates_merged": 1,
        "users_below_min_interactions": 1,
        "interactions_of_dropped_users": 1,
    }
    with pytest.raises(
        FileError, match=r"no user has 3 interactions, the longest .* 2"
    ):
        load("csv", dir=table, cache=cache, min_interactions=3)
    with pytest.raises(FileError, match="min_interactions is -1"):
        load("csv", dir=table, cache=cache, min_interactions=-1)


def test_it_is_a_tfds_data_set_in_array_record(table, cache):
    import tensorflow_datasets as tfds

    load("csv", dir=table, cache=cache)
    (folder,) = (cache / "csv").glob("*/*")
    assert list(folder.glob("*.array_record*"))
    read: Any = tfds.builder_from_directory(str(folder))
    records = list(read.as_data_source(split="train"))
    assert [record["user"] for record in records] == [0, 1, 2]
    np.testing.assert_array_equal(records[1]["item"], [0, 1])
    np.testing.assert_array_equal(records[1]["rating"], [3, 2])
    np.testing.assert_array_equal(records[1]["timestamp"], [-7, 10])
    np.testing.assert_array_equal(records[1]["position"], [5, 1])


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_preparation_leaves_nothing(table, cache, monkeypatch, error):
    real = builder._records

    def fails(interactions):
        yield next(iter(real(interactions)))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(builder, "_records", fails)
        with pytest.raises(type(error)):
            load("csv", dir=table, cache=cache)
    assert entries(cache) == []
    assert leftovers(cache) == []
    assert len(load("csv", dir=table, cache=cache)) == 5


def run(code, *arguments, wait=True):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if wait:
        process.out, process.err = process.communicate(timeout=120)  # pyright: ignore
    return process


def test_a_killed_preparation_is_swept_by_the_next(table, cache):
    code = """
        import os, signal, sys
        from fedjax_rec.data.prepare import load
        from fedjax_rec.data.sources import builder
        real = builder._records
        def dies(interactions):
            yield next(iter(real(interactions)))
            os.kill(os.getpid(), signal.SIGKILL)
        builder._records = dies
        load("csv", dir=sys.argv[1], cache=sys.argv[2])
    """
    assert run(code, table, cache).returncode == -9
    assert entries(cache) == []
    assert len(leftovers(cache)) == 2  # its folder and its lock
    assert len(load("csv", dir=table, cache=cache)) == 5
    assert leftovers(cache) == []


def test_a_live_preparation_is_not_swept(cache):
    cache.mkdir()
    with temporary(cache) as one, temporary(cache) as two:
        assert one.is_dir()
        assert two.is_dir()
    assert leftovers(cache) == []


def test_two_processes_may_prepare_at_once(table, cache):
    code = """
        import sys, time
        from fedjax_rec.data.prepare import load
        from fedjax_rec.data.sources import builder
        real = builder._records
        def slow(interactions):
            for record in real(interactions):
                time.sleep(0.2)
                yield record
        builder._records = slow
        print(load("csv", dir=sys.argv[1], cache=sys.argv[2]).item.tolist())
    """
    both = [run(code, table, cache, wait=False) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert out == "[2, 0, 0, 1, 0]\n", err
    assert len(entries(cache)) == 1
    assert leftovers(cache) == []


def test_the_slower_of_two_takes_what_the_faster_made(table, cache, monkeypatch):
    real, calls = builder.write, []

    def overtaken(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 1:
            load("csv", dir=table, cache=cache)
        return real(*arguments, **keywords)

    monkeypatch.setattr(builder, "write", overtaken)
    assert len(load("csv", dir=table, cache=cache)) == 5
    assert len(calls) == 2
    assert len(entries(cache)) == 1
    assert leftovers(cache) == []


@pytest.mark.parametrize("name", ["array_record", "metadata", "dataset_info"])
def test_a_damaged_entry_is_told(table, cache, name):
    load("csv", dir=table, cache=cache)
    (path,) = (cache / "csv").glob(f"*/*/*{name}*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileError, match=r"a damaged cache entry.*Delete that folder"):
        load("csv", dir=table, cache=cache)


def test_bad_input_leaves_no_entry(table, cache):
    table.write_text(TABLE + "dan,x,nan,1\n")
    with pytest.raises(FileError, match="line 8: found rating 'nan'"):
        load("csv", dir=table, cache=cache)
    assert entries(cache) == []


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "movielens-100m",
            {},
            "unknown source 'movielens-100m'; expected movielens-100k",
        ),
        ("csv", {}, "csv: no folder given. Pass dir="),
        ("movielens-1m", {}, "or download=True for https://files.grouplens"),
        ("movielens-1m", {"items_file": "x"}, "takes no option items_file"),
    ],
)
def test_bad_calls_are_told(cache, source, options, message):
    with pytest.raises(FileError, match=message):
        load(source, cache=cache, **options)


def test_a_cache_that_cannot_be_written_is_told(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot be written .*FEDJAX_REC_CACHE"):
        load("csv", dir=table, cache=tmp_path / "file" / "cache")


def test_the_environment_names_the_cache(table, cache, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(cache))
    load("csv", dir=table)
    assert len(entries(cache)) == 1


def test_a_download_is_prepared_and_needs_no_network_again(
    tmp_path, cache, monkeypatch
):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("ml-1m/ratings.dat", "1::7::5::10\n")
        out.writestr("ml-1m/movies.dat", "7::Seven::Drama\n")
        out.writestr("ml-1m/users.dat", "1::M::1::10::00501\n")
    (tmp_path / "ml-1m.zip").write_bytes(archive.getvalue())
    spec = Download(
        url=(tmp_path / "ml-1m.zip").as_uri(),
        md5=hashlib.md5(archive.getvalue()).hexdigest(),
    )
    source = dataclasses.replace(SOURCES["movielens-1m"], download=spec)
    monkeypatch.setitem(SOURCES, "movielens-1m", source)
    with pytest.raises(FileError, match="download=True"):
        load("movielens-1m", cache=cache)
    found = load("movielens-1m", cache=cache, download=True)
    assert list(found.items.titles or ()) == ["Seven"]
    (tmp_path / "ml-1m.zip").unlink()
    forbid(monkeypatch, "movielens-1m")
    assert_same(load("movielens-1m", cache=cache), found)


def test_imports_are_lazy_and_nothing_is_printed(table, cache):
    code = """
        import sys
        from fedjax_rec.data.prepare import load
        assert "tensorflow_datasets" not in sys.modules
        load("csv", dir=sys.argv[1], cache=sys.argv[2])
        load("csv", dir=sys.argv[1], cache=sys.argv[2])
        assert "tensorflow_datasets" in sys.modules
        assert "tensorflow" not in sys.modules
    """
    process = run(code, table, cache)
    assert (process.returncode, process.out, process.err) == (0, "", "")  # pyright: ignore
