import jax
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.splits import (
    cold_items,
    cold_users,
    global_time,
    leave_one_out,
    ratio,
)
from fedjax_rec.data.synthetic import synthetic

KEY = jax.random.key(0)
DATA = synthetic(1, num_users=60, num_items=80, num_interactions=1200)
SPLITS = {
    "leave_one_out": lambda data: leave_one_out(data),
    "leave_one_out_reversed": lambda data: leave_one_out(
        data, ties="reverse_file_order"
    ),
    "ratio": lambda data: ratio(data, val=0.2, test=0.3),
    "ratio_random": lambda data: ratio(data, by="random", key=KEY),
    "global_time": lambda data: global_time(data),
    "cold_items": lambda data: cold_items(data, key=KEY),
    "cold_users": lambda data: cold_users(data, fraction=0.2, key=KEY),
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
    split = SPLITS[name](DATA)
    parts = [split.train, split.val, split.test]
    if "query" in split.info:
        parts.append(split.info["query"])
    assert pairs(*parts) == pairs(DATA)
    assert all(len(part) for part in parts)


@pytest.mark.parametrize("name", SPLITS)
def test_parts_stay_sorted_and_keep_the_entities(name):
    split = SPLITS[name](DATA)
    for part in (split.train, split.val, split.test):
        order = np.lexsort((part.position, part.timestamp, part.user))
        assert (order == np.arange(len(part))).all()
        assert part.users is DATA.users
        assert part.items is DATA.items


@pytest.mark.parametrize("name", SPLITS)
def test_counts_are_plain_numbers(name):
    counts = SPLITS[name](DATA).counts()
    assert all(type(value) in (int, float) for value in counts.values())
    assert counts["test"] == len(SPLITS[name](DATA).test)


@pytest.mark.parametrize("name", ["leave_one_out", "leave_one_out_reversed", "ratio"])
def test_within_a_user_the_past_trains(name):
    tied = toy(
        np.repeat(np.arange(30), 20),
        np.tile(np.arange(20), 30),
        np.random.default_rng(0).integers(0, 8, 600),
    )
    split = SPLITS[name](tied)
    for earlier, later in ((split.train, split.val), (split.val, split.test)):
        last, first = np.full(30, -1), np.full(30, 99)
        np.maximum.at(last, earlier.user, earlier.timestamp)
        np.minimum.at(first, later.user, later.timestamp)
        assert (last <= first).all()


def test_leave_one_out_by_hand():
    data = toy([0, 0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 0, 1, 2], [5, 9, 7, 1, 0, 1, 4])
    split = leave_one_out(data)
    assert pairs(split.test) == [(0, 1)]
    assert pairs(split.val) == [(0, 2)]
    assert pairs(split.train) == [(0, 0), (0, 3), (1, 0), (1, 1), (2, 2)]
    assert split.info["users_too_short"] == 2


def test_ties_of_leave_one_out():
    # Lines 1 and 2 of the file are tied for the latest.
    data = toy([0, 0, 0, 0], [0, 1, 2, 3], [1, 9, 9, 2])
    assert pairs(leave_one_out(data).test) == [(0, 2)]
    assert pairs(leave_one_out(data).val) == [(0, 1)]
    reverse = leave_one_out(data, ties="reverse_file_order")
    assert pairs(reverse.test) == [(0, 1)]
    assert pairs(reverse.val) == [(0, 2)]


def test_ratio_by_hand():
    # Ten, two and one interactions: shares round down, and train keeps one.
    data = toy([0] * 10 + [1] * 2 + [2], [*range(10), 0, 1, 0])
    split = ratio(data, val=0.3, test=0.25)
    assert pairs(split.test) == [(0, 8), (0, 9), (1, 1)]
    assert pairs(split.val) == [(0, 5), (0, 6), (0, 7)]
    assert split.info["users_too_short"] == 1


def test_ratio_at_random_takes_any_place_equally_often():
    data = toy(np.repeat(np.arange(2000), 5), np.tile(np.arange(5), 2000))
    split = ratio(data, val=0, test=0.2, by="random", key=KEY)
    taken = np.bincount(split.test.item)
    assert taken.sum() == 2000
    assert stats.chisquare(taken).pvalue > 1e-3


def test_global_time_by_hand():
    data = toy([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], [1, 2, 3, 3, 4])
    split = global_time(data, val=0.2, test=0.2)
    # The cut for validation falls between the equal timestamps: both go to the later.
    assert pairs(split.train) == [(0, 0), (0, 1)]
    assert pairs(split.val) == [(1, 0), (1, 1)]
    assert pairs(split.test) == [(2, 2)]
    assert (split.info["val_from"], split.info["test_from"]) == (3, 4)
    assert split.info["test_users_without_train"] == 1
    assert split.info["test_items_without_train"] == 1


def test_global_time_never_trains_on_the_future():
    split = global_time(DATA)
    assert split.train.timestamp.max() < split.val.timestamp.min()
    assert split.val.timestamp.max() < split.test.timestamp.min()


def test_cold_items_are_never_trained_on():
    split = cold_items(DATA, fraction=0.25, val_fraction=0.1, key=KEY)
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
    for key in jax.random.split(KEY, 200):
        held[cold_items(data, key=key).info["test_items"]] += 1
    # Without replacement within a draw, so variances are below the multinomial's.
    assert stats.chisquare(held).pvalue > 1e-3


def test_cold_users_are_shown_their_earlier_history_only():
    split = cold_users(DATA, fraction=0.2, val_fraction=0.1, query=0.7, key=KEY)
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
    split = cold_users(data, fraction=0.5, val_fraction=0, key=KEY)
    (held,) = split.info["test_users"].tolist()
    # User 2 is too short to have both a query and a target.
    assert held in (0, 1)
    assert pairs(split.info["query"]) == [(held, 0)]
    assert pairs(split.test) == [(held, 1)]
    assert pairs(split.train) == [(1 - held, 0), (1 - held, 1), (2, 0)]


@pytest.mark.parametrize("split", [cold_items, cold_users])
def test_draws_follow_the_key(split):
    def tested(key) -> list[tuple[int, int]]:
        return pairs(split(DATA, key=key).test)

    assert tested(KEY) == tested(KEY)
    assert tested(KEY) != tested(jax.random.key(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: leave_one_out(DATA, ties="random"),  # pyright: ignore
            "'reverse_file_order'",
        ),
        (lambda: ratio(DATA, val=0.5, test=0.5), "sum below 1"),
        (lambda: ratio(DATA, test=0), "test > 0"),
        (lambda: ratio(DATA, by="random"), r"jax\.random\.key"),
        (
            lambda: ratio(DATA, by="user"),  # pyright: ignore
            "'time' or 'random'",
        ),
        (lambda: global_time(toy([0, 1], [0, 1], [3, 3])), "1 distinct timestamps"),
        (lambda: cold_items(DATA, fraction=1.2, key=KEY), "fraction=1.2"),
        (lambda: cold_items(toy([0], [0]), key=KEY), "leaves none"),
        (lambda: cold_users(toy([0, 1], [0, 0]), key=KEY), "of 0 users"),
        (lambda: cold_users(DATA, query=1, key=KEY), "query=1"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
