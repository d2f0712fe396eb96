"""Bytes and seconds, against sums done by hand."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import DGC, Float32
from fedjax_rec.aggregators import means
from fedjax_rec.core.contracts import Local, Recipe
from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.data.negatives import draw_negatives
from fedjax_rec.data.partition import Partition
from fedjax_rec.fleet import sampling
from fedjax_rec.fleet.cost_class import (
    CostClasses,
    Holdings,
    assign_cost_classes,
    count_holdings,
    make_cost_classes,
    message_bytes,
    touched_rows,
)
from fedjax_rec.fleet.costs import (
    make_fleet,
    round_costs,
    with_costs,
)
from fedjax_rec.fleet.devices import DeviceClass, FleetConfig
from fedjax_rec.fleet.totals import summarise_costs
from fedjax_rec.models.by_id import matrix_factorization, neural_cf

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
    expected = touched_rows(ONE, Local(negatives=negatives), items)["item"][0]
    assert expected == pytest.approx(3 + 9 * (1 - (7 / 9) ** 3))
    error = np.std(different) / 4000**0.5
    assert abs(m + np.mean(different) - expected) < 4 * error
    # More negatives than items: all of them.
    assert touched_rows(ONE, Local(negatives=99), items)["item"][0] == 12
    assert touched_rows(ONE, Local(negatives=5), 3)["item"][0] == 3  # no others at all


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


def recipe(model, **fields):
    """A recipe of which costs read the model and the fields given."""
    unused: Any = None
    return Recipe(model, unused, means.total(), unused, {}, **fields)


def test_a_client_by_hand():
    model = matrix_factorization(10, 4)
    local = Local(epochs=2, optimizer_states=1, negatives=1, weight_bytes=500)
    client = make_cost_classes(recipe(model, local=local), ONE, 10)
    touched = 3 + 7 * (1 - (6 / 7) ** 3)
    assert client.down[0] == client.up[0] == pytest.approx(20 * touched)
    assert client.pairs.tolist() == [12]  # 3 examples, 2 pairs each, 2 epochs
    # Received, the user's 4 numbers, and a copy, a gradient and a momentum of each.
    assert client.memory[0] == pytest.approx(500 + (20 * touched + 16) * 4)
    local = Local(negatives=1)
    fixed_model = model._replace(fixed=("item",))
    fixed = make_cost_classes(recipe(fixed_model, local=local), ONE, 10)
    assert fixed.up.tolist() == [0]
    assert fixed.down[0] == pytest.approx(20 * touched)
    empty = Holdings(np.array([0]), np.array([0]), np.array([0]))
    idle = make_cost_classes(recipe(neural_cf(10, 4), local=local), empty, 10)
    assert (idle.down[0], idle.up[0], idle.pairs[0]) == (0, 0, 0)


def test_clients_that_send_every_row_are_priced_so():
    """As in FCF, where a message does not reveal which items a client holds."""
    model, local = matrix_factorization(10, 4), Local(every_row=True)
    client = make_cost_classes(recipe(model, local=local), ONE, 10)
    assert client.up[0] == client.down[0] == 10 * 20
    codec = Float32().plain()
    coded = recipe(model, local=local, transform=codec)
    # Ids of all ten rows: header 14, and 10 in a bitmap.
    assert make_cost_classes(coded, ONE, 10).up[0] == 10 * 16 + (8 + 2 * 3 + 10) / 8


def test_messages_of_dgc_are_priced_by_their_number():
    """Ever fewer numbers are sent, down to the last fraction, which holds."""
    model, local = matrix_factorization(40, 8), Local(every_row=True)
    codec = DGC(fractions=(0.25, 0.05, 0.01)).build(cast(Any, None))
    client = make_cost_classes(recipe(model, local=local, transform=codec), ONE, 40)
    assert client.up.shape == (3, 1)
    # 80, 16 and 4 of 320 numbers (one in a hundred, rounded up), and their ids.
    assert (client.up[:, 0] > [320, 64, 16]).all()
    assert (client.up[:, 0] < [420, 100, 40]).all()
    # The clock of three rounds of all clients, and of half of them.
    fleet = slow_fleet([0, 0], np.zeros(1), client.up, np.zeros(1))
    for size, numbers in ((2, [0, 1, 2, 2]), (1, [0, 0, 1, 1])):
        drawn = sampling.Participation(
            ids=jnp.arange(size), invited=jnp.arange(size), metrics={}
        )
        for number, message in enumerate(numbers):
            bytes_ = float(round_costs(fleet, drawn, number)["up_bytes"])
            assert bytes_ == pytest.approx(size * client.up[message, 0])


def slow_fleet(cost_class, down, up, pairs, pair_flops=0.0):
    """Costs of clients on one slow device class."""
    classes = CostClasses(*(np.array(x, float) for x in (down, up, pairs, pairs)))
    cost_class, config = np.array(cost_class, np.int32), FleetConfig(devices=(SLOW,))
    fleet = make_fleet(config, cost_class, classes, cost_class, pair_flops)
    return jax.tree.map(jnp.asarray, fleet.costs)


def test_a_round_by_hand():
    # A megabyte takes 1 s down and 10 s up; a pair 0.1 s, and 2 with the backbone's.
    amounts = [0, 1, 1], [1e6, 2e6], [5e5, 1e6], [20, 10]
    fleet = slow_fleet(*amounts)
    drawn = sampling.Participation(
        ids=jnp.array([0, 3]), invited=jnp.array([0, 2]), metrics={}
    )
    metrics = jax.tree.map(float, round_costs(fleet, drawn))
    # Client 2 dropped out: it received and did not send, and the round did not wait.
    assert metrics == pytest.approx(
        {
            "invited": 2,
            "arrived": 1,
            "down_bytes": 3e6,
            "up_bytes": 5e5,
            "simulated_seconds": 1 + 20 * 0.1 + 5,
        }
    )
    complete = with_costs(sampling.everyone(3), fleet)(jax.random.key(0), 0).metrics
    assert float(complete["simulated_seconds"]) == pytest.approx(2 + 1 + 10)
    assert float(complete["down_bytes"]) == 5e6
    empty = sampling.Participation(
        ids=jnp.array([3]), invited=jnp.array([3]), metrics={}
    )
    assert set(jax.tree.map(float, round_costs(fleet, empty)).values()) == {0.0}
    slower = slow_fleet(*amounts, pair_flops=1.9e6)
    assert float(slower.of(jnp.array([0]))[2][0]) == pytest.approx(1 + 20 * 2 + 5)


def test_holdings_by_hand():
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
    holdings = count_holdings(train, mixed)
    assert holdings.examples.tolist() == [2, 3, 0]
    assert holdings.items.tolist() == [2, 2, 0]  # client 1 has item 1 of two users
    assert holdings.users.tolist() == [2, 2, 0]
    cost_class, by_class = assign_cost_classes(holdings)
    assert [tuple(x[cost_class].tolist()) for x in by_class] == [
        (2, 3, 0),
        (2, 2, 0),
        (2, 2, 0),
    ]
    same = Holdings(*(np.array([4, 2, 4]),) * 3)  # equal holdings share a class
    assert assign_cost_classes(same)[0].tolist() == [1, 0, 1]


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
