"""Parts of a user's file on the command line: named, trained, swept, resumed."""

import copy
import json

import pytest

from fedjax_rec.cli import main
from fedjax_rec.experiment import own_module, registry

PLUGIN = '''
    import dataclasses

    import jax.numpy as jnp

    import fedjax_rec as fr
    from fedjax_rec.aggregators import fold


    @fr.kind("aggregation")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Capped:
        """A mean with weights of at most `cap`.

        Attributes:
            cap: largest weight.
        """

        cap: float = 5.0

        def build(self, context):
            def weigh(deltas, weights, senders, lengths):
                return jnp.minimum(weights, self.cap)

            return fold.mean(weigh)
'''
TRAIN = ("train", "small.py", "--plugin", "capped.py", "--aggregation", "capped")


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """The registry as it was, after a test."""
    monkeypatch.setattr(registry, "SLOTS", copy.deepcopy(registry.SLOTS))
    monkeypatch.setattr(registry, "OWN", {})
    # Modules of other tests may have a class of the same name.
    monkeypatch.setattr(own_module, "_PREFIX", "plugins_")


@pytest.fixture
def files(folder, write):
    write()
    write(PLUGIN, "capped.py")
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


def test_a_plugin_is_swept_by_name(files):
    grid = ("--grid", "aggregation=capped,mean", "--output", "swept", "--quiet")
    assert main(["sweep", "small.py", "--plugin", "capped.py", *grid]) == 0
    table = (files / "swept" / "table.csv").read_text()
    assert "capped" in table
    assert "mean" in table


def test_help_has_the_fields_of_a_plugin(files, capsys):
    assert main([*TRAIN[:4], "--help", "aggregation"]) == 0
    output = capsys.readouterr().out
    assert "--aggregation.cap 5\n      largest weight." in output


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
