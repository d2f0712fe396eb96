"""Prepared data: laid out, cached, digested; and the targets in them."""

import dataclasses
import importlib
import sys
import types

import jax
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import (
    IID,
    ColdItems,
    ColdUsers,
    CsvData,
    Execution,
    Experiment,
    GlobalTime,
    LeaveLast,
    LeaveOneOut,
    Protocol,
    Ratio,
    StoreConfig,
    SyntheticData,
    paper_compat,
)
from fedjax_rec.data.interactions import make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.experiment import prepared
from fedjax_rec.experiment.held_out import untimed
from fedjax_rec.experiment.prepared import (
    key_of,
    load_prepared,
    prepare,
    training_items,
)

EXPERIMENT = Experiment(
    name="x", data=SyntheticData(num_users=12, num_items=20, num_interactions=120)
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cached populations."""
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))
    return tmp_path / "populations"


def change(**changes):
    return dataclasses.replace(EXPERIMENT, **changes)


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_prepared_data_come_from_the_cache_as_memory_maps(cache, monkeypatch):
    monkeypatch.setattr("fedjax_rec.storage.cache._SMALL", 0)
    first = load_prepared(EXPERIMENT)
    entry = cache / (key_of(EXPERIMENT) or "")
    files = {file: file.stat().st_ino for file in entry.iterdir()}
    again = load_prepared(EXPERIMENT)
    assert {file: file.stat().st_ino for file in entry.iterdir()} == files
    assert isinstance(again.split.train.user, np.memmap)
    assert again.digests == first.digests
    assert same(again.clients, first.clients)
    assert again.single
    assert again.pool is None


def test_data_that_are_given_or_not_to_be_kept_use_no_cache(cache):
    data = EXPERIMENT.data.load()
    given = load_prepared(EXPERIMENT, data)
    kept_out = load_prepared(change(store=StoreConfig(cache=False)))
    assert given.digests == kept_out.digests
    assert not cache.exists()


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"data": SyntheticData(seed=1)}, True),
        ({"split": ColdItems(), "protocol": Protocol(candidates="cold")}, True),
        ({"partition": IID(num_clients=3)}, True),
        ({"protocol": Protocol(cutoffs=(10,))}, True),
        ({"rounds": 3, "seed": 5, "name": "y", "execution": Execution()}, False),
    ],
)
def test_the_cache_key_depends_on_all_that_decides_the_data(changes, differs):
    assert (key_of(change(**changes)) != key_of(EXPERIMENT)) == differs


MODULE = """
import dataclasses
import {helper}
from fedjax_rec import SyntheticData

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    scale: float = {scale}

    def origin(self, progress=False):
        return "mine"

    def load(self, progress=False):
        return {helper}.load()
"""
HELPER = """
from fedjax_rec import SyntheticData

def load():
    return SyntheticData(num_users=12, num_items=20, num_interactions={count}).load()
"""


def test_an_edited_loader_or_module_that_it_imports_is_a_miss(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def key(scale=1.0, count=120):
        values = {"helper": "own_helper", "scale": scale, "count": count}
        (tmp_path / "own_helper.py").write_text(HELPER.format(**values))
        (tmp_path / "own_data.py").write_text(MODULE.format(**values))
        for name in ("own_data", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        experiment = change(data=importlib.import_module("own_data").Mine())
        return key_of(experiment), len(load_prepared(experiment).split.train)

    first, same, scaled, fewer = key(), key(), key(scale=2.0), key(count=100)
    assert first == same
    assert len({first[0], scaled[0], fewer[0]}) == 3
    assert (first[1], fewer[1]) == (scaled[1], first[1] - 20)


def test_data_without_an_origin_are_known_by_their_content(cache, monkeypatch):
    """A loader is called each time, and other content is a miss."""
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Mine:
        titles: str = "a"

        def load(self, progress=False):
            calls.append(self)
            data = EXPERIMENT.data.load()
            titles = [f"{self.titles} {i}" for i in range(data.num_items)]
            items = dataclasses.replace(data.items, titles=titles)
            return dataclasses.replace(data, items=items)

    keys = {key_of(change(data=Mine(titles))) for titles in "aab"}
    assert len(keys) == 2
    calls.clear()
    first, again = (load_prepared(change(data=Mine())) for _ in range(2))
    assert len(calls) == 2
    assert first.digests == again.digests
    assert [path.name for path in cache.iterdir()] == [key_of(change(data=Mine()))]
    another = load_prepared(change(data=Mine("b")))
    titles = another.split.train.items.titles
    assert titles is not None
    assert titles[3] == "b 3"


@pytest.mark.parametrize("slot", ["split", "partition"])
def test_an_edited_split_or_partition_is_a_miss(slot, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    base = {"split": "LeaveOneOut", "partition": "PerUser"}[slot]

    def key(comment):
        text = f"from fedjax_rec import {base}\nclass Mine({base}):\n    {comment}"
        (tmp_path / "own_part.py").write_text(text)
        sys.modules.pop("own_part", None)
        importlib.invalidate_caches()
        part = importlib.import_module("own_part").Mine()
        return key_of(change(**{slot: part}))

    first, same, edited = key("x = 1"), key("x = 1"), key("x = 2")
    assert first == same != edited


def test_a_replaced_function_of_the_package_is_a_miss(monkeypatch):
    before = key_of(EXPERIMENT)
    monkeypatch.setattr(PerUser, "partition", lambda self, train: None)
    replaced = key_of(EXPERIMENT)
    monkeypatch.undo()
    assert before == key_of(EXPERIMENT) != replaced
    lay_out = prepared.lay_out
    monkeypatch.setattr(prepared, "lay_out", lambda *args, **_: lay_out(*args))
    assert key_of(EXPERIMENT) not in (before, replaced)


def test_code_without_a_file_is_not_cached(cache):
    names = {"__name__": "typed", "PerUser": PerUser, "dataclasses": dataclasses}
    sys.modules["typed"] = types.ModuleType("typed")
    exec("class Typed(PerUser): pass", names)
    vars(sys.modules["typed"])["Typed"] = names["Typed"]
    try:
        experiment = change(partition=names["Typed"]())
        assert key_of(experiment) is None
        assert load_prepared(experiment).digests == load_prepared(EXPERIMENT).digests
        assert len(list(cache.iterdir())) == 1
    finally:
        del sys.modules["typed"]


def test_items_that_training_may_see():
    experiment = change(split=ColdItems(test=0.2), protocol=Protocol(candidates="cold"))
    laid_out = prepare(experiment, EXPERIMENT.data.load())
    info = laid_out.split.info
    cold = np.concatenate([info["val_items"], info["test_items"]])
    assert laid_out.pool is not None
    assert sorted([*laid_out.pool, *cold]) == list(range(20))
    split = laid_out.split
    assert training_items(dataclasses.replace(split, info={})) is None


@pytest.mark.parametrize("partition", [PerUser(), IID(num_clients=5)])
@pytest.mark.parametrize(
    ("split", "candidates"),
    [
        (LeaveOneOut(), "full"),
        (LeaveOneOut(), "sampled"),
        (Ratio(by="random"), "full"),
        (GlobalTime(), "full"),
        (ColdItems(), "cold"),
        (ColdUsers(), "full"),
    ],
)
def test_a_clients_candidates_are_all_negatives_or_none_is(
    split, candidates, partition
):
    protocol = Protocol(candidates=candidates, num_candidates=6)
    laid_out = prepare(
        change(split=split, protocol=protocol, partition=partition),
        EXPERIMENT.data.load(),
    )
    train = laid_out.split.train
    every = set(range(train.num_items))
    drawn = every if laid_out.pool is None else set(laid_out.pool.tolist())
    for targets in laid_out.targets.values():
        start, size = targets.exclude_offset, targets.exclude_size
        for at, user in enumerate(targets.user):
            held = train.item[train.user == user]
            negatives = drawn - set(held.tolist())
            known = targets.exclude_items[start[at] : start[at] + size[at]]
            ranked = every
            if targets.pool is not None:
                ranked = set(np.flatnonzero(targets.pool).tolist())
            ranked = ranked - set(known.tolist())
            if targets.candidates is not None:
                rows = (targets.candidates[at], targets.positives[at])
                ranked = set(np.concatenate(rows).tolist()) & every
            assert ranked <= negatives or not ranked & negatives


def test_negatives_of_a_leaking_protocol_avoid_the_test():
    data = EXPERIMENT.data.load()
    clean = prepare(EXPERIMENT, data)
    leaking = prepare(change(protocol=paper_compat()), data)
    excluded = [p.clients.exclude.size.sum() for p in (clean, leaking)]
    held_out = len(clean.split.val) + len(clean.split.test)
    assert excluded[1] == excluded[0] + held_out


def test_targets_of_both_parts_have_the_same_shapes():
    data = EXPERIMENT.data.load()
    for protocol in (Protocol(), Protocol(candidates="sampled", num_candidates=5)):
        targets = prepare(change(protocol=protocol), data).targets
        assert targets.keys() == {"val", "test"}
        val, test = (jax.tree.map(np.shape, targets[part]) for part in ("val", "test"))
        assert val == test


def test_some_users_are_evaluated_by_the_same_items():
    data = EXPERIMENT.data.load()
    every = prepare(EXPERIMENT, data).targets["test"]
    some = prepare(change(protocol=Protocol(max_users=5)), data).targets["test"]
    assert len(some.user) == 5
    for index, user in enumerate(some.user):
        (position,) = np.flatnonzero(np.asarray(every.user) == user)
        np.testing.assert_array_equal(some.positives[index], every.positives[position])


@pytest.mark.parametrize(
    ("split", "by_time"),
    [
        (LeaveOneOut(), True),
        (LeaveLast(), True),
        (Ratio(), True),
        (Ratio(by="random"), False),
        (GlobalTime(), True),
        (ColdItems(), False),
        (ColdUsers(), True),
    ],
)
def test_a_split_by_time_of_data_without_time_is_warned_of(split, by_time):
    data = EXPERIMENT.data.load()
    assert split.split(data).by_time == by_time
    assert not untimed(split.split(data))
    columns = {"user": data.user, "item": data.item}
    entities = {"users": data.users, "items": data.items}
    parts = split.split(make_interactions(**columns, **entities))
    assert bool(untimed(parts)) == by_time


def test_building_warns_of_a_split_by_lines(tmp_path, caplog):
    rows = [f"{user},{item}" for user in "ab" for item in range(4)]
    (tmp_path / "a.csv").write_text("user,item\n" + "\n".join(rows))
    experiment = change(data=CsvData(dir=str(tmp_path / "a.csv")))
    fedjax_rec.build(experiment)
    assert "8 interactions of 'csv' have no timestamps" in caplog.text
    assert "leave_one_out" in caplog.text
