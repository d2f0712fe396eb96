"""Every algorithm with every wrapper and attack: a round, or a reasoned refusal."""

import dataclasses

import pytest

from fedjax_rec import MatrixFactorization
from fedjax_rec.experiment import registry
from tests.experiment.test_build import SMALL, assert_round, recipe_of

ALGORITHMS = [kind for kind in registry.SLOTS["algorithm"] if kind != "fedfm"]
FITTING = {
    "fcf": {"clustered_by_profile", "clustered_by_update", "guided"},
    "fedavg": {"scaffold", "ifca", "colr", "fetch_sgd", "guided"},
    "fedmf": {"scaffold", "ifca", "colr", "fetch_sgd", "guided"},
    "fedncf": {"ifca", "fetch_sgd", "guided"},
    "pfedrec": {"scaffold", "ifca", "colr", "fetch_sgd", "guided"},
}
"""Some wrappers that go through a round with an algorithm."""


def outcome(**parts):
    """`None` after a round by shape, or the message of the refusal."""
    try:
        recipe, _ = recipe_of(dataclasses.replace(SMALL, **parts))
        assert_round(recipe)
    except ValueError as refusal:
        return str(refusal)
    return None


def of_kind(slot, kind):
    part = registry.load(slot, kind)
    if kind == "freeze":
        return part(groups=("item",))
    return part(rank=2) if kind == "colr" else part()


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_wrappers_and_attacks_run_or_say_why_not(kind):
    small = {"model": MatrixFactorization(dim=4)} if kind == "fedavg" else {"dim": 4}
    algorithm = registry.load("algorithm", kind)(**small)
    messages = {
        name: outcome(algorithm=algorithm, **{slot: of_kind(slot, name)})
        for slot in ("wrapper", "attack")
        for name in registry.SLOTS[slot]
    }
    assert all(len(message) > 30 for message in messages.values() if message)
    ran = {name for name, message in messages.items() if message is None}
    assert FITTING[kind] | {"sign_flip", "noise", "alie", "ipm"} <= ran
    for rule in ("fedit", "fedex", "flora", "hetlora", "flexlora"):
        assert "FedFM(adapter=LoRA())" in (messages[rule] or "")
