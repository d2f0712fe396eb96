"""Interactions from frames and rows: values, and what is refused."""

import datetime

import numpy as np
import pytest

import fedjax_rec as fr

USER = ["u2", "u1", "u2", "u1", "u2"]
ITEM = [30, 10, 10, 20, 30]
TIME = ["2024-01-03", "2024-01-01", "2024-01-01", "2024-01-02T12", "2024-01-05"]
ITEMS = {
    "item": [10, 20, 40],
    "title": ["Ten", None, "Forty"],
    "genre": [["a", "b"], "c", ""],
}


class Frame:
    """A frame with columns by name, and none of the methods of a library."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self._values = {name: np.asarray(values) for name, values in columns.items()}

    def __getitem__(self, name):
        return self._values[name]


def rows(data):
    """`(user, item, rating, timestamp)` by original ids."""
    columns = (data.user, data.item, data.rating, data.timestamp)
    users, items = data.users.ids, data.items.ids
    return [
        (users[u], items[i], r, t)
        for u, i, r, t in zip(*(c.tolist() for c in columns), strict=True)
    ]


def test_a_frame_has_users_in_order_and_a_repeated_pair_once():
    """The later of the two interactions of u2 with 30 counts."""
    time = np.array(TIME, "datetime64[s]")
    data = fr.from_frame(
        Frame(user=USER, item=ITEM, rating=[1, 2, 3, 4, 5], timestamp=time)
    )
    day = 86_400 * 10**9
    first = int(np.datetime64("2024-01-01", "ns").astype(int))
    assert rows(data) == [
        ("u2", "10", 3.0, first),
        ("u2", "30", 5.0, first + 4 * day),
        ("u1", "10", 2.0, first),
        ("u1", "20", 4.0, first + 3 * day // 2),
    ]
    assert data.users.ids == ["u2", "u1"]
    assert data.notes == {"duplicates_merged": 1}


def test_columns_are_named_left_out_or_guessed():
    columns = {
        "who": USER,
        "what": ITEM,
        "rating": [1.0, 2, 3, 4, 5],
        "when": [5, 4, 3, 2, 1],
    }
    named = fr.from_frame(columns, user="who", item="what", timestamp="when")
    assert rows(named)[0] == ("u2", "10", 3.0, 3)
    assert set(named.timestamp.tolist()) == {2, 3, 4, 5}
    without = fr.from_frame(columns, user="who", item="what", rating=None)
    assert set(without.rating.tolist()) == {1.0}
    assert without.notes["timestamps_missing"] == 5
    with pytest.raises(
        ValueError,
        match=r"no column 'user' for the user; the frame has who, what, rating, when$",
    ):
        fr.from_frame(columns)
    with pytest.raises(
        ValueError, match=r"'ratings' .*Name it, such as rating='rating'"
    ):
        fr.from_frame(columns, user="who", item="what", rating="ratings")


def test_items_and_users_have_texts():
    users = {"user": ["u3", "u1"], "region": ["north", float("nan")]}
    data = fr.from_frame({"user": USER, "item": ITEM}, items=ITEMS, users=users)
    assert data.items.ids == ["10", "20", "40", "30"]
    assert data.items.titles == ["Ten", "", "Forty", ""]
    assert data.items.attributes == {"genre": ["a|b", "c", "", ""]}
    assert data.users.ids == ["u3", "u1", "u2"]
    assert data.users.attributes == {"region": ["north", "", ""]}
    assert data.notes["items_without_metadata"] == 1
    assert data.notes["users_without_metadata"] == 1
    assert rows(data)[0][:2] == ("u1", "10")


def test_rows_are_tuples_or_dicts_of_any_iterable():
    as_tuples = zip(USER, ITEM, range(5), strict=True)
    data = fr.from_rows(as_tuples, ("user", "item", "timestamp"), name="mine")
    assert (data.name, len(data)) == ("mine", 4)
    as_dicts = (
        {"customer": u, "sku": i, "timestamp": t}
        for t, (u, i) in enumerate(zip(USER, ITEM, strict=True))
    )
    same = fr.from_rows(as_dicts, user="customer", item="sku")
    assert rows(same) == rows(data)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there are no rows"),
        ([("a",)], r"row 0 is \('a',\); expected 2 to 4 values"),
        (["ab", "cd"], "row 0 is 'ab'; expected a tuple or a dict"),
        ([("a", 1), ("b",)], r"row 1 is \('b',\); expected 2 values"),
        (
            [{"user": 1, "item": 2}, {"user": 1}],
            "row 1 .*expected a dict with the keys",
        ),
    ],
)
def test_uneven_rows_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fr.from_rows(given)


@pytest.mark.parametrize(
    "values",
    [
        ["7", "8", "7"],
        [7, 8, 7],
        np.array([7.0, 8.0, 7.0]),
        np.array([7, 8, 7], np.uint8),
        [np.int64(7), 8, np.int32(7)],
    ],
)
def test_ids_are_spelled_alike(values):
    data = fr.from_frame({"user": values, "item": [1, 1, 2]})
    assert data.users.ids == ["7", "8"]


NAN = float("nan")
NAT = np.datetime64("NaT")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a", None, NAN]}, r"'user': 2 of 3 values are missing, .* row 1"),
        ({"item": np.array([1, NAN, 2])}, "'item': 1 of 3 values are missing"),
        (
            {"user": ["a", "", "b"]},
            "'user', row 1: ''; expected ids that are not empty",
        ),
        ({"user": ["7", 7, 8]}, "'user', row 0: '7'; expected numbers, or texts only"),
        (
            {"item": np.array([1.5, 2, 3])},
            r"'item', row 0: 1.5; expected ids that are te",
        ),
        ({"item": [1, 2, True]}, "'item', row 2: True; expected ids"),
        (
            {"user": np.array(TIME[:3], "datetime64[s]")},
            "'user', row 0: .*expected ids",
        ),
        ({"user": ["a", "b"]}, "different lengths: user 2, item 3"),
        ({"user": [], "item": []}, "the frame has no rows"),
        (
            {"user": np.array([["a"]] * 3)},
            r"'user' has shape \(3, 1\); expected one val",
        ),
        ({"rating": ["5", "4", "3"]}, "'rating', row 0: '5'; expected a number"),
        ({"rating": np.array(["5", "4", "3"])}, "'rating', row 0: '5'; expected a nu"),
        ({"rating": [1, 2, NAN]}, "'rating': 1 of 3 values are missing"),
        (
            {"rating": [1, 1e39, 2]},
            r"'rating', row 1: 1e\+39; expected a finite number",
        ),
        ({"timestamp": [1, 2, None]}, "'timestamp': 1 of 3 values are missing"),
        (
            {"timestamp": np.array(["2024-01-01", NAT, NAT], "datetime64[us]")},
            r"'timestamp': 2 of 3 values are missing, the first in row 1",
        ),
        (
            {"timestamp": np.array([1, -(2**63), 3])},
            "'timestamp', row 1: -9223372036854775808; expected .*no missing date",
        ),
        (
            {"timestamp": [1, 2, 2**63]},
            "row 2: 9223372036854775808; expected a number w",
        ),
        ({"timestamp": [1.0, 1e30, 2.5]}, r"row 1: 1e\+30; expected a finite number"),
        ({"timestamp": TIME[:3]}, "'timestamp', row 0: '2024-01-03'; .*to_datetime"),
        (
            {"timestamp": np.array(["2024", "3000", "2024"], "datetime64[s]")},
            "row 1: .*3000.*expected a date from 1678 to 2262",
        ),
    ],
)
def test_bad_columns_are_named_with_their_row(columns, message):
    frame = {"user": ["a", "b", "a"], "item": [1, 2, 2], **columns}
    with pytest.raises(ValueError, match=message):
        fr.from_frame(frame)


def test_an_item_with_two_rows_of_texts_is_refused():
    items = {"item": [10, 20, 10], "title": ["a", "b", "c"]}
    with pytest.raises(
        ValueError, match="items: item '10' in rows 0 and 2; expected one"
    ):
        fr.from_frame({"user": USER, "item": ITEM}, items=items)
    items = {"item": [10, 20], "title": ["a"]}
    with pytest.raises(
        ValueError, match="items: the column 'title' has 1 rows, and 'it"
    ):
        fr.from_frame({"user": USER, "item": ITEM}, items=items)
    with pytest.raises(
        TypeError, match=r"list has no columns: expected a frame .* from_ro"
    ):
        fr.from_frame([("a", 1)])


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns"])
def test_dates_of_any_unit_are_the_same_nanoseconds(unit):
    times = np.array(["2024-02-29", "2024-03-01", "1969-12-31"], f"datetime64[{unit}]")
    data = fr.from_frame(
        {"user": ["a", "a", "a"], "item": [1, 2, 3], "timestamp": times}
    )
    day = 86_400 * 10**9
    assert data.timestamp.tolist() == [-day, 19_782 * day, 19_783 * day]


def test_dates_of_python_are_in_utc_and_fractions_become_ranks():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    times = [
        datetime.datetime(2024, 1, 1, 2, tzinfo=zone),
        datetime.datetime(2024, 1, 1, 0, 0, 0, 1),
        datetime.date(2024, 1, 1),
    ]
    frame = {"user": [1, 1, 1], "item": [1, 2, 3]}
    data = fr.from_frame({**frame, "timestamp": times})
    assert np.diff(data.timestamp).tolist() == [0, 1000]
    ranks = fr.from_frame({**frame, "timestamp": [2.5, 1.25, 2.5]})
    assert ranks.timestamp.tolist() == [0, 1, 1]
    assert ranks.notes["timestamps_with_fractions"] == 3


def test_columns_of_pandas_are_read_by_position():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "user": USER,
            "item": ITEM,
            "timestamp": pd.to_datetime(TIME, format="ISO8601"),
        }
    )
    expected = rows(
        fr.from_frame(
            {"user": USER, "item": ITEM, "timestamp": np.array(TIME, "datetime64[s]")}
        )
    )
    permuted = frame.set_index(pd.Index([3, 1, 4, 0, 2]))
    zoned = frame.assign(
        timestamp=frame["timestamp"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    )
    typed = frame.astype(
        {"user": "category", "item": "Int64", "timestamp": "datetime64[us]"}
    )
    for each in (frame, permuted, zoned, typed):
        assert rows(fr.from_frame(each)) == expected
    items = pd.DataFrame(ITEMS).set_index(pd.Index([2, 0, 1]))
    assert fr.from_frame(frame, items=items).items.titles == ["Ten", "", "Forty", ""]
    for column, value in (("user", None), ("item", pd.NA), ("timestamp", pd.NaT)):
        holed = typed.astype({"user": object})
        holed.loc[2, column] = value
        with pytest.raises(ValueError, match=f"{column}': 1 of 5 values are missing"):
            fr.from_frame(holed)


def test_columns_of_polars_and_arrow():
    time = np.array(TIME, "datetime64[s]")
    columns = {"user": USER, "item": ITEM, "timestamp": time}
    expected = rows(fr.from_frame(columns))
    pa = pytest.importorskip("pyarrow")
    assert rows(fr.from_frame(pa.table(columns))) == expected
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({**columns, "timestamp": time.astype("datetime64[ms]")})
    assert rows(fr.from_frame(frame)) == expected
    holed = frame.with_columns(item=pl.Series([1, None, 2, 3, 4]))
    with pytest.raises(ValueError, match="'item': 1 of 5 values are missing"):
        fr.from_frame(holed)
