"""The sources `csv` and `amazon` on little files."""

import numpy as np
import pytest

from fedjax_rec.data.sources import SOURCES
from fedjax_rec.storage.errors import FileError

TABLE = "user_id,item_id,rating,timestamp\nann,x,4,30\nbob,y,2,10\nann,z,5,20\n"


def read(source, folder, files, **options):
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)
    return SOURCES[source].read(folder, options)


def triples(interactions):
    """(user, item, rating, timestamp) with the raw identifiers."""
    return [
        (interactions.users.ids[u], interactions.items.ids[i], float(r), int(t))
        for u, i, r, t in zip(
            interactions.user,
            interactions.item,
            interactions.rating,
            interactions.timestamp,
            strict=True,
        )
    ]


EXPECTED = [("ann", "z", 5.0, 20), ("ann", "x", 4.0, 30), ("bob", "y", 2.0, 10)]


@pytest.mark.parametrize("delimiter", [",", "\t", "::", "|"])
def test_every_delimiter_is_found(tmp_path, delimiter):
    found = read("csv", tmp_path, {"a.csv": TABLE.replace(",", delimiter)})
    assert triples(found) == EXPECTED
    np.testing.assert_array_equal(found.position, [2, 0, 1])


def test_another_delimiter_can_be_named(tmp_path):
    files = {"a.csv": TABLE.replace(",", ";")}
    assert triples(read("csv", tmp_path, files, delimiter=";")) == EXPECTED


def test_a_bare_table_counts_its_columns(tmp_path):
    body = TABLE.split("\n", 1)[1].replace(",", "\t")
    assert triples(read("csv", tmp_path, {"u.data": body}, header=False)) == EXPECTED


def test_column_names_are_known_or_given(tmp_path):
    text = TABLE.replace("user_id", "reviewerID").replace("item_id", "parent_asin")
    assert triples(read("csv", tmp_path, {"a.csv": text})) == EXPECTED
    text = "who,what,when\nann,x,5\n"
    options = {"user": "who", "item": "what", "timestamp": "when"}
    assert triples(read("csv", tmp_path, {"a.csv": text}, **options)) == [
        ("ann", "x", 1.0, 5)
    ]


def test_without_rating_and_time_the_file_order_is_the_clock(tmp_path):
    found = read("csv", tmp_path, {"a.csv": "user,item\na,q\na,p\nb,p\n"})
    assert triples(found) == [("a", "q", 1, 0), ("a", "p", 1, 1), ("b", "p", 1, 2)]
    assert found.notes["timestamps_missing"] == 3


def test_dates_and_fractions_of_seconds_are_clocks(tmp_path):
    text = "user,item,date\na,p,2018-09-24\na,q,1970-01-02T00:00:01Z\n"
    text += "a,r,1970-01-01 00:01\n"
    found = read("csv", tmp_path, {"a.csv": text})
    # 2018-09-24 is day 17,798 after 1970-01-01.
    assert triples(found) == [
        ("a", "r", 1, 60),
        ("a", "q", 1, 86_401),
        ("a", "p", 1, 17_798 * 86_400),
    ]
    found = read(
        "csv", tmp_path, {"a.csv": "user,item,ts\na,p,2.5\na,q,1e3\na,r,1.0\n"}
    )
    # One of them has a fraction, so all become ranks.
    assert triples(found) == [("a", "r", 1, 0), ("a", "p", 1, 1), ("a", "q", 1, 2)]
    assert found.notes["timestamps_with_fractions"] == 1


@pytest.mark.parametrize(
    "times",
    [
        ["1000.9", "1000.5", "1000.4999", "1000"],
        ["1.7e9", "1699999999.9", "1699999999.1", "1699999999"],
        ["-0.25", "-0.5", "-1", "-1.25"],
        [
            "2018-09-24T10:00:00.1234567891Z",
            "2018-09-24 10:00:00.123456788",
            "2018-09-24 10:00:00",
            "2018-09-24 09:59",
        ],
        [
            "1970-01-01T00:00:00.25",
            "1969-12-31T23:59:59.75",
            "1969-12-31T23:59:59",
            "1969-12-31",
        ],
    ],
)
def test_a_newest_first_file_is_read_in_order_of_time(tmp_path, times):
    rows = "".join(f"a,i{i},{time}\n" for i, time in enumerate(times))
    rows += f"a,i9,{times[1]}\n"  # equal times keep the order of lines
    found = read("csv", tmp_path, {"a.csv": "user,item,ts\n" + rows})
    expected = [(f"i{i}", rank) for i, rank in ((3, 0), (2, 1), (1, 2), (9, 2), (0, 3))]
    assert [(item, time) for _, item, _, time in triples(found)] == expected


def test_items_and_users_keep_titles_and_attributes(tmp_path):
    files = {
        "a.csv": TABLE,
        "items.csv": 'id,name,genre\nz,"Zed, the film",war\nq,Unseen,\nx,Ex,a\n'
        "z,Again,b\n",
        "users.csv": "user_id,age\nbob,30\n",
    }
    found = read("csv", tmp_path, files, items_file="items.csv", users_file="users.csv")
    # The users' table comes first, and it lists bob.
    assert triples(found) == [EXPECTED[2], *EXPECTED[:2]]
    assert list(found.items.ids) == ["z", "q", "x", "y"]
    assert list(found.items.titles or ()) == ["Zed, the film", "Unseen", "Ex", ""]
    assert dict(found.items.attributes) == {"genre": ["war", "", "a", ""]}
    assert list(found.users.ids) == ["bob", "ann"]
    assert dict(found.users.attributes) == {"age": ["30", ""]}
    assert found.notes["items_rows_repeated"] == 1
    assert found.notes["items_without_metadata"] == 1
    assert found.notes["users_without_metadata"] == 1


def test_repeated_pairs_are_merged_before_low_ratings_go(tmp_path):
    text = "user,item,rating,time\na,p,5,1\na,p,1,2\na,q,4,3\nb,p,2,4\n"
    found = read("csv", tmp_path, {"a.csv": text}, min_rating=3)
    assert triples(found) == [("a", "q", 4, 3)]
    assert dict(found.notes) == {
        "duplicates_merged": 1,
        "below_min_rating": 2,
        "users_without_interactions": 1,
    }


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b,c\n1,2,3\n", {}, "found the columns a, b, c; expected one for the user"),
        (TABLE, {"user": "who"}, "expected the column 'who' that the option user"),
        (TABLE, {"nosuch": 1}, "takes no option nosuch"),
        (TABLE, {"encoding": "klingon"}, "unknown encoding 'klingon'"),
        (TABLE, {"min_rating": 6}, "no user has 1 interactions"),
        (TABLE, {"min_rating": "high"}, "min_rating is 'high'"),
        (TABLE, {"file": "b.csv"}, r"found a\.csv; expected b\.csv"),
        (TABLE, {"items_file": "gone.csv"}, r"gone\.csv: cannot be read"),
        ("", {}, "an empty file"),
        ("user,item\n", {}, "a header and no rows"),
        ("word\n", {}, "expected columns separated by"),
        ("user,user,item\na,b,c\n", {}, "the column user more than once"),
        ("user,item\na,\n", {}, "line 2: found item ''; expected an identifier"),
        ("user,item,rating\na,b,1\na,c,NaN\n", {}, "line 3: found rating 'NaN'"),
        ("user,item,rating\na,b,\n", {}, "line 2: found rating ''"),
        ("user,item,rating\na,b,1e39\n", {}, "line 2: found rating '1e39'"),
        ("user,item,time\na,b,nan\n", {}, "line 2: found timestamp 'nan'"),
        ("user,item,time\na,b,1e19\n", {}, "line 2: found timestamp '1e19'"),
        (f"user,item,time\na,b,{2**64}\n", {}, "line 2: found timestamp '1844"),
        ("user,item,time\na,b,2018-13-01\n", {}, "line 2: found timestamp '2018-13"),
        (TABLE.encode("utf-16"), {}, r"UTF-16 text.*encoding='utf-16'"),
        (TABLE.replace("bob", "bøb").encode("latin-1"), {}, "line 3: .*'latin-1'"),
    ],
)
def test_csv_refuses(tmp_path, text, options, message):
    with pytest.raises(FileError, match=message):
        read("csv", tmp_path, {"a.csv": text}, **options)


def test_a_bad_line_far_down_gets_its_own_number(tmp_path):
    lines = ["user,item,rating", *(f"u{n % 7},i{n},3" for n in range(20_000))]
    lines[17_000] = "u,i,three"
    with pytest.raises(FileError, match="line 17001: found rating 'three'") as caught:
        read("csv", tmp_path, {"a.csv": "\n".join(lines)})
    assert caught.value.line == 17_001
    lines[17_000] = "u,i"
    with pytest.raises(FileError, match="line 17001: found 2 fields"):
        read("csv", tmp_path, {"a.csv": "\n".join(lines)})


def test_the_named_encoding_is_used(tmp_path):
    data = TABLE.replace("bob", "bøb").encode("latin-1")
    found = read("csv", tmp_path, {"a.csv": data}, encoding="latin-1")
    assert list(found.users.ids) == ["ann", "bøb"]
    found = read("csv", tmp_path, {"a.csv": TABLE.encode("utf-16")}, encoding="utf-16")
    assert triples(found) == EXPECTED
    assert (
        triples(read("csv", tmp_path, {"a.csv": TABLE.encode("utf-8-sig")})) == EXPECTED
    )


def test_of_several_tables_one_must_be_chosen(tmp_path):
    files = {"a.csv": TABLE, "b.csv": TABLE.replace("ann", "eve")}
    with pytest.raises(FileError, match=r"found a\.csv, b\.csv.*file='a\.csv'"):
        read("csv", tmp_path, files)
    found = read("csv", tmp_path, files, file="b.csv")
    assert list(found.users.ids) == ["eve", "bob"]
    assert list(SOURCES["csv"].read(tmp_path / "b.csv").users.ids) == ["eve", "bob"]


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def test_atomic_interactions(tmp_path):
    files = {
        "X.inter": INTER + "A1\tB7\t5.0\t1400000000.0\nA1\tB2\t1.0\t1300000000.0\n",
        "X.item": "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\n"
        'B2\t5" nails\tHome Tools\tAcme\nB7\tA "game"\tGames\tFoo Inc\n',
        "X.user": "user_id:token\tage:token\nA1\t44\n",
        "README": "",
    }
    found = read("amazon", tmp_path, files)
    assert triples(found) == [
        ("A1", "B2", 1.0, 1_300_000_000),
        ("A1", "B7", 5.0, 1_400_000_000),
    ]
    assert list(found.items.titles or ()) == ['5" nails', 'A "game"']
    assert dict(found.items.attributes) == {
        "categories": ["Home|Tools", "Games"],
        "brand": ["Acme", "Foo Inc"],
    }
    assert dict(found.users.attributes) == {"age": ["44"]}


SEQUENCE = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def test_atomic_sequences(tmp_path):
    rows = "u1\ta b c a\td\nu2\tb\ta\nu3\t\tc\n"
    found = read("amazon", tmp_path, {"X.test.inter": SEQUENCE + rows})
    # u1's first a is merged into the second: the histories are b c a d, b a, and c.
    assert triples(found) == [
        ("u1", "b", 1, 1),
        ("u1", "c", 1, 2),
        ("u1", "a", 1, 3),
        ("u1", "d", 1, 4),
        ("u2", "b", 1, 0),
        ("u2", "a", 1, 1),
        ("u3", "c", 1, 0),
    ]
    assert found.notes["duplicates_merged"] == 1
    assert found.items.titles is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("u1\ta\tb\nu2\ta\tb\nu1\ta b\tc\n", "line 4: found user 'u1' a second time"),
        ("u1\ta\n", "line 2: found 2 fields"),
        ("u1\ta\t\n", "line 2: found item ''"),
        ("\ta\tb\n", "line 2: found user ''"),
    ],
)
def test_atomic_sequences_refuse(tmp_path, rows, message):
    with pytest.raises(FileError, match=message):
        read("amazon", tmp_path, {"X.inter": SEQUENCE + rows})


def test_amazon_wants_an_inter_file(tmp_path):
    with pytest.raises(FileError, match=r"found X\.item; expected one file ending in"):
        read("amazon", tmp_path, {"X.item": "item_id:token\ttitle:token_seq\n1\ta\n"})
