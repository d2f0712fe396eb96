"""Messages of errors, and what converts into them."""

import pytest

from fedjax_rec.storage.errors import FileError, Unreachable, UserError, writable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "age 7"),
        ({"file": "a.csv"}, "a.csv: age 7"),
        ({"file": "a.csv", "line": 3}, "a.csv, line 3: age 7"),
        ({"line": 3}, "age 7"),
        ({"expected": "9"}, "age 7; expected 9"),
        ({"file": "a.csv", "expected": "9"}, "a.csv: found age 7; expected 9"),
        (
            {"file": "a.csv", "line": 3, "expected": "9", "fix": "Correct it"},
            "a.csv, line 3: found age 7; expected 9. Correct it",
        ),
    ],
)
def test_a_message_has_the_parts_that_apply(arguments, message):
    error = FileError("age 7", **arguments)
    assert str(error) == message
    assert error.file == arguments.get("file")
    assert error.line == arguments.get("line")


def test_the_command_line_shows_all_of_them():
    assert issubclass(Unreachable, FileError)
    assert issubclass(FileError, UserError)
    assert issubclass(UserError, ValueError)


def test_an_operating_system_error_names_the_path(tmp_path):
    with (
        pytest.raises(FileError, match=r"/a: cannot be written \(Is a .*\)\. Move it$"),
        writable(tmp_path / "a", "Move it"),
    ):
        tmp_path.write_text("")
    with pytest.raises(ZeroDivisionError), writable(tmp_path):
        raise ZeroDivisionError
