"""The layout of evaluated users, and the draw of their candidates."""

import jax
import numpy as np
import pytest
import scipy.stats

from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import make_targets

SAMPLED = Protocol(candidates="sampled", num_candidates=5)


def pairs(*rows):
    array = np.array(rows, np.int32).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def build(protocol=SAMPLED, num_items=12, **changes):
    parts = {
        "positives": pairs((3, 7), (1, 0), (3, 2), (3, 7)),
        "known": [pairs((3, 1), (0, 4), (1, 11)), pairs((3, 0))],
        "touched": [pairs((3, 5), (0, 9))],
    }
    return make_targets(
        **(parts | changes), num_users=4, num_items=num_items, protocol=protocol
    )


def _candidates(targets):
    assert targets.candidates is not None
    return np.asarray(targets.candidates)


def test_layout_by_hand():
    targets = build(Protocol())
    assert targets.user.tolist() == [1, 3]
    assert targets.positives.tolist() == [[0, 12], [2, 7]]
    assert targets.exclude_items.tolist() == [11, 0, 1, 12]
    assert targets.exclude_offset.tolist() == [0, 1]
    assert targets.exclude_size.tolist() == [1, 2]
    assert targets.max_exclude == 2
    assert targets.candidates is None
    assert targets.mask.tolist() == [True, True]


def test_nobody_knows_anything():
    targets = build(Protocol(), known=[])
    assert targets.exclude_size.tolist() == [0, 0]
    assert targets.max_exclude == 1


def test_candidates_are_distinct_and_untouched():
    targets = build()
    assert targets.candidates is not None
    for row, touched in zip(
        targets.candidates, ({0, 11}, {0, 1, 2, 5, 7}), strict=True
    ):
        assert len(set(row.tolist())) == 5
        assert not set(row.tolist()) & touched
        assert max(row.tolist()) < 12


def test_fewer_untouched_than_asked():
    small = {"num_items": 9, "known": [pairs((3, 1))]}
    targets = build(**small, touched=[pairs((3, 5))])
    assert targets.candidates is not None
    # User 3 has 1, 2, 5, 7 of 9: five remain; with three more, two remain.
    assert sorted(targets.candidates[1].tolist()) == [0, 3, 4, 6, 8]
    few = build(**small, touched=[pairs((3, 5), (3, 0), (3, 8), (3, 4))])
    assert few.candidates is not None
    assert sorted(few.candidates[1].tolist()) == [3, 6, 9, 9, 9]


def test_draw_is_uniform_over_subsets():
    # 4000 users who all leave 0, 2, 3, 6 and 7 untouched: 10 pairs, equally likely.
    users = np.arange(4000)
    touched = np.repeat(users, 3), np.tile([1, 4, 5], len(users))
    targets = make_targets(
        positives=(users, np.full(len(users), 4)),
        known=[],
        touched=[touched],
        num_users=len(users),
        num_items=8,
        protocol=Protocol(candidates="sampled", num_candidates=2),
    )
    drawn = np.sort(np.asarray(targets.candidates), axis=1)
    subsets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(subsets) == 10
    assert set(subsets.ravel().tolist()) == {0, 2, 3, 6, 7}
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_candidates_depend_on_seed_key_and_user_only():
    base = build(num_items=400)
    assert base.candidates is not None
    alone = build(num_items=400, positives=pairs((3, 7), (3, 2)))
    assert alone.candidates is not None
    np.testing.assert_array_equal(alone.candidates[0], base.candidates[1])
    again = build(num_items=400)
    np.testing.assert_array_equal(again.candidates, base.candidates)
    seeded = Protocol(candidates="sampled", num_candidates=5, candidate_seed=1)
    assert not np.array_equal(_candidates(build(seeded, 400)), base.candidates)
    keyed = make_targets(
        positives=pairs((1, 0)),
        known=[],
        num_users=4,
        num_items=400,
        protocol=SAMPLED,
        key=jax.random.key(7),
    )
    assert not np.array_equal(_candidates(keyed)[0], base.candidates[0])


def test_candidates_are_the_same_with_64_bit_numbers():
    options = Protocol(candidates="sampled", num_candidates=5)
    narrow = _candidates(build(options, 400))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(_candidates(build(options, 400)), narrow)
    assert narrow[0].tolist() == [20, 126, 236, 108, 376]


def test_is_a_tree_whose_structure_survives():
    targets = build()
    back = jax.jit(lambda tree: tree)(targets)
    assert (back.max_exclude, back.num_items) == (2, 12)
    assert back.user.tolist() == [1, 3]
    assert back.positives.tolist() == [[0, 12], [2, 7]]
    assert back.exclude_items.tolist() == [11, 0, 1, 12]
    assert back.exclude_offset.tolist() == [0, 1]
    assert back.exclude_size.tolist() == [1, 2]
    np.testing.assert_array_equal(back.candidates, _candidates(targets))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positives": pairs()}, "holds no interactions to evaluate"),
        ({"positives": pairs((3, 1))}, "item 1 of user 3"),
        ({"positives": pairs((4, 1))}, r"positives: user ids .* expected \[0, 4\)"),
        ({"known": [pairs((0, 12))]}, r"known: item ids .* expected \[0, 12\)"),
        ({"touched": [pairs((0, -1))]}, r"touched: item ids lie in \[-1"),
    ],
)
def test_teaching_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_the_halves_of_a_draw_are_disjoint_and_alike():
    users, items = 400, 60
    held = (np.arange(users), np.zeros(users, int))
    options = {
        "positives": held,
        "known": [],
        "touched": [held],
        "num_users": users,
        "num_items": items,
        "protocol": Protocol(candidates="sampled", num_candidates=15),
    }
    halves = [np.asarray(make_targets(**options, half=h).candidates) for h in (0, 1)]
    every = np.concatenate(halves, axis=1)
    assert all(len(set(row)) == 30 and 0 not in row for row in every.tolist())
    for half in halves:
        # Of 59 items 15 are drawn: an item's count has a variance of 400 p (1 - p).
        counts, share = np.bincount(half.ravel(), minlength=items)[1:], 15 / 59
        variance = users * share * (1 - share)
        assert ((counts - users * share) ** 2).mean() < 1.6 * variance
    # With fewer untouched items, both halves get a part of all of them.
    few = Protocol(candidates="sampled", num_candidates=40)
    halves = [
        np.asarray(make_targets(**{**options, "protocol": few}, half=h).candidates)
        for h in (0, 1)
    ]
    every = np.sort(np.concatenate(halves, axis=1), axis=1)
    assert (every[:, :59] == np.arange(1, 60)).all()
    assert (every[:, 59:] == items).all()
