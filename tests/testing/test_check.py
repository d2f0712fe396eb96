"""`fedjax-rec check` and `fedjax_rec.testing` name the law that a part breaks."""

import dataclasses
import re
from pathlib import Path

import pytest

from fedjax_rec import Krum, testing
from fedjax_rec.cli import main
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declared
from tests import own_rule
from tests.own_rule import no_kinds  # noqa: F401
from tests.testing import faulty

FAULTY = declared(faulty)


def broken(part):
    """The names of the laws that a part breaks, with their messages."""
    found = {}
    for law in testing.laws(part):
        try:
            law()
        except testing.NotApplicable:
            pass
        except testing.LawBroken as error:
            found[law.name] = str(error)
    return found


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_a_fault_is_named(cls):
    law = cls.__doc__.partition(":")[0]
    names = broken(cls())
    assert any(name.startswith(law) for name in names), names


@pytest.mark.parametrize("kind", registry.SLOTS["partition"])
def test_the_partitions_of_the_package_obey_the_laws(kind):
    testing.check(registry.load("partition", kind)())


def test_laws_are_called_in_pytest():
    laws = testing.laws(Krum())
    assert str(laws[0]) == laws[0].name
    laws[0]()


@dataclasses.dataclass(frozen=True)
class NoSlot:
    """A part without a slot."""


def test_a_part_without_a_slot():
    with pytest.raises(ValueError, match="NoSlot has no slot: pass slot="):
        testing.laws(NoSlot())
    with pytest.raises(ValueError, match="slot='rule', expected one of data, "):
        testing.laws(NoSlot(), "rule")


@pytest.fixture
def capped(tmp_path):
    path = tmp_path / "capped.py"
    text = re.sub("(?m)^    ", "", own_rule.TEXT.replace("NAME", ""))
    path.write_text(text)
    return path


@pytest.mark.usefixtures("no_kinds")
def test_the_command_on_a_good_file(capped, capsys):
    assert main(["check", str(capped)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("aggregation capped (Capped)\n  ok       The class is a")
    assert "  ok       Clients fold in any grouping and order" in shown
    assert "BROKEN" not in shown


@pytest.mark.usefixtures("no_kinds")
def test_the_command_on_a_fault(capsys):
    file = str(Path(faulty.__file__))
    words = ["--kind", "counts_absent", "--law", "weight 0"]
    assert main(["check", file, *words]) == 1
    shown = capsys.readouterr().out
    assert "  BROKEN   A client of weight 0 is absent" in shown
    assert "1 broken law" in shown


@pytest.mark.usefixtures("no_kinds")
def test_wrong_arguments_of_the_command(capped, tmp_path, capsys):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    for words, message in (
        (["no.py"], "no.py: there is no such file"),
        ([str(empty)], "declares no kind: decorate a class with"),
        ([str(capped), "--kind", "x"], "declares capped"),
        ([str(capped), "--law", "xyz"], "no law of capped has these words"),
    ):
        assert main(["check", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["check", "--help"]) == 0
    assert "usage: fedjax-rec check FILE" in capsys.readouterr().out
