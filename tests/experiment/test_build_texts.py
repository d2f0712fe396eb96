"""Experiments on texts: histories, cold items and cold users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    IID,
    BackboneConfig,
    ColdItems,
    ColdUsers,
    EmbeddingAdapter,
    Execution,
    Experiment,
    FedFM,
    History,
    Joint,
    LoRA,
    Protocol,
    SyntheticData,
    build,
)
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.optimizers import SGD
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.models.start import principal
from tests import by_hand


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One cache for all tests here: their texts are the same."""
    root = tmp_path_factory.getbasetemp() / "texts"
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(root))


def experiment(adapter=None, users=None, **changes):
    fields = {"dim": 4, "batch_size": 999, "training": Joint(optimizer=SGD(lr=0.1))}
    fields |= {"adapter": adapter or EmbeddingAdapter()}
    fields |= {} if users is None else {"users": users}
    return Experiment(
        name="small",
        **{
            "data": SyntheticData(num_users=40, num_items=50, num_interactions=500),
            "algorithm": FedFM(**fields),
            "backbone": BackboneConfig(name="tiny"),
            "execution": Execution(max_buckets=1),
            "rounds": 1,
            "eval_every": 1,
            **changes,
        },
    )


def test_cold_users_are_served_from_their_first_items():
    simulation = build(
        experiment(users=History(length=4, heads=1), split=ColdUsers(test=0.2, val=0.2))
    )
    split = simulation.split
    query, held_out = split.info["query"], np.unique(split.test.user)
    assert not np.isin(held_out, split.train.user).any()
    history = np.asarray(simulation.frozen["history"])
    for user in held_out:
        items = query.item[query.user == user][::-1][:4]
        assert history[user, : len(items)].tolist() == items.tolist()
        assert (history[user, len(items) :] == 50).all()
    # The items of a user's query are no candidates.
    targets = simulation.targets["test"]
    for index, user in enumerate(np.asarray(targets.user)):
        first = int(targets.exclude_offset[index])
        size = int(targets.exclude_size[index])
        excluded = np.asarray(targets.exclude_items[first : first + size])
        assert excluded.tolist() == sorted(query.item[query.user == user])
    # Newcomers differ from each other: the tower reads their histories.
    recipe, state = simulation.recipe, simulation.state
    score = jax.jit(
        lambda user: recipe.model.score(
            Params(shared=state.shared, personal={}),
            simulation.frozen,
            {"user": user},
            None,
        )
    )
    scores = [score(jnp.int32(user)) for user in held_out[:2]]
    assert np.abs(np.asarray(scores[0] - scores[1])).max() > 1e-3
    every = {user: score(jnp.int32(user)) for user in held_out}
    expected = by_hand.mean_metrics(simulation, "test", every, cutoff=10)
    got = simulation.evaluate("test")
    assert {n: got[n] for n in expected} == pytest.approx(expected, abs=1e-5)


def test_cold_items_are_in_no_training_and_alone_in_the_ranking():
    simulation = build(
        experiment(
            LoRA(rank=2),
            split=ColdItems(test=0.2, val=0.2),
            protocol=Protocol(candidates="cold"),
        )
    )
    info = simulation.split.info
    cold = np.concatenate([info["val_items"], info["test_items"]])
    for part in ("val", "test"):
        pool = np.flatnonzero(np.asarray(simulation.targets[part].pool))
        assert pool.tolist() == info[f"{part}_items"].tolist()
    data = jax.tree.map(jnp.asarray, simulation.data)
    assert data.pool is not None
    assert not np.isin(cold, np.asarray(data.pool)).any()
    assert simulation.recipe.local.draw is not None
    draw = jax.jit(simulation.recipe.local.draw)
    for client in range(5):
        pairs = draw(data.examples(jnp.int32(client), 0), jax.random.key(client))
        items = np.asarray(pairs["text"])[np.asarray(pairs["mask"])]
        assert len(items)
        assert not np.isin(items, cold).any()
    # The axes come from the items of training only.
    config = BackboneConfig(name="tiny")
    embedding = Corpus(config, simulation.split.train).embeddings()
    warm = np.setdiff1d(np.arange(50), cold)
    expected, _ = principal(embedding[warm], 4)
    np.testing.assert_allclose(
        simulation.state.shared["head"]["w"], expected, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": Protocol(candidates="cold")}, "cold_items|ColdItems"),
        ({"partition": IID(num_clients=5)}, "hold several users"),
    ],
)
def test_experiments_that_contradict_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        build(experiment(**changes))
