"""The MovieLens sources on little files, with expectations worked out by hand."""

import zipfile

import numpy as np
import pytest

from fedjax_rec.data.sources import SOURCES
from fedjax_rec.storage.errors import FileError

GENRES = "unknown|0\nAction|1\nComedy|2\n\n"
# Film 2 has an e with an acute accent: one byte in Latin-1, two in UTF-8.
ITEMS = (
    "1|Alpha (1995)|01-Jan-1995||http://a|0|1|1\n"
    "2|Bérénice (1996)|02-Feb-1996||http://b|0|0|1\n"
    "3|Gamma|||http://c|1|0|0\n"
)
USERS = "1|31|F|pilot|00501\n2|53|M|baker|99950\n3|30|F|artist|T8H1N\n"
RATINGS = "2\t1\t4\t300\n1\t2\t5\t200\n1\t1\t3\t100\n2\t1\t2\t400\n1\t3\t1\t100\n"


def write_100k(folder, encoding="latin-1", **changed):
    files = {"u.genre": GENRES, "u.item": ITEMS, "u.user": USERS, "u.data": RATINGS}
    files |= {name.replace("_", "."): text for name, text in changed.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    return folder


def write_1m(folder):
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "movies.dat": "10::Café: Noir (2000)::Drama|War\n30::Solo (1999)::Comedy\n",
        "users.dat": "1::M::1::10::00501\n2::F::56::16::99950\n",
        "ratings.dat": "1::30::5::95\n1::10::3::99\n2::10::4::97\n",
    }
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    return folder


def write_small(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "movies.csv": 'movieId,title,genres\n5,"One, Two (1990)",Comedy|Drama\n'
        '9,"A ""quoted"" one",(no genres listed)\n',
        "ratings.csv": "userId,movieId,rating,timestamp\n7,9,0.5,20\n7,5,4.5,10\n",
        "tags.csv": "userId,movieId,tag,timestamp\n7,5,fun,1\n8,5,a|b,2\n9,5,fun,3\n",
    }
    files |= {name.replace("_", "."): text for name, text in changed.items()}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_100k_by_hand(tmp_path, encoding):
    read = SOURCES["movielens-100k"].read(write_100k(tmp_path / "d", encoding))
    # Sorted by (user, timestamp, position); user 2's two ratings of film 1 are one,
    # the later; user 3 rated nothing and is gone.
    np.testing.assert_array_equal(read.user, [0, 0, 0, 1])
    np.testing.assert_array_equal(read.item, [0, 2, 1, 0])
    np.testing.assert_array_equal(read.rating, [3, 1, 5, 2])
    np.testing.assert_array_equal(read.timestamp, [100, 100, 200, 400])
    np.testing.assert_array_equal(read.position, [2, 4, 1, 3])
    assert dict(read.notes) == {"duplicates_merged": 1, "users_without_interactions": 1}
    assert list(read.users.ids) == ["1", "2"]
    assert dict(read.users.attributes) == {
        "age": ["31", "53"],
        "gender": ["F", "M"],
        "occupation": ["pilot", "baker"],
        "zip_code": ["00501", "99950"],
    }
    assert list(read.items.titles or ()) == ["Alpha (1995)", "Bérénice (1996)", "Gamma"]
    assert dict(read.items.attributes) == {
        "genres": ["Action|Comedy", "Comedy", "unknown"],
        "release_date": ["01-Jan-1995", "02-Feb-1996", ""],
    }


def test_1m_by_hand(tmp_path):
    read = SOURCES["movielens-1m"].read(write_1m(tmp_path / "d"))
    np.testing.assert_array_equal(read.user, [0, 0, 1])
    np.testing.assert_array_equal(read.item, [1, 0, 0])
    np.testing.assert_array_equal(read.rating, [5, 3, 4])
    assert list(read.items.ids) == ["10", "30"]
    assert list(read.items.titles or ()) == ["Café: Noir (2000)", "Solo (1999)"]
    assert read.items.attributes["genres"] == ["Drama|War", "Comedy"]
    assert dict(read.users.attributes) == {
        "gender": ["M", "F"],
        "age": ["Under 18", "56+"],
        "occupation": ["K-12 student", "self-employed"],
        "zip_code": ["00501", "99950"],
    }


def test_latest_small_by_hand(tmp_path):
    read = SOURCES["movielens-latest-small"].read(write_small(tmp_path / "d"))
    np.testing.assert_array_equal(read.item, [0, 1])
    np.testing.assert_array_equal(read.rating, [4.5, 0.5])
    np.testing.assert_array_equal(read.position, [1, 0])
    assert list(read.items.titles or ()) == ["One, Two (1990)", 'A "quoted" one']
    assert dict(read.items.attributes) == {
        "genres": ["Comedy|Drama", ""],
        "tags": ["fun|a/b", ""],
    }


def test_latest_small_has_the_tags_of_most_users_first(tmp_path):
    lines = ["1,5,slow,1", "1,5,Fun,1", "2,5,dark,1", "3,5,fun,1", "4,5,dark,1"]
    lines += ["5,5,fun,1", "1,9,slow,1"]
    tags = "\n".join(["userId,movieId,tag,timestamp", *lines, ""])
    folder = write_small(tmp_path / "d", tags_csv=tags)
    read = SOURCES["movielens-latest-small"].read(folder)
    # Fun and fun are one tag of three users.
    assert read.items.attributes["tags"] == ["Fun|fun|dark|slow", "slow"]


def test_latest_small_needs_no_tags(tmp_path):
    (write_small(tmp_path / "d") / "tags.csv").unlink()
    read = SOURCES["movielens-latest-small"].read(tmp_path / "d")
    assert set(read.items.attributes) == {"genres"}


@pytest.mark.parametrize(
    ("source", "write", "inside"),
    [
        ("movielens-100k", write_100k, "ml-100k/"),
        ("movielens-1m", write_1m, ""),
        ("movielens-latest-small", write_small, "a/b/"),
    ],
)
def test_a_zip_reads_as_its_folder(tmp_path, source, write, inside):
    folder = write(tmp_path / "d")
    archive = tmp_path / "d.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("__MACOSX/u.data", "rubbish")
        for path in folder.iterdir():
            out.write(path, inside + path.name)
    one, two = SOURCES[source].read(folder), SOURCES[source].read(archive)
    for column in ("user", "item", "rating", "timestamp", "position"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))
    assert one.items == two.items
    assert one.users == two.users


def test_windows_line_ends_change_nothing(tmp_path):
    unix = SOURCES["movielens-100k"].read(write_100k(tmp_path / "unix"))
    folder = write_100k(tmp_path / "dos")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    dos = SOURCES["movielens-100k"].read(folder)
    np.testing.assert_array_equal(unix.rating, dos.rating)
    assert unix.items == dos.items
    assert unix.users == dos.users


def bad(number, line):
    """RATINGS with line `number` (from 1) replaced."""
    lines = RATINGS.splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("changed", "pieces"),
    [
        ({"u_data": bad(3, "1\t1\t3")}, ["u.data, line 3", "3 fields", "4 fields"]),
        ({"u_data": bad(2, "")}, ["u.data, line 2", "a blank line"]),
        (
            {"u_data": bad(4, "2\t1\tnan\t4")},
            ["u.data, line 4", "'nan'", "from 1 to 5"],
        ),
        ({"u_data": bad(1, "2\t1\t6\t4")}, ["u.data, line 1", "'6'", "from 1 to 5"]),
        ({"u_data": bad(2, "1\t2\tgood\t4")}, ["u.data, line 2", "rating 'good'"]),
        ({"u_data": bad(2, "1\t2\t1_0\t4")}, ["u.data, line 2", "rating '1_0'"]),
        ({"u_data": bad(5, "1\t99\t3\t4")}, ["line 5", "item id '99'", "u.item lists"]),
        (
            {"u_data": bad(5, f"{2**70}\t1\t3\t4")},
            ["line 5", f"user id '{2**70}'", "u.user lists"],
        ),
        (
            {"u_data": bad(2, f"1\t2\t5\t{2**63}")},
            ["u.data, line 2", f"timestamp '{2**63}'", "64 bits"],
        ),
        ({"u_data": ""}, ["u.data", "an empty file"]),
        ({"u_data": " \n\n"}, ["u.data", "an empty file"]),
        (
            {"u_info": "3 users\n3 items\n9 ratings\n"},
            ["5 ratings", "9, as u.info says"],
        ),
        (
            {"u_user": USERS.replace("2|53", f"{2**31}|53")},
            ["u.user, line 2", str(2**31), f"from 1 to {2**31 - 1}"],
        ),
        (
            {"u_user": USERS.replace("2|53", f"{2**64}|53")},
            ["u.user, line 2", str(2**64)],
        ),
        ({"u_user": USERS + "2|1|M|none|0\n"}, ["u.user, line 4", "a second time"]),
        (
            {"u_item": ITEMS.replace("http://b|0|0|1", "http://b|0|2|1")},
            ["u.item, line 2", "genre Action '2'", "0 or 1"],
        ),
    ],
)
def test_100k_refuses(tmp_path, changed, pieces):
    folder = write_100k(tmp_path / "d", **changed)
    with pytest.raises(FileError) as caught:
        SOURCES["movielens-100k"].read(folder)
    for piece in pieces:
        assert piece in str(caught.value)


def test_1m_refuses_an_unknown_code(tmp_path):
    folder = write_1m(tmp_path / "d")
    (folder / "users.dat").write_text("1::M::1::10::1\n2::F::57::16::99950\n")
    with pytest.raises(FileError, match=r"users\.dat: found age '57' of user 2"):
        SOURCES["movielens-1m"].read(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"ratings_csv": "user,movie,rating,time\n1,5,1,1\n"},
            "line 1: found the header",
        ),
        ({"ratings_csv": "userId,movieId,rating,timestamp\n"}, "a header and no rows"),
        (
            {"movies_csv": 'movieId,title,genres\n5,a,b\n6,"open,b\n7,c,d\n'},
            r"movies\.csv, line 3: found broken quoting",
        ),
        # A quoted field of two lines: the row after it still gets its true number.
        (
            {"movies_csv": 'movieId,title,genres\n5,"a\nb",c\nx,"c",d\n'},
            r"movies\.csv, line 4: found id 'x'",
        ),
    ],
)
def test_latest_small_refuses(tmp_path, changed, message):
    folder = write_small(tmp_path / "d", **changed)
    with pytest.raises(FileError, match=message):
        SOURCES["movielens-latest-small"].read(folder)


def test_latest_small_says_that_it_wants_utf8(tmp_path):
    folder = write_small(tmp_path / "d")
    text = "movieId,title,genres\n5,Fine,x\n9,Bérénice,x\n"
    (folder / "movies.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"movies\.csv, line 3: found byte 0xe9"):
        SOURCES["movielens-latest-small"].read(folder)


def test_a_wrong_folder_is_told_and_a_neighbour_suggested(tmp_path):
    write_100k(tmp_path / "sets" / "ml-100k")
    write_1m(tmp_path / "sets" / "ml-1m")
    with pytest.raises(FileError) as caught:
        SOURCES["movielens-1m"].read(tmp_path / "sets" / "ml-100k")
    message = str(caught.value)
    assert "found u.data, u.genre, u.item, u.user" in message
    assert "expected ratings.dat, movies.dat, users.dat" in message
    assert f"Did you mean {tmp_path / 'sets' / 'ml-1m'}?" in message
    for wrong in (tmp_path / "sets", tmp_path / "sets" / "ml100k"):
        with pytest.raises(FileError, match=r"Did you mean .*ml-100k\?"):
            SOURCES["movielens-100k"].read(wrong)


def test_a_file_that_is_no_zip_is_told(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK, but no")
    with pytest.raises(FileError, match="no readable zip"):
        SOURCES["movielens-100k"].read(tmp_path / "x.zip")


def test_a_damaged_member_of_a_zip_is_told(tmp_path):
    folder = write_100k(tmp_path / "d")
    archive = tmp_path / "d.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for path in folder.iterdir():
            out.write(path, path.name)
    archive.write_bytes(archive.read_bytes().replace(b"2\t1\t4\t300", b"2\t1\t5\t300"))
    with pytest.raises(FileError, match=r"u\.data: cannot be read \(Bad CRC-32"):
        SOURCES["movielens-100k"].read(archive)
