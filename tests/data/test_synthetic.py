import time
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.data.interactions import Interactions, make_interactions
from fedjax_rec.data.splits import LeaveOneOut
from fedjax_rec.data.synthetic import LIMITS, synthetic
from fedjax_rec.data.synthetic.entities import make_makers, vocabularies
from fedjax_rec.data.synthetic.histories import activity, choose_items

COLUMNS = ("user", "item", "rating", "timestamp", "position")


@pytest.fixture(scope="module")
def data() -> Interactions:
    return synthetic(0, num_users=1000, num_items=1500, num_interactions=40_000)


def small(key, **options) -> Interactions:
    sizes = {"num_users": 50, "num_items": 60, "num_interactions": 600}
    return synthetic(key, **(sizes | options))


def test_the_key_decides_everything():
    one, same, other = small(7), small(jax.random.key(7)), small(8)
    for column in COLUMNS:
        assert np.array_equal(getattr(one, column), getattr(same, column))
    assert one.items == same.items
    assert one.users == same.users
    assert not np.array_equal(one.item, other.item)
    assert one.items.titles != other.items.titles


def test_more_users_leave_the_items_as_they_are():
    assert small(0).items == small(0, num_users=90, num_interactions=900).items


@pytest.mark.parametrize(
    ("users", "items", "interactions", "tastes"),
    [(1, 1, 1, 1), (3, 4, 12, 2), (100, 10, 1, 3), (50, 40, 1990, 8), (9, 300, 99, 40)],
)
def test_any_size_is_met_exactly(users, items, interactions, tastes):
    made = synthetic(
        3,
        num_users=users,
        num_items=items,
        num_interactions=interactions,
        num_tastes=tastes,
    )
    assert (made.num_users, made.num_items, len(made)) == (users, items, interactions)
    assert len(np.unique(made.user.astype(int) * items + made.item)) == interactions


def test_the_form_is_canonical(data):
    again = make_interactions(
        user=data.user,
        item=data.item,
        rating=data.rating,
        timestamp=data.timestamp,
        users=data.users,
        items=data.items,
    )
    for column in COLUMNS:
        assert np.array_equal(getattr(again, column), getattr(data, column))
        assert getattr(again, column).dtype == getattr(data, column).dtype


def test_time_increases_strictly_within_users(data):
    within = data.user[1:] == data.user[:-1]
    assert (np.diff(data.timestamp)[within] > 0).all()


def test_activity_and_popularity_have_power_law_tails():
    # Sparse, since in dense data the most popular items run out of users.
    sparse = synthetic(0, num_users=4000, num_items=20_000, num_interactions=60_000)
    rank = np.log(np.arange(6, 201))
    for column, exponent in ((sparse.user, 0.5), (sparse.item, 0.8)):
        counts = np.log(np.sort(np.bincount(column))[::-1][5:200])
        slope, _ = np.polyfit(rank, counts, 1)
        assert slope == pytest.approx(-exponent, abs=0.12)
        assert np.corrcoef(rank, counts)[0, 1] < -0.98


def test_ratings_are_of_five_and_follow_taste(data):
    assert set(np.unique(data.rating)) == {1, 2, 3, 4, 5}
    genre = np.unique(data.items.attributes["genre"], return_inverse=True)[1][data.item]
    favourite = np.zeros((data.num_users, genre.max() + 1))
    np.add.at(favourite, (data.user, genre), 1)
    loved = genre == favourite.argmax(1)[data.user]
    assert data.rating[loved].mean() > data.rating[~loved].mean() + 0.3


def test_titles_are_unique_and_tell_the_taste(data):
    titles = data.items.titles
    assert titles is not None
    assert len(set(titles)) == len(titles)
    owner = {
        word: vocabulary.name
        for vocabulary in vocabularies(8)
        for word in vocabulary.nouns + vocabulary.places
    }
    right = [
        genre.split("|")[0] in {owner.get(word) for word in title.split()}
        for title, genre in zip(titles, data.items.attributes["genre"], strict=True)
    ]
    assert all(right)


def test_vocabularies_share_no_word():
    words = [w for v in vocabularies(80) for w in (*v.nouns, *v.adjectives, *v.places)]
    assert len(set(words)) == len(words)
    assert len({v.name for v in vocabularies(300)}) == 300
    assert len(set(make_makers(1000))) == 1000


def test_regions_lean_on_taste(data):
    labels = np.unique(data.items.attributes["genre"], return_inverse=True)[1]
    region = np.unique(data.users.attributes["region"], return_inverse=True)[1]
    table = np.zeros((region.max() + 1, labels.max() + 1))
    np.add.at(table, (region[data.user], labels[data.item]), 1)
    test: Any = stats.chi2_contingency(table[:, table.sum(0) > 50])
    assert test.pvalue < 1e-6


def test_tastes_can_be_learned_and_popularity_cannot_do_it(data):
    """HR@10 of full ranking: random .007, popularity about .06, neighbours .16."""
    split = LeaveOneOut().split(data)
    held = np.zeros((data.num_users, data.num_items), np.float32)
    held[split.train.user, split.train.item] = 1
    popularity = held.sum(0)
    cosine = held.T @ held / np.sqrt(np.outer(popularity, popularity) + 1e-9)
    np.fill_diagonal(cosine, 0)

    def hit_ratio(scores: np.ndarray) -> float:
        scores = np.where(held > 0, -np.inf, scores)
        scores[split.val.user, split.val.item] = -np.inf
        target = scores[split.test.user, split.test.item][:, None]
        return float(np.mean((scores[split.test.user] >= target).sum(1) <= 10))

    by_popularity = hit_ratio(np.broadcast_to(popularity, held.shape))
    assert by_popularity > 4 * 10 / data.num_items
    assert hit_ratio(held @ cosine) > 2 * by_popularity


def test_activity_sums_and_stays_in_bounds():
    size = activity(np.random.default_rng(0), 50, 900, 20, 0.5)
    assert size.sum() == 900
    assert size.min() >= 5
    assert size.max() <= 20


def test_new_items_are_uniform_once_proposals_fail():
    # Everybody only ever proposes item 2: the rest is uniform over the nine others.
    user = np.repeat(np.arange(3000), 3)
    rng = np.random.default_rng(0)
    item, uniform = choose_items(rng, user, 10, lambda slots: np.full(len(slots), 2))
    assert uniform == 6000
    counts = np.bincount(item, minlength=10)
    assert counts[2] == 3000
    assert stats.chisquare(np.delete(counts, 2)).pvalue > 1e-3


def test_limits_are_sentences():
    assert len(LIMITS) > 5
    assert all(limit.endswith(".") for limit in LIMITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_users": 0}, "num_users=0"),
        ({"num_interactions": 3001}, "at most 3000, the number of distinct pairs"),
        ({"num_tastes": 61}, "at most 60, the number of items"),
        ({"concentration": 0}, "concentration=0"),
        ({"item_exponent": -1}, "item_exponent=-1"),
        ({"explore": 1.5}, "explore=1.5"),
    ],
)
def test_errors_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        small(0, **options)


@pytest.mark.slow
def test_three_million_interactions_take_seconds():
    start = time.perf_counter()
    made = synthetic(
        0, num_users=100_000, num_items=100_000, num_interactions=3_000_000
    )
    assert time.perf_counter() - start < 10
    assert len(made) == 3_000_000
