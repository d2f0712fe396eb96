"""Bytes and seconds, against sums done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.data.negatives import draw_negatives
from fedjax_rec.data.partition import Partition
from fedjax_rec.fleet import sampling
from fedjax_rec.fleet.costs import (
    Holdings,
    Profiles,
    costs,
    group_profiles,
    hold,
    make_fleet,
    make_profiles,
    message_bytes,
    summarise_costs,
    touched_items,
    with_costs,
)
from fedjax_rec.fleet.devices import DeviceClass
from fedjax_rec.models.factorization import matrix_factorization
from fedjax_rec.models.neural_cf import neural_cf

SLOW = DeviceClass(
    name="slow",
    share=1.0,
    pairs_per_second=10,
    gflops=0.001,
    download_mbps=8,
    upload_mbps=0.8,
    memory_mb=1,
)
ONE = Holdings(np.array([3]), np.array([3]), np.array([1]))


def test_touched_rows_are_what_clients_touch_on_average():
    m, items, negatives = 3, 12, 2
    examples = {
        "item": jnp.array([1, 4, 9]),
        "user": jnp.zeros(m, jnp.int32),
        "mask": jnp.ones(m, bool),
        "exclude": jnp.array([1, 4, 9]),
        "exclude_start": jnp.int32(0),
        "exclude_size": jnp.int32(m),
    }
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn, _ = jax.vmap(lambda k: draw_negatives(k, examples, items, negatives))(keys)
    different = [len(np.unique(row)) for row in np.asarray(drawn).reshape(4000, -1)]
    expected = touched_items(ONE, negatives, items)[0]
    assert expected == pytest.approx(3 + 9 * (1 - (7 / 9) ** 3))
    error = np.std(different) / 4000**0.5
    assert abs(m + np.mean(different) - expected) < 4 * error
    # More negatives than items: all of them.
    assert touched_items(ONE, 99, items)[0] == 12
    assert touched_items(ONE, 5, 3)[0] == 3  # no others at all


def test_dense_leaves_go_whole_and_tables_by_the_row():
    rows = {"item": np.array([3.0, 0.0, 99.0])}
    # 4 float32 and a 4-byte id a row; no more rows than there are.
    groups = message_bytes(matrix_factorization(10, 4), rows)
    assert {k: v.tolist() for k, v in groups.items()} == {"item": [60, 0, 200]}
    model = neural_cf(10, 4, (3,))
    shared = jax.eval_shape(model.init, jax.random.key(0)).shared
    dense = sum(
        4 * x.size
        for name, part in shared.items()
        if name != "item"
        for x in jax.tree.leaves(part)
    )
    groups = message_bytes(model, rows)
    assert groups["item"].tolist() == [60, 0, 200]
    assert sum(v[0] for k, v in groups.items() if k != "item") == dense > 0


def test_a_client_by_hand():
    model = matrix_factorization(10, 4)
    found = make_profiles(
        model, ONE, negatives=1, room=10, epochs=2, optimizer_states=1, frozen_bytes=500
    )
    touched = 3 + 7 * (1 - (6 / 7) ** 3)
    assert found.down[0] == found.up[0] == pytest.approx(20 * touched)
    assert found.pairs.tolist() == [12]  # 3 examples, 2 pairs each, 2 epochs
    # Received, the user's 4 numbers, and a copy, a gradient and a momentum of each.
    assert found.memory[0] == pytest.approx(500 + (20 * touched + 16) * 4)
    fixed = make_profiles(model, ONE, fixed=("item",), negatives=1, room=10)
    assert fixed.up.tolist() == [0]
    assert fixed.down[0] == pytest.approx(20 * touched)
    nothing = Holdings(np.array([0]), np.array([0]), np.array([0]))
    idle = make_profiles(neural_cf(10, 4), nothing, negatives=1, room=10)
    assert (idle.down[0], idle.up[0], idle.pairs[0]) == (0, 0, 0)


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def profiles(down, up, pairs):
    return Profiles(*(np.array(x, float) for x in (down, up, pairs, pairs)))


def test_a_round_by_hand():
    # A megabyte takes 1 s down and 10 s up; a pair 0.1 s, and 2 with the backbone's.
    given = profiles([1e6, 2e6], [5e5, 1e6], [20, 10])
    fleet = on_device(make_fleet(np.array([0, 1, 1], np.int32), given, (SLOW,)))
    drawn = sampling.Participation(
        ids=jnp.array([0, 3]), invited=jnp.array([0, 2]), told={}
    )
    told = jax.tree.map(float, costs(fleet, drawn))
    # Client 2 dropped out: it received and did not send, and nobody waited for it.
    assert told == pytest.approx(
        {
            "invited": 2,
            "arrived": 1,
            "down_bytes": 3e6,
            "up_bytes": 5e5,
            "simulated_seconds": 1 + 20 * 0.1 + 5,
        }
    )
    everybody = with_costs(sampling.everyone(3), fleet)(jax.random.key(0), 0).told
    assert float(everybody["simulated_seconds"]) == pytest.approx(2 + 1 + 10)
    assert float(everybody["down_bytes"]) == 5e6
    nobody = sampling.Participation(ids=jnp.array([3]), invited=jnp.array([3]), told={})
    assert set(jax.tree.map(float, costs(fleet, nobody)).values()) == {0.0}
    slower = on_device(make_fleet(fleet.profile, given, (SLOW,), pair_flops=1.9e6))
    assert float(slower.of(jnp.array([0]))[2][0]) == pytest.approx(1 + 20 * 2 + 5)


def test_what_clients_hold():
    user, item = np.array([0, 0, 2, 2, 2]), np.array([1, 3, 0, 1, 2])
    train = Interactions(
        user=user,
        item=item,
        rating=np.ones(5, np.float32),
        timestamp=np.arange(5),
        position=np.arange(5),
        users=Entities(ids=["a", "b", "c"]),
        items=Entities(ids=["p", "q", "r", "s"]),
    )
    mixed = Partition(
        client=np.array([1, 0, 1, 1, 0]),
        num_clients=3,
        name="mixed",
        user_of_client=None,
    )
    found = hold(train, mixed)
    assert found.examples.tolist() == [2, 3, 0]
    assert found.items.tolist() == [2, 2, 0]  # client 1 has item 1 of two users
    assert found.users.tolist() == [2, 2, 0]
    profile, unique = group_profiles(found)
    assert [tuple(x[profile].tolist()) for x in unique] == [
        (2, 3, 0),
        (2, 2, 0),
        (2, 2, 0),
    ]
    same = Holdings(*(np.array([4, 2, 4]),) * 3)  # who holds as much is one profile
    assert group_profiles(same)[0].tolist() == [1, 0, 1]


def test_a_run_by_hand():
    history = [
        {
            "event": "round",
            "invited": 4.0,
            "arrived": 2.0,
            "down_bytes": 400.0,
            "up_bytes": 100.0,
            "simulated_seconds": 3.0,
        },
        {"event": "evaluation"},
        {
            "event": "round",
            "invited": 4.0,
            "arrived": 0.0,
            "down_bytes": 400.0,
            "up_bytes": 0.0,
            "simulated_seconds": 0.0,
        },
    ]
    assert summarise_costs(history) == {
        "rounds": 2,
        "down_bytes": 800,
        "up_bytes": 100,
        "simulated_seconds": 3,
        "invited_per_round": 4,
        "arrived_per_round": 1,
        "down_bytes_per_client": 100,
        "up_bytes_per_client": 50,
        "seconds_per_round": 1.5,
    }
    assert summarise_costs([{"event": "evaluation"}]) == {}
