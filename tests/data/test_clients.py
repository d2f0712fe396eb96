"""Client arrays by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.negatives import draw_negatives
from fedjax_rec.data.partition import Partition, PerUser


def data(user, item, num_users=3, num_items=8):
    return make_interactions(
        user=np.array(user),
        item=np.array(item),
        users=Entities(ids=[str(u) for u in range(num_users)]),
        items=Entities(ids=[str(i) for i in range(num_items)]),
    )


TRAIN = data([0, 0, 0, 2, 2], [5, 1, 3, 0, 5])


def test_examples_of_single_users():
    clients = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=1)
    assert clients.widths == (3,)
    assert clients.buckets.tolist() == [0, 1, 0]  # user 1 has nothing
    got = clients.examples(jnp.int32(2), 0)
    assert got["item"].tolist() == [0, 5, 8]  # in time (file) order, then padding
    assert got["mask"].tolist() == [True, True, False]
    assert got["exclude"].tolist() == [0, 5, 8]
    assert int(got["exclude_size"]) == 2
    first = clients.examples(jnp.int32(0), 0)
    assert first["item"].tolist() == [5, 1, 3]
    assert first["exclude"].tolist() == [1, 3, 5]
    absent = clients.examples(jnp.int32(3), 0)
    assert not absent["mask"].any()
    assert absent["item"].tolist() == [8, 8, 8]


def test_held_out_items_are_excluded_only_where_asked():
    test = data([0, 1, 2], [7, 7, 2])
    leaky = make_client_data(
        TRAIN, PerUser().partition(TRAIN), also_excluded=(test,), max_buckets=1
    )
    assert leaky.examples(jnp.int32(0), 0)["exclude"].tolist() == [1, 3, 5, 7]
    clean = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=1)
    assert 7 not in clean.examples(jnp.int32(0), 0)["exclude"].tolist()


def test_several_users_on_a_client_draw_outside_their_own_items():
    # User 0's items are split over both clients; user 2 is on client 0 alone.
    part = Partition(
        client=np.array([0, 1, 0, 0, 0], np.int32),
        num_clients=2,
        name="by hand",
        user_of_client=None,
    )
    clients = make_client_data(TRAIN, part, max_buckets=1)
    examples = clients.examples(jnp.int32(0), 0)
    assert examples["user"].tolist() == [0, 0, 2, 2]
    assert examples["item"].tolist() == [5, 3, 0, 5]
    draws = [draw_negatives(jax.random.key(s), examples, 8, 3)[0] for s in range(60)]
    seen = np.concatenate(draws, axis=1)
    # The client knows only its own part of user 0: {3, 5}, not 1.
    assert set(seen[0].tolist()) == set(seen[1].tolist()) == {0, 1, 2, 4, 6, 7}
    assert set(seen[2].tolist()) == {1, 2, 3, 4, 6, 7}
    with pytest.raises(ValueError, match="one client per user"):
        make_client_data(TRAIN, part, also_excluded=(TRAIN,))


def test_repeated_pairs_are_refused():
    twice = dataclasses.replace(TRAIN, item=np.array([2, 2, 5, 0, 5], np.int32))
    with pytest.raises(ValueError, match=r"1 interactions repeat .* item 2 of user 0"):
        make_client_data(twice, PerUser().partition(twice))
    held = data([0], [5])
    with pytest.raises(ValueError, match="item 5 of user 0"):
        make_client_data(TRAIN, PerUser().partition(TRAIN), also_excluded=(held,))
