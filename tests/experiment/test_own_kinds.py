"""Kinds from users' files: added under their names, or refused."""

import dataclasses
import hashlib
import textwrap

import pytest

import fedjax_rec as fr
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import fields_of, read_kind, with_values
from fedjax_rec.experiment.own_kinds import snake_case
from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.experiment.stored import stored_experiment
from fedjax_rec.runs.plain import own_files, plain
from fedjax_rec.storage.errors import UserError
from tests import own_rule
from tests.own_rule import no_kinds  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_kinds")


@pytest.fixture
def write(tmp_path):
    def write(text=own_rule.TEXT, name="capped_rule.py", **changes):
        text = textwrap.dedent(text)
        for old, new in {"NAME": "", **changes}.items():
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_kind_is_named_in_flags_and_grids_like_those_of_the_package(write):
    load_module(write())
    experiment = fr.Experiment(name="x")
    field = fields_of(experiment)["aggregation"]
    for text in ("capped", "Capped"):
        rule = read_kind("aggregation", field, text)
        assert (type(rule).__name__, rule.cap) == ("Capped", 5.0)
    values = {"aggregation": "capped", "aggregation.cap": 2.0}
    assert with_values(experiment, values).aggregation.cap == 2.0
    assert registry.name_of(rule) == "capped"
    assert "Capped" not in dir(fr)


def test_a_kind_may_have_another_name_and_comes_with_what_a_file_imports(write):
    write(NAME=', "limited"', name="limited_rule.py")
    path = write("from limited_rule import Capped", "importing.py")
    load_module(path)
    assert registry.load("aggregation", "limited").__name__ == "Capped"


def test_config_json_has_file_name_and_hash_and_brings_the_part_back(write):
    path = write()
    rule = load_module(path).Capped(cap=3.0)
    experiment = fr.Experiment(name="x", aggregation=rule)
    config = plain(experiment)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    del config["aggregation"]["defined_in"]["sha256"]
    assert config["aggregation"] == {
        "type": "Capped",
        "defined_in": {"file": "capped_rule.py"},
        "cap": 3.0,
    }
    assert "defined_in" not in config["algorithm"]
    assert own_files(experiment) == [str(path)]
    before = plain(experiment)
    again = stored_experiment(before, "runs/x", files=[str(path)])
    assert again.aggregation.cap == 3.0
    assert before["aggregation"]["defined_in"]["sha256"] == sha256


def test_a_run_does_not_go_on_with_other_code_or_without_it(write):
    path = write()
    rule = load_module(path).Capped()
    config = plain(fr.Experiment(name="x", aggregation=rule))
    path.write_text(path.read_text().replace("largest weight.", "the largest."))
    with pytest.raises(UserError, match="another version of the code that defines"):
        stored_experiment(config, "runs/x", files=[str(path)])
    path.unlink()
    registry.OWN.clear()
    with pytest.raises(UserError, match="defined, and this file is gone"):
        stored_experiment(config, "runs/x", files=[str(path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({'"aggregation"': '"rule"'}, r"slot='rule', expected one of data, split, "),
        ({"NAME": ', "krum"'}, r"aggregation 'krum' exists already, in fedjax_rec"),
        ({"Capped": "Krum"}, r"exists already, in fedjax_rec: choose another name"),
        ({" = 5.0": ""}, r"Capped.cap has no default: a kind is chosen by its name"),
        (
            {"@dataclasses.dataclass(frozen=True, kw_only=True)": ""},
            "Capped is declared as a kind and is no dataclass",
        ),
    ],
)
def test_kinds_that_cannot_be_named_are_refused(write, changes, message):
    with pytest.raises(ValueError, match=message):
        load_module(write(**changes))


def test_two_files_cannot_have_a_kind_of_one_name_and_one_file_can_change(write):
    path = write()
    load_module(path)
    path.write_text(path.read_text().replace("5.0", "6.0"))
    load_module(path)
    assert registry.load("aggregation", "capped")().cap == 6.0
    with pytest.raises(ValueError, match="exists already, in test_config_capped_rule"):
        load_module(write(name="other.py"))


def test_names_are_those_of_classes_with_underscores():
    names = {"FixedPoint": "fixed_point", "QSGD": "qsgd", "DPFedAvg": "dp_fed_avg"}
    assert {name: snake_case(name) for name in names} == names


def test_a_part_in_another_field_is_refused(write):
    rule = load_module(write()).Capped()
    with pytest.raises(TypeError, match="is a kind of aggregation; expected one of"):
        fr.Experiment(name="x", codec=dataclasses.replace(rule))
