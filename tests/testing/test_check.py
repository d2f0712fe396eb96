"""`fedjax-rec check` and `fedjax_rec.testing` name the law that a part breaks."""

import dataclasses
import re
from pathlib import Path

import pytest

from fedjax_rec import BackboneConfig, Krum, testing
from fedjax_rec.cli import main
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declaration, declared
from fedjax_rec.experiment.own_module import load_module
from tests import own_rule
from tests.own_rule import no_kinds  # noqa: F401
from tests.testing import faulty, faulty_deltas

FAULTY = declared(faulty) + declared(faulty_deltas)


SYSTEMS = ("algorithm", "model", "wrapper", "attack", "users")
"""Slots with laws that take long, of which only the broken one is checked."""


def slot_of(cls):
    return (declaration(cls) or ("",))[0]


def broken(part, chosen="", slot=None):
    """The names of the laws that a part breaks, of those that begin with a text."""
    names = []
    for law in testing.laws(part, slot):
        if law.name.replace("`", "").startswith(chosen.replace("`", "")):
            try:
                law()
            except testing.NotApplicable:
                pass
            except testing.LawBroken:
                names.append(law.name)
    return names


@pytest.mark.parametrize("cls", FAULTY, ids=lambda cls: cls.__name__)
def test_a_fault_is_named(cls):
    law = cls.__doc__.partition(":")[0]
    names = broken(cls(), law if slot_of(cls) in SYSTEMS else "")
    assert names, "no law is broken"
    assert names[0].startswith(law)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (faulty_deltas.Narrow, "width 5 has the number 140, which does not fit in its"),
        (faulty_deltas.Uncleared, "only rows of padding differ, so clear what is"),
        (faulty_deltas.Ascent, "numbers of deltas of scale 1 are decoded as -"),
        (faulty_deltas.NoHooks, "sites has 'attention/query', and an adapter that"),
        (faulty.OfflineOnly, "--users.weights cannot be set by a flag"),
    ],
)
def test_the_message_says_what_is_wrong(cls, words):
    law = cls.__doc__.partition(":")[0]
    (chosen,) = (
        x
        for x in testing.laws(cls())
        if x.name.replace("`", "").startswith(law.replace("`", ""))
    )
    with pytest.raises(testing.LawBroken, match=re.escape(words)):
        chosen()


def test_every_kind_of_part_has_a_fault():
    slots = {slot_of(cls) for cls in FAULTY}
    assert {slot for slot in registry.SLOTS if "." not in slot} - slots == {"optimizer"}


QUICK = ("split", "partition", "cohort", "metric", "optimizer", "server_optimizer")
KINDS = [(slot, kind) for slot in QUICK for kind in registry.SLOTS[slot]]


@pytest.mark.parametrize(("slot", "kind"), [*KINDS, ("data", "synthetic")])
def test_the_parts_of_the_package_obey_the_laws(slot, kind):
    """`tests/test_laws.py` has those of rules, codecs, systems and models."""
    testing.check(registry.load(slot, kind)(), slot)


def test_the_tiny_backbone_obeys_the_laws():
    testing.check(BackboneConfig(name="tiny"))


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
EXAMPLES = [path for path in EXAMPLES if path.stem != "by_hand"]
SLOW = ("fedrap", "own_attack", "own_model", "own_recipe", "own_wrapper")


@pytest.mark.usefixtures("no_kinds")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else (), id=p.stem)
        for p in EXAMPLES
    ],
)
def test_the_examples_obey_the_laws(path):
    for cls in declared(load_module(path)):
        testing.check(cls())


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
    assert shown.startswith("aggregation capped\n  ok       The class is a")
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
def test_a_part_that_cannot_be_built_has_one_line_for_the_other_laws(capsys):
    assert main(["check", faulty.__file__, "--kind", "no_build"]) == 1
    shown = capsys.readouterr().out
    assert "NoBuild has no method build; kinds of aggregation need" in shown
    assert "  skipped  8 laws, since the part cannot be built" in shown
    assert shown.count("BROKEN") == 1


@pytest.mark.parametrize("made", [None, 3])
def test_a_part_of_another_type_breaks_one_law(made):
    names = broken(
        dataclasses.make_dataclass(
            "Rule", [], namespace={"build": lambda self, context: made}, frozen=True
        )(),
        slot="aggregation",
    )
    assert names == ["`build(context)` returns an Aggregator"]


CONFIG = """
import fedjax_rec as fr
from capped import Capped


def get_config():
    return fr.Experiment(name="mine", aggregation=Capped(cap=2.0), codec=fr.TopK())
"""


@pytest.mark.usefixtures("no_kinds")
def test_the_parts_of_a_config_are_checked_with_their_values(capped, capsys):
    path = capped.with_name("mine.py")
    path.write_text(CONFIG)
    assert main(["check", str(path), "--law", "hashed"]) == 0
    shown = capsys.readouterr().out
    names = [line for line in shown.splitlines() if not line.startswith(" ")]
    assert names == ["aggregation capped", "aggregation mine.aggregation"]


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
