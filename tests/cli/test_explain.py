"""`--help`: an overview on two screens, and every part in full."""

import dataclasses
from pathlib import Path

import pytest

from fedjax_rec import Experiment, FedAvg, FedFM, FlexLoRA, SyntheticData
from fedjax_rec.cli import explain
from fedjax_rec.cli.config_file import load_configs
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.sweep import Sweep
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import fields_of, shown
from fedjax_rec.storage.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
EXPERIMENT = Experiment(
    name="x", algorithm=FedFM(), data=SyntheticData(num_users=24), wrapper=FlexLoRA()
)


def overview(experiment=EXPERIMENT, options=None, doc="Title.\n\nMore."):
    return explain.asked([], options or Train(), experiment, "usage: x", doc)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_overview_of_every_config_fits_two_screens(path):
    config = load_configs(str(path))
    for experiment in config.experiments:
        for options in (Train(), Sweep()):
            lines = overview(experiment, options, config.doc).splitlines()
            assert len(lines) <= 80
            assert max(map(len, lines)) <= 88


def test_the_overview_has_every_field_with_its_value():
    text = " ".join(overview().split())
    for field in dataclasses.fields(Train):
        assert f"--{shown(field.name)} " in text
    for name, field in fields_of(EXPERIMENT).items():
        if field.slot is None:
            part, _, inner = name.partition(".")
            assert f"{shown(inner or part)}=" in text
    for words in (
        "usage: x Title. Options:",
        "synthetic: num-users=24 num-items=1500",
        "| or files, csv",
        "adapter=lora adapter.layers=1 adapter.rank=8",
        "or scaffold, ifca",
        "codec none | or ",
        "name=x rounds=100",
        "devices=low mid high",
        "template=(empty)",
    ):
        assert words in text
    assert "More." not in text
    assert "or flexlora" not in text
    assert ", flexlora" not in text


@pytest.mark.parametrize("slot", [slot for slot in registry.SLOTS if "." not in slot])
def test_a_part_is_shown_with_all_kinds(slot):
    names = {"optimizer": "algorithm.training.optimizer", "metric": "protocol.metric"}
    of_fedavg = ("model", "client_optimizer")
    inner = (*of_fedavg, "server_optimizer", "adapter", "users", "training")
    path = names.get(slot, f"algorithm.{slot}" if slot in inner else slot)
    algorithm = FedAvg() if slot in of_fedavg else FedFM()
    experiment = dataclasses.replace(EXPERIMENT, algorithm=algorithm)
    text = explain.part(experiment, shown(path))
    flat = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 88
    for kind in registry.SLOTS[slot]:
        cls = registry.load(slot, kind)
        assert f"--{shown(path)} {kind} {explain._summary(cls)[:40]}"[:60] in flat
        descriptions = explain.attributes(cls)
        for field in dataclasses.fields(cls):
            assert f"--{shown(path)}.{shown(field.name)} " in flat
            assert descriptions[field.name] in flat
            assert descriptions[field.name]


def test_a_part_has_the_values_of_the_experiment():
    text = explain.part(EXPERIMENT, "data")
    assert "this one is synthetic" in text
    assert "--data.num-users 24" in text
    assert "--data.source movielens-100k" in text
    text = explain.part(EXPERIMENT, "algorithm")
    assert "--algorithm.adapter lora" in text
    assert "Kinds: lora, bottleneck, prefix_tuning, embedding (--help algorithm.ad" in (
        " ".join(text.split())
    )


def test_parts_of_one_kind_and_single_fields():
    assert "--store.location auto" in explain.part(EXPERIMENT, "store")
    assert explain.part(EXPERIMENT, "store.cache").startswith("  --store.cache True\n")
    assert explain.part(EXPERIMENT, "rounds") == (
        "  --rounds 100\n      number of rounds.\n"
    )
    text = explain.asked(["checkpoint", "codec"], Train(), EXPERIMENT, "", "")
    assert "--checkpoint.every none" in text
    assert "--codec KIND; this one is none" in text


def test_an_unknown_part_leads_to_valid_ones():
    for name, expected in (
        ("codecs", "--help codecs: no such part. The nearest: --codec"),
        ("cohort.size", "size is a field of --cohort uniform"),
    ):
        with pytest.raises(UserError, match=expected):
            explain.part(EXPERIMENT, name)


@dataclasses.dataclass(frozen=True)
class Own:
    slope: float = 1.0

    def build(self, context):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Documented(Own):
    """A system of one's own.

    Attributes:
        slope: steepness of the descent, which is
            a matter of taste: as you like.
    """


def test_classes_of_ones_own_are_explained():
    experiment = Experiment(name="x", algorithm=Own())
    text = explain.part(experiment, "algorithm")
    assert "this one is Own" in text
    assert "--algorithm Own\n  --algorithm.slope 1\n" in text
    assert "--algorithm fedavg" in text
    assert "algorithm    Own: slope=1 | or " in overview(experiment)
    text = explain.part(Experiment(name="x", algorithm=Documented()), "algorithm")
    assert "  A system of one's own.\n" in text
    assert "steepness of the descent, which is a matter of taste: as you like." in text
