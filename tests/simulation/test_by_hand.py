"""Steps by hand, parameters that stay valid, and lists of the selected round."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    BackboneConfig,
    ColdItems,
    ColdUsers,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    History,
    MatrixFactorization,
    Params,
    PFedRec,
    Protocol,
    Reconstruction,
    StoreConfig,
    SyntheticData,
    build,
    initial_personal,
)
from fedjax_rec.simulation.newcomer import newcomer
from fedjax_rec.simulation.parameters import held, host_copy
from fedjax_rec.simulation.round import client_key, round_hparams

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=60, num_items=80, num_interactions=900),
    algorithm=PFedRec(dim=4, negatives=1),
    execution=Execution(max_buckets=1),
    rounds=5,
    eval_every=2,
)


@functools.cache
def trained(experiment=SMALL):
    sim = build(experiment)
    return sim, sim.run()


def without_seconds(events):
    return [
        {name: value for name, value in event.items() if name != "seconds"}
        for event in events
        if event["event"] != "baselines"
    ]


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def test_steps_of_any_length_and_a_run_after_them_equal_one_run():
    whole, result = trained()
    sim = build(SMALL)
    events = sim.step(3) + sim.step()
    assert [e["round"] for e in events if e["event"] == "evaluation"] == [2, 4]
    assert sim.at_rest
    result_by_hand = sim.run()
    assert without_seconds(sim.history) == without_seconds(whole.history)
    assert result_by_hand["metrics"] == result["metrics"]
    assert sim.selection == whole.selection
    assert equal(sim.selected, whole.selected)
    assert equal(host_copy(sim.snapshot().arrays), host_copy(whole.snapshot().arrays))
    with pytest.raises(ValueError, match=r"5 of 5 rounds are done"):
        sim.step()
    wrong: list[Any] = [0, -1, 1.5, True]
    for rounds in wrong:
        with pytest.raises(ValueError, match="expected a number of rounds, from 1"):
            sim.step(rounds)
    sim.selected, sim.history = None, [{"event": "round", "round": 1, "loss": None}]
    with pytest.raises(ValueError, match="the run diverged in round 1"):
        sim.recommend(sim.served_users()[0], 3)


def test_arrays_stay_valid_and_an_evaluation_by_hand_selects_nothing():
    sim = build(dataclasses.replace(SMALL, eval_every=5))
    before, own = sim.shared, sim.client("u3")
    copies = jax.tree.map(np.array, (before, own))
    sim.evaluate("val")
    sim.step(2)
    assert equal((before, own), copies)
    assert sim.selection.selected == 0
    assert not equal(sim.shared, before)
    assert before["item"].shape == (80, 4)
    assert jax.tree.map(np.shape, own) == {"scorer": {"b": (), "w": (4,)}}
    with pytest.raises(ValueError, match=r"'train' .* expected one of 'val', 'test'"):
        sim.evaluate("train")


def check_hits(sim, result):
    """The lists contain the test items as often as the metric says."""
    ids, users = sim.split.train.items.ids, sim.split.train.users.ids
    lists = sim.recommend(list(users))
    seen = {
        (u, i)
        for part in (sim.split.train, sim.split.val)
        for u, i in zip(part.user.tolist(), part.item.tolist(), strict=True)
    }
    hits = []
    for user, item in zip(sim.split.test.user, sim.split.test.item, strict=True):
        hits.append(ids[item] in {x.item for x in lists[user]})
    assert np.mean(hits) == pytest.approx(result["metrics"]["test"]["hr@10"])
    for user, row in enumerate(lists):
        assert len(row) == 10
        assert [x.score for x in row] == sorted([x.score for x in row], reverse=True)
        assert not {(user, list(ids).index(x.item)) for x in row} & seen
    return lists


@pytest.mark.parametrize("evaluated", ["aggregated", "tuned"])
def test_lists_hit_the_test_items_as_the_selected_metrics_say(evaluated):
    protocol = Protocol(evaluated=evaluated)
    sim, result = trained(dataclasses.replace(SMALL, protocol=protocol))
    state = host_copy(sim.snapshot().arrays)
    lists = check_hits(sim, result)
    # Reading changes no bit of the run.
    assert equal(host_copy(sim.snapshot().arrays), state)
    # One user, and several in another order, have the same lists.
    assert sim.recommend("u7", 3) == lists[7][:3]
    assert sim.recommend(["u9", "u7"], 3) == [lists[9][:3], lists[7][:3]]
    best = sim.recommend("u7", 1, exclude_seen=False)[0]
    assert best.score >= lists[7][0].score
    items = sim.split.train.items
    titles = dict(zip(items.ids, items.titles or (), strict=True))
    assert lists[7][0].title == titles[lists[7][0].item]


def test_lists_of_held_out_items_hold_no_others():
    experiment = dataclasses.replace(
        SMALL,
        algorithm=FedFM(dim=4, negatives=1),
        backbone=BackboneConfig(name="tiny"),
        split=ColdItems(),
        protocol=Protocol(candidates="cold", cutoffs=(3,)),
        rounds=1,
    )
    sim, result = trained(experiment)
    split, ids = sim.split, np.array(sim.split.train.items.ids)
    users = np.unique(split.test.user)
    names = np.array(split.train.users.ids)[users].tolist()
    lists = sim.recommend(names, k=3)
    pool = set(ids[split.info["test_items"]])
    assert all(pool >= {x.item for x in row} for row in lists)
    wanted = [set(ids[split.test.item[split.test.user == u]]) for u in users]
    hits = [
        bool(items & {x.item for x in row})
        for items, row in zip(wanted, lists, strict=True)
    ]
    assert np.mean(hits) == pytest.approx(result["metrics"]["test"]["hr@3"])
    everything = sim.recommend(names[0], k=80)
    assert {x.item for x in everything} == pool


def test_selected_parameters_are_those_of_the_selected_round():
    sim, result = trained()
    other = build(SMALL)
    other.step(result["selected"])
    assert sim.selected is not None
    assert equal(sim.selected.shared, host_copy(other.state.shared))
    assert equal(sim.selected.personal, host_copy(other.personal))
    with held(sim, sim.selected):
        again = sim.evaluate("test")
    assert again == result["metrics"]["test"]


def test_a_population_on_the_host_keeps_them_and_one_on_disk_does_not(tmp_path):
    sim, _ = trained()
    host = build(dataclasses.replace(SMALL, store=StoreConfig(location="host")))
    host.run()
    assert host.recommend("u7") == sim.recommend("u7")
    disk = StoreConfig(location="disk", folder=str(tmp_path))
    disk = build(dataclasses.replace(SMALL, store=disk, rounds=1, eval_every=1))
    disk.run()
    assert disk.selected is None
    with pytest.raises(ValueError, match=r"on disk\. Pass current=True"):
        disk.recommend("u7")
    assert len(disk.recommend("u7", current=True)) == 10


def test_a_new_user_is_fitted_on_a_list_of_items():
    experiment = dataclasses.replace(
        SMALL,
        split=ColdUsers(val=0.2, test=0.2),
        protocol=Protocol(evaluated="tuned"),
    )
    sim, _ = trained(experiment)
    user = int(sim.split.test.user[0])
    name = sim.split.train.users.ids[user]
    query = sim.split.info["query"]
    held_items = query.item[query.user == user]
    ids = np.array(sim.split.train.items.ids)[held_items].tolist()
    listed = {x.item for x in sim.recommend(history=ids)}
    assert not listed & set(ids)
    # Only the negatives drawn differ from those of the held-out user.
    assert len(listed & {x.item for x in sim.recommend(name)}) >= 5


def test_a_new_user_is_reconstructed_from_a_list_of_items():
    experiment = dataclasses.replace(
        SMALL,
        algorithm=FedFM(dim=4, negatives=2, training=Reconstruction(steps=3)),
        backbone=BackboneConfig(name="tiny"),
        split=ColdUsers(val=0.2, test=0.2),
        protocol=Protocol(evaluated="reconstructed"),
        rounds=1,
        eval_every=1,
    )
    sim, _ = trained(experiment)
    ids = sim.split.train.items.ids
    held_items = [3, 11, 40, 7]
    names = [ids[i] for i in held_items]
    listed = sim.recommend(history=names, k=20)
    # The same from the functions of the system: a client of the next id, its data and
    # the key of its round.
    audience, frozen = newcomer(sim, np.array(held_items))
    examples = jax.device_put(audience.data).examples(jnp.int32(0), 0)
    client = jnp.int32(sim.data.num_clients)
    start = jax.tree.map(
        lambda x: x[0], initial_personal(sim.recipe, sim.key, jnp.array([client]))
    )
    result = sim.recipe.client_update(
        Params(shared=sim.state.shared, personal=start),
        frozen,
        examples,
        round_hparams(sim.recipe.hparams, sim.key, sim.state.round),
        client_key(sim.key, sim.state.round, client),
    )
    params = Params(shared=sim.state.shared, personal=result.personal)
    scores = sim.recipe.model.score(params, frozen, {"user": jnp.int32(0)}, None)
    scores = np.array(scores)
    scores[held_items] = -np.inf
    best = np.argsort(-scores)[:20]
    assert [x.item for x in listed] == [ids[i] for i in best]
    np.testing.assert_allclose([x.score for x in listed], scores[best], rtol=1e-4)
    assert not jax.tree.all(jax.tree.map(np.array_equal, result.personal, start))
    # Other items give other lists, in any process the same.
    other = sim.recommend(history=[ids[i] for i in (50, 60, 70)], k=20)
    assert [x.item for x in other] != [x.item for x in listed]
    assert sim.recommend(history=names, k=20) == listed


def test_a_model_of_histories_ranks_for_the_items_of_a_user_as_for_the_user():
    experiment = dataclasses.replace(
        SMALL,
        algorithm=FedFM(dim=4, adapter=None, users=History(), negatives=1),
        backbone=BackboneConfig(),
        rounds=1,
        eval_every=1,
    )
    sim, _ = trained(experiment)
    known = sim.split.train
    ids = np.array(known.items.ids)[known.item[known.user == 5]].tolist()
    mine = sim.recommend(history=ids, exclude_seen=False)
    theirs = sim.recommend("u5", exclude_seen=False)
    assert [x.item for x in mine] == [x.item for x in theirs]
    np.testing.assert_allclose(
        [x.score for x in mine], [x.score for x in theirs], rtol=1e-5
    )


def test_what_is_asked_has_to_exist():
    sim, _ = trained()
    wrong: list[tuple[str, dict[str, Any]]] = [
        (r"user 'u99' and 1 more not found .* 60 user ids", {"user": ["u99", 7]}),
        (r"k=81: expected 1 to 80", {"user": "u1", "k": 81}),
        (r"k=0", {"user": "u1", "k": 0}),
        (r"either user=", {}),
        (r"item 'x' not found", {"history": ["x"]}),
        (r"repeated", {"history": ["i1", "i1"]}),
        (r"at least one item", {"history": []}),
        (r"never fitted.*reconstructed", {"history": ["i1"]}),
    ]
    for words, arguments in wrong:
        with pytest.raises(ValueError, match=words):
            sim.recommend(**arguments)
    with pytest.raises(ValueError, match=r"none was evaluated"):
        build(SMALL).recommend("u1")
    table = dataclasses.replace(
        SMALL,
        algorithm=FedAvg(
            model=MatrixFactorization(dim=4, users="table"),
        ),
    )
    with pytest.raises(ValueError, match=r"keeps a row for each user"):
        build(table).recommend(history=["i1"])
