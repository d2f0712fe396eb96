"""Attacks by hand."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.attacks.false_deltas import Boost, Noise, SignFlip
from fedjax_rec.core import messages, rows
from fedjax_rec.core.attackers import attackers
from fedjax_rec.core.contracts import Params, Recipe
from fedjax_rec.core.keys import Purpose
from tests.aggregators.cohorts import context

KEY = jax.random.key(3)
SHARE = 2 / 3
MEMBERS = np.asarray(attackers(3, SHARE))
BAD, GOOD, ABSENT = int(np.flatnonzero(MEMBERS)[0]), int(MEMBERS.argmin()), -1
PERSONAL = {"bias": jnp.zeros(()), "w": jnp.array([0.0, 3.0])}


def delta_of(ids=(4, 6, 0, 6), values=((3, 4), (9, 9), (0, 2), (7, 7))):
    """Rows 4 and 0 of six items, with padding between and numbers in it."""
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids, jnp.int32),
            values=jnp.asarray(values, jnp.float32),
            num_rows=6,
            ordered=True,
        ),
        "bias": jnp.array([1.0, -2.0]),
    }


def recipe_of(shared=None, personal=None, transform=None) -> Recipe:
    table = {"item": rows.Table(values=jnp.zeros((6, 2)))} if shared is None else shared
    params = Params(shared=table, personal=PERSONAL if personal is None else personal)
    model: Any = SimpleNamespace(init=lambda key: params)
    parts: Any = (model, None, None, None, {})
    return Recipe(*parts, transform=transform, notes={"seen": 1})


def attacked(attack, items=(0,), **parts) -> Recipe:
    """The recipe under an attack, with one training interaction on each of `items`."""
    split = SimpleNamespace(train=SimpleNamespace(item=np.asarray(items)))
    return attack.build(context(num_clients=3, recipe=recipe_of(**parts), split=split))


def sender_of(client, personal=None):
    personal = PERSONAL if personal is None else personal
    ids, weight = jnp.int32(client), jnp.float32(1)
    return messages.Sender(
        id=ids, key=KEY, round_key=KEY, weight=weight, personal=personal
    )


def encoded(attack, client=BAD, delta=None, sender=None, **facts):
    transform = attacked(attack, **facts).transform
    assert transform is not None
    delta = delta_of() if delta is None else delta
    sender = sender_of(client) if sender is None else sender
    return transform.encode(delta, (), sender)[0]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("n", "share", "size"), [(943, 0.1, 94), (10, 0, 0), (7, 1, 7)]
)
def test_a_subset_of_the_exact_size(n, share, size):
    mask = np.asarray(attackers(n, share, seed=5))
    assert mask.shape == (n,)
    assert mask.sum() == size
    same(mask, attackers(n, share, seed=5))
    larger = np.asarray(attackers(n, min(1, share * 2), seed=5))
    assert larger[mask].all()


def test_seeds_choose_differently_and_a_share_is_at_most_one():
    assert (attackers(100, 0.5, seed=0) != attackers(100, 0.5, seed=1)).any()
    with pytest.raises(ValueError, match=r"share=1\.2, expected .* \[0, 1\]"):
        attackers(10, 1.2)


ATTACKS = [
    SignFlip(share=SHARE),
    Noise(share=SHARE),
    Boost(share=SHARE, item=2, toward="popular", popular=1),
    Boost(share=SHARE, item=2),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=["flip", "noise", "boost", "own"])
def test_only_attackers_send_another_delta(attack):
    honest, items = delta_of(), (4, 4)
    for client in (GOOD, ABSENT, 9):
        sent = encoded(attack, client, items=items)
        same(jax.tree.leaves(sent), jax.tree.leaves(honest))
    transform = attacked(attack, items).transform
    assert transform is not None
    assert (transform.purpose, transform.counted) == (Purpose.ATTACK, False)
    assert transform.init(honest) == ()
    false = jax.jit(transform.encode)(honest, (), sender_of(BAD))[0]
    assert not np.array_equal(false["item"].values, honest["item"].values)
    assert not false["item"].ordered
    assert false["item"].num_rows == 6
    eager = encoded(attack, items=items)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), false, eager)


def test_an_attack_comes_before_the_transform_of_the_recipe():
    def double(message, state, sender):
        return rows.map_values(lambda x: 2 * x, message), state + 1

    codec = messages.MessageTransform(
        lambda message: jnp.zeros(()), double, lambda x: x, counted=False
    )
    transform = attacked(SignFlip(share=SHARE, scale=3.0), transform=codec).transform
    assert transform is not None
    assert [part.purpose for part in transform.parts] == [
        Purpose.ATTACK,
        Purpose.CODEC,
    ]
    state = transform.init(delta_of())
    false, state = transform.encode(delta_of(), state, sender_of(BAD))
    same(false["bias"], jnp.array([-6.0, 12.0]))
    assert float(state[1]) == 1


def test_sign_flip():
    false = encoded(SignFlip(share=SHARE, scale=3.0))
    same(false["bias"], jnp.array([-3.0, 6.0]))
    same(false["item"].ids, delta_of()["item"].ids)
    same(false["item"].values[0], jnp.array([-9.0, -12.0]))


def test_noise_has_the_size_of_the_delta_it_replaces():
    transform = attacked(Noise(share=SHARE, scale=2.0)).transform
    assert transform is not None

    def draw(key):
        sender = messages.Sender(
            id=jnp.int32(BAD), key=key, round_key=KEY, weight=jnp.ones(()), personal={}
        )
        return transform.encode(delta_of(), (), sender)[0]

    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(draw)(keys)
    # Rows 4 and 0 hold 3, 4, 0 and 2; the numbers in padding do not count.
    want = 2 * np.sqrt((9 + 16 + 0 + 4) / 4)
    real = np.asarray(drawn["item"].values)[:, [0, 2]]
    # A standard deviation of 16,000 draws is known within 0.6 %; five times that.
    np.testing.assert_allclose(real.std(), want, rtol=0.03)
    np.testing.assert_allclose(real.mean(), 0, atol=5 * want / np.sqrt(real.size))
    bias = np.asarray(drawn["bias"])
    np.testing.assert_allclose(bias.std(), 2 * np.sqrt(2.5), rtol=0.04)
    corner = np.corrcoef(real[:, 0, 0], bias[:, 0])[0, 1]
    assert abs(corner) < 5 / np.sqrt(len(keys))
    assert (np.asarray(drawn["item"].ids) == np.asarray(delta_of()["item"].ids)).all()


def test_noise_is_drawn_from_the_key_of_attacks():
    false = encoded(Noise(share=SHARE))
    key = jax.random.split(jax.random.fold_in(KEY, int(Purpose.ATTACK)), 2)[0]
    want = np.sqrt(2.5) * jax.random.normal(key, (2,))  # leaf "bias" is the first one
    np.testing.assert_allclose(false["bias"], want, rtol=1e-6)


def test_boost_takes_the_place_of_padding():
    attack = Boost(share=SHARE, item=2, toward="popular", popular=1, scale=2.0)
    false = encoded(attack, items=(0, 0, 5))["item"]
    assert false.ids.tolist() == [4, 2, 0, 6]
    # Twice the longest row (3, 4) in the direction of row 0, the only popular one.
    np.testing.assert_allclose(false.values[1], [0, 10], rtol=1e-6)
    same(false.values[0], jnp.array([3.0, 4.0]))


def test_boost_takes_the_items_own_place_or_that_of_the_smallest_row():
    false = encoded(Boost(share=SHARE, item=0))["item"]
    assert false.ids.tolist() == [4, 6, 0, 6]
    np.testing.assert_allclose(false.values[2], [0, 5], rtol=1e-6)
    full = delta_of(ids=(4, 1, 0, 3))
    attack = Boost(share=SHARE, item=5, toward="popular", popular=1)
    false = encoded(attack, delta=full, items=(4,))["item"]
    assert false.ids.tolist() == [4, 1, 5, 3]


def test_a_boost_toward_untouched_items_is_zero():
    attack = Boost(share=SHARE, item=2, toward="popular", popular=1)
    same(encoded(attack, items=(5, 5))["item"].values[1], jnp.zeros(2))


def test_the_boosted_item_is_by_default_the_least_popular_and_noted():
    recipe = attacked(Boost(), items=(0, 1, 1, 2, 4, 5))
    assert recipe.notes == {"seen": 1, "exposed_item": 3}
    assert attacked(Boost(item=0)).notes["exposed_item"] == 0


def test_own_is_the_first_personal_vector_as_wide_as_an_item():
    personal = {"a": jnp.zeros(3), "b": {"c": jnp.array([2.0, 0.0])}, "d": jnp.ones(2)}
    sender = sender_of(BAD, personal)
    false = encoded(Boost(share=SHARE, item=2), sender=sender, personal=personal)
    np.testing.assert_allclose(false["item"].values[1], [5, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("attack", "facts", "message"),
    [
        (Boost(item=6), {}, r"item=6, expected an item in \[0, 6\)"),
        (
            Boost(),
            {"shared": {"head": jnp.zeros(3)}},
            r"'item' is none; tables of this model: \[\]",
        ),
        (Boost(table="bias"), {}, r"tables of this model: \['item'\]"),
        (
            Boost(),
            {"personal": {"w": jnp.zeros(3)}},
            r"none of the shape \(2,\) of an item's row: use toward='popular'",
        ),
    ],
)
def test_a_boost_without_an_item_a_table_or_a_vector_is_refused(attack, facts, message):
    with pytest.raises(ValueError, match=message):
        attacked(attack, **facts)


def test_a_boost_without_rows_is_refused():
    attack = Boost(share=SHARE, item=2, toward="popular", table="bias")
    with pytest.raises(ValueError, match=r"tables of this model: \['item'\]"):
        encoded(attack)


@pytest.mark.parametrize("make", [SignFlip, Noise, Boost])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.2}, r"share=1\.2, expected .* \[0, 1\]"),
        ({"share": -0.1}, r"share=-0\.1"),
        ({"scale": 0.0}, r"scale=0\.0, expected .* \(0, inf\)"),
        ({"scale": np.inf}, "scale=inf"),
    ],
)
def test_impossible_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item": -2}, r"item=-2, expected .* \[-1, inf\)"),
        ({"popular": 0}, "popular=0"),
        ({"toward": "all"}, "toward='all', expected own or popular"),
    ],
)
def test_an_impossible_boost_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Boost(**settings)
