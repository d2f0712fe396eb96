"""Parts of a user's file on the command line: named, trained, swept, resumed."""

import json

import pytest

from fedjax_rec.cli import main
from fedjax_rec.experiment import registry
from tests import own_rule
from tests.own_rule import no_kinds  # noqa: F401

TRAIN = ("train", "small.py", "--plugin", "capped.py", "--aggregation", "capped")


pytestmark = pytest.mark.usefixtures("no_kinds")


@pytest.fixture
def files(folder, write):
    write()
    write(own_rule.TEXT.replace("NAME", ""), "capped.py")
    return folder


def test_a_plugin_trains_and_resumes_without_being_named_again(files):
    options = ("--aggregation.cap", "2", "--output", "run", "--quiet")
    assert main([*TRAIN, *options]) == 0
    part = json.loads((files / "run" / "config.json").read_text())["aggregation"]
    assert (part["type"], part["cap"]) == ("Capped", 2.0)
    assert part["defined_in"]["file"] == "capped.py"
    registry.OWN.clear()
    del registry.SLOTS["aggregation"]["capped"]
    assert main(["train", "--resume", "run", "--rounds", "3", "--quiet"]) == 0
    result = json.loads((files / "run" / "result.json").read_text())
    assert result["rounds"] == 3


def test_a_plugin_is_swept_by_name_and_decides_the_result(files):
    """A cap that no client reaches gives the mean weighted by examples, bit for bit."""
    more = ("--plugin", "capped.py", "--quiet")
    caps = ("--grid", "aggregation=capped", "--grid", "aggregation.cap=1,1000000")
    assert main(["sweep", "small.py", *more, *caps, "--output", "swept"]) == 0
    weights = ("--aggregation", "mean", "--aggregation.weights", "examples")
    assert main(["train", "small.py", *weights, "--quiet", "--output", "mean"]) == 0
    one, none = sorted(
        (files / "swept").glob("*cap=*"), key=lambda path: len(path.name)
    )
    losses = {
        path.name: [
            event["loss"]
            for event in map(json.loads, (path / "metrics.jsonl").open())
            if event["event"] == "round"
        ]
        for path in (one, none, files / "mean")
    }
    assert losses[none.name] == losses["mean"]
    assert losses[one.name][1] != losses["mean"][1]


def test_help_has_the_fields_of_a_plugin(files, capsys):
    assert main([*TRAIN[:4], "--help", "aggregation"]) == 0
    output = capsys.readouterr().out
    assert "--aggregation.cap 5\n      largest weight." in output


DATA = """
    import dataclasses

    import fedjax_rec as fr

    @fr.kind("data")
    @dataclasses.dataclass(frozen=True)
    class MyShop:
        users: int = 6

        def load(self, progress):
            sizes = {"num_users": self.users, "num_items": 20}
            return fr.SyntheticData(num_interactions=60, **sizes).load()
"""


def test_data_of_a_plugin_are_described_and_transferred_to(files, write, shows, fails):
    plugin = ("--plugin", write(DATA, "shop.py"))
    text = shows("data", "describe", "my_shop", *plugin, "--data.users", "7")
    assert "users 7 items 20 interactions 46" in text
    assert "clients 6" in shows(
        "data", "describe", "small.py", *plugin, "--data", "my_shop"
    )
    text = shows(
        "transfer", "small.py", *plugin, "--target", "my_shop", "--help", "target"
    )
    assert "--target.data my_shop" in text
    text = fails("data", "describe", "my_shopp")
    assert "csv, my_shop. Did you mean my_shop?" in text


def test_what_is_wrong_with_a_plugin(files, write, fails):
    assert "there is no such file" in fails("train", "small.py", "--plugin", "no.py")
    assert "expected a Python file" in fails("train", "small.py", "--plugin")
    write("import fedjax_rec", "empty.py")
    shown = fails("train", "small.py", "--plugin", "empty.py")
    assert 'declares no kind: decorate a class with @fedjax_rec.kind("codec")' in shown
    write("x = 1 / 0", "broken.py")
    shown = fails("train", "small.py", "--plugin", "broken.py")
    assert "broken.py, line 1: ZeroDivisionError" in shown
    shown = fails("train", "small.py", "--aggregation", "xylophone")
    assert "A kind of your own needs --plugin FILE" in shown
