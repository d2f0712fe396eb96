from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.splits import (
    ColdItems,
    ColdUsers,
    GlobalTime,
    LeaveLast,
    LeaveOneOut,
    Ratio,
)
from fedjax_rec.data.synthetic import synthetic

DATA = synthetic(1, num_users=60, num_items=80, num_interactions=1200)
SPLITS = {
    "leave_one_out": LeaveOneOut(),
    "leave_one_out_reversed": LeaveOneOut(ties="reverse_file_order"),
    "ratio": Ratio(val=0.2, test=0.3),
    "ratio_random": Ratio(by="random"),
    "global_time": GlobalTime(),
    "cold_items": ColdItems(test=0.2),
    "cold_users": ColdUsers(test=0.2),
}


def toy(user, item, timestamp=None) -> Interactions:
    user, item = np.array(user), np.array(item)
    return make_interactions(
        user=user,
        item=item,
        timestamp=None if timestamp is None else np.array(timestamp),
        users=Entities(ids=[str(u) for u in range(user.max() + 1)]),
        items=Entities(ids=[str(i) for i in range(item.max() + 1)]),
    )


def pairs(*parts: Interactions) -> list[tuple[int, int]]:
    return sorted(
        (u, i) for p in parts for u, i in zip(p.user.tolist(), p.item, strict=True)
    )


@pytest.mark.parametrize("name", SPLITS)
def test_parts_are_disjoint_and_together_the_data(name):
    split = SPLITS[name].split(DATA)
    parts = [split.train, split.val, split.test]
    if "query" in split.info:
        parts.append(split.info["query"])
    assert pairs(*parts) == pairs(DATA)
    assert all(len(part) for part in parts)


@pytest.mark.parametrize("name", SPLITS)
def test_parts_stay_sorted_and_keep_the_entities(name):
    split = SPLITS[name].split(DATA)
    for part in (split.train, split.val, split.test):
        order = np.lexsort((part.position, part.timestamp, part.user))
        assert (order == np.arange(len(part))).all()
        assert part.users is DATA.users
        assert part.items is DATA.items


@pytest.mark.parametrize("name", ["leave_one_out", "leave_one_out_reversed", "ratio"])
def test_within_a_user_the_past_trains(name):
    tied = toy(
        np.repeat(np.arange(30), 20),
        np.tile(np.arange(20), 30),
        np.random.default_rng(0).integers(0, 8, 600),
    )
    split = SPLITS[name].split(tied)
    for earlier, later in ((split.train, split.val), (split.val, split.test)):
        last, first = np.full(30, -1), np.full(30, 99)
        np.maximum.at(last, earlier.user, earlier.timestamp)
        np.minimum.at(first, later.user, later.timestamp)
        assert (last <= first).all()


def test_leave_one_out_by_hand():
    data = toy([0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 0, 1, 2], [5, 9, 7, 1, 0, 1, 4])
    split = LeaveOneOut().split(data)
    assert pairs(split.test) == [(0, 1)]
    assert pairs(split.val) == [(0, 2)]
    assert pairs(split.train) == [(0, 0), (0, 3), (1, 0), (1, 1), (2, 2)]
    assert split.info["users_too_short"] == 2


def test_ties_of_leave_one_out():
    # Lines 1 and 2 of the file are tied for the latest.
    data = toy([0, 0, 0, 0], [0, 1, 2, 3], [1, 9, 9, 2])
    forward = LeaveOneOut().split(data)
    assert pairs(forward.test) == [(0, 2)]
    assert pairs(forward.val) == [(0, 1)]
    reverse = LeaveOneOut(ties="reverse_file_order").split(data)
    assert pairs(reverse.test) == [(0, 1)]
    assert pairs(reverse.val) == [(0, 2)]


def test_ratio_by_hand():
    # Ten, two and one interactions: shares round down, and train keeps one.
    data = toy([0] * 10 + [1] * 2 + [2], [*range(10), 0, 1, 0])
    split = Ratio(val=0.3, test=0.25).split(data)
    assert pairs(split.test) == [(0, 8), (0, 9), (1, 1)]
    assert pairs(split.val) == [(0, 5), (0, 6), (0, 7)]
    assert split.info["users_too_short"] == 1


def test_ratio_at_random_takes_any_place_equally_often():
    data = toy(np.repeat(np.arange(2000), 5), np.tile(np.arange(5), 2000))
    split = Ratio(val=0, test=0.2, by="random").split(data)
    taken = np.bincount(split.test.item)
    assert taken.sum() == 2000
    assert stats.chisquare(taken).pvalue > 1e-3


def test_global_time_by_hand():
    data = toy([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], [1, 2, 3, 3, 4])
    split = GlobalTime(val=0.2, test=0.2).split(data)
    # The cut for validation falls between the equal timestamps: both go to the later.
    assert pairs(split.train) == [(0, 0), (0, 1)]
    assert pairs(split.val) == [(1, 0), (1, 1)]
    assert pairs(split.test) == [(2, 2)]
    assert (split.info["val_from"], split.info["test_from"]) == (3, 4)
    assert split.info["test_users_without_train"] == 1
    assert split.info["test_items_without_train"] == 1


def test_global_time_never_trains_on_the_future():
    split = GlobalTime().split(DATA)
    assert split.train.timestamp.max() < split.val.timestamp.min()
    assert split.val.timestamp.max() < split.test.timestamp.min()


def test_cold_items_are_never_trained_on():
    split = ColdItems(val=0.1, test=0.25).split(DATA)
    occurring = len(np.unique(DATA.item))
    assert len(split.info["test_items"]) == round(occurring * 0.25)
    assert len(split.info["val_items"]) == round(occurring * 0.1)
    for part, held in ((split.test, "test_items"), (split.val, "val_items")):
        assert np.array_equal(np.unique(part.item), split.info[held])
        assert not np.isin(split.train.item, part.item).any()
    assert not np.isin(split.val.item, split.test.item).any()


def test_items_are_held_out_uniformly():
    data = toy(np.arange(40), np.arange(40))
    held = np.zeros(40)
    for seed in range(200):
        split = ColdItems(test=0.2, seed=seed).split(data)
        held[split.info["test_items"]] += 1
    # Without replacement within a draw, so variances are below the multinomial's.
    assert stats.chisquare(held).pvalue > 1e-3


def test_cold_users_are_shown_their_earlier_history_only():
    split = ColdUsers(val=0.1, test=0.2, query=0.7).split(DATA)
    query, test = split.info["query"], split.test
    held = np.concatenate([split.info["test_users"], split.info["val_users"]])
    assert not np.isin(split.train.user, held).any()
    assert np.array_equal(np.unique(query.user), np.sort(held))
    assert np.array_equal(np.unique(test.user), split.info["test_users"])
    for user in split.info["test_users"]:
        shown, hidden = query.user == user, test.user == user
        assert shown.sum() == int((shown.sum() + hidden.sum()) * 0.7 + 1e-9)
        assert query.timestamp[shown].max() <= test.timestamp[hidden].min()


def test_cold_users_by_hand():
    data = toy([0, 0, 1, 1, 2], [0, 1, 0, 1, 0])
    split = ColdUsers(val=0, test=0.5).split(data)
    (held,) = split.info["test_users"].tolist()
    # User 2 is too short to have both a query and a target.
    assert held in (0, 1)
    assert pairs(split.info["query"]) == [(held, 0)]
    assert pairs(split.test) == [(held, 1)]
    assert pairs(split.train) == [(1 - held, 0), (1 - held, 1), (2, 0)]


def test_leave_last_by_hand():
    data = toy([0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 0, 1, 2], [5, 9, 7, 1, 0, 1, 4])
    split = LeaveLast(count=2).split(data)
    assert pairs(split.test) == [(0, 1), (0, 2)]
    assert pairs(split.train) == [(0, 0), (0, 3), (1, 0), (1, 1), (2, 2)]
    assert len(split.val) == 0
    assert split.info["users_too_short"] == 2


@pytest.mark.parametrize("settings", [ColdItems, ColdUsers, Ratio])
def test_draws_follow_the_seed(settings):
    def tested(seed) -> list[tuple[int, int]]:
        options: Any = {"by": "random"} if settings is Ratio else {}
        return pairs(settings(seed=seed, **options).split(DATA).test)

    assert tested(0) == tested(0)
    assert tested(0) != tested(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeaveOneOut(ties="random"), "file_order or reverse_file_order"),  # pyright: ignore
        (lambda: LeaveLast(count=0), "count=0"),
        (lambda: Ratio(val=0.5, test=0.5), "sum below 1"),
        (lambda: Ratio(test=0), "test > 0"),
        (lambda: Ratio(by="user"), "time or random"),  # pyright: ignore
        (lambda: GlobalTime(val=-0.1), "val >= 0"),
        (
            lambda: GlobalTime().split(toy([0, 1], [0, 1], [3, 3])),
            "1 distinct timestamps",
        ),
        (lambda: ColdItems(test=1.2), "test=1.2"),
        (lambda: ColdItems().split(toy([0], [0])), "leaves none"),
        (lambda: ColdUsers().split(toy([0, 1], [0, 0])), "of 0 users"),
        (lambda: ColdUsers(query=1), "query=1"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
