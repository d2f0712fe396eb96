"""Orders of rows, by hand and for the copy of MovieLens 100K that papers used."""

import os
import pathlib

import numpy as np
import pytest

from fedjax_rec import FileData, LeaveOneOut
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.orders import ordered_as, quicksorted_by_user
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.storage.errors import FileError

USER, ITEM, TIME = [1, 0, 1, 0, 1], [0, 1, 1, 2, 2], [5, 5, 5, 5, 4]


def data(ids=("7", "9")):
    return make_interactions(
        user=np.array(USER),
        item=np.array(ITEM),
        timestamp=np.array(TIME),
        users=Entities(ids=ids),
        items=Entities(ids=["a", "b", "c"]),
    )


def pairs(split):
    names = data()
    rows = zip(split.test.user, split.test.item, strict=True)
    return [(names.users.ids[u], names.items.ids[i]) for u, i in rows]


def test_the_order_of_another_table_decides_between_equal_times():
    text = b"9,b,3\n7,c,1\n9,c,1\n9,a,1\n7,b,4\n9,d,1\n"
    found = ordered_as(data(), InputFile("other.dat", text))
    assert found.position.tolist() == [1, 4, 2, 0, 3]
    assert found.timestamp.tolist() == [5, 5, 4, 5, 5]
    assert found.item.tolist() == [2, 1, 2, 1, 0]
    split = LeaveOneOut(ties="file_order")
    few = make_interactions(  # a third interaction, so that user 7 is evaluated
        user=np.array([*USER, 0]),
        item=np.array([*ITEM, 0]),
        timestamp=np.array([*TIME, 1]),
        users=Entities(ids=["7", "9"]),
        items=Entities(ids=["a", "b", "c"]),
    )
    assert pairs(split.split(few)) == [("7", "c"), ("9", "b")]
    other = ordered_as(few, InputFile("other.dat", text + b"7,a,2\n"))
    assert pairs(split.split(other)) == [("7", "b"), ("9", "a")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"9,b\n7,c\n9,c\n9,a\n", "1 of the 5 interactions are absent"),
        (b"9,b\n7,c\n9,c\n9,a\n7,b\n7,b\n", "1 repeated interactions"),
    ],
)
def test_another_table_has_to_hold_the_same_interactions(text, message):
    with pytest.raises(FileError, match=message):
        ordered_as(data(), InputFile("other.dat", text))


def test_quicksort_keeps_all_rows_and_needs_the_complete_source():
    found = quicksorted_by_user(data())
    rows = np.argsort(found.position)
    assert found.user[rows].tolist() == [0, 0, 1, 1, 1]
    assert sorted(zip(found.user, found.item, found.timestamp, strict=True)) == sorted(
        zip(USER, ITEM, TIME, strict=True)
    )
    with pytest.raises(FileError, match="whole numbers"):
        quicksorted_by_user(data(ids=("7", "x")))
    twice = make_interactions(
        user=np.array([0, 0]),
        item=np.array([0, 0]),
        timestamp=np.array([0, 1]),
        users=Entities(ids=["1"]),
        items=Entities(ids=["1"]),
    )
    with pytest.raises(FileError, match="with 1 merged"):
        quicksorted_by_user(twice)


BESIDE = pathlib.Path(__file__).parents[3] / "shared" / "data"
FOLDER = pathlib.Path(os.environ.get("FEDJAX_REC_DATA", BESIDE)) / "ml-100k"


@pytest.mark.skipif(
    not (FOLDER / "u.data").exists(),
    reason=f"no MovieLens-100K in {FOLDER}; set FEDJAX_REC_DATA",
)
def test_the_published_copy_of_movielens(tmp_path):
    def load(order):
        return FileData(dir=str(FOLDER), cache=str(tmp_path), order=order)

    data = load("quicksort_by_user").load()
    rows = np.argsort(data.position)
    user, item = np.array(data.users.ids), np.array(data.items.ids)
    lines = [
        f"{u},{i}"
        for u, i in zip(user[data.user[rows]], item[data.item[rows]], strict=True)
    ]
    # The first and the last rows of the table that PFedRec's code reads.
    assert lines[:6] == ["1,55", "1,203", "1,183", "1,150", "1,68", "1,201"]
    assert lines[-4:] == ["943,12", "943,284", "943,62", "943,210"]
    split = LeaveOneOut(ties="reverse_file_order")
    published = split.split(data).test
    assert (split.split(load("").load()).test.item != published.item).sum() == 267
    # The same order from a file.
    (tmp_path / "ratings.dat").write_text("\n".join(lines))
    copy = load(str(tmp_path / "ratings.dat"))
    np.testing.assert_array_equal(copy.load().item, data.item)
    origins = {load("quicksort_by_user").origin(), load("").origin(), copy.origin()}
    (tmp_path / "ratings.dat").write_text("\n".join([*lines, "1,x"]))
    assert copy.origin() not in origins
    assert len(origins) == 3
