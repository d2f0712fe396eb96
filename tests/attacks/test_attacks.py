"""Attacks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.attacks import attackers, boost, noise, own, popular, sign_flip
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import ClientResult

KEY = jax.random.key(3)
BAD, GOOD, ABSENT = jnp.int32(1), jnp.int32(0), jnp.int32(-1)
MEMBERS = jnp.array([False, True, True])


def result(ids=(4, 6, 0, 6), values=((3, 4), (9, 9), (0, 2), (7, 7))):
    """Rows 4 and 0 of six items, with padding between and garbage in it."""
    return ClientResult(
        delta={
            "item": rows.Rows(
                ids=jnp.asarray(ids, jnp.int32), values=jnp.asarray(values, jnp.float32)
            ),
            "bias": jnp.array([1.0, -2.0]),
        },
        personal={"w": jnp.array([0.0, 3.0])},
        weight=jnp.float32(7),
        metrics={"loss": jnp.float32(0.5)},
    )


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


def test_seeds_choose_differently_and_a_share_is_one():
    assert (attackers(100, 0.5, seed=0) != attackers(100, 0.5, seed=1)).any()
    with pytest.raises(ValueError, match="must be in"):
        attackers(10, 1.2)


@pytest.mark.parametrize(
    "attack",
    [
        sign_flip(MEMBERS),
        noise(MEMBERS, lengths={"item": 6}),
        boost(MEMBERS, 2, num_items=6, toward=popular([4])),
    ],
    ids=["sign flip", "noise", "boost"],
)
def test_only_members_attack_and_only_their_delta_changes(attack):
    honest = result()
    for client in (GOOD, ABSENT, jnp.int32(9)):
        same(attack(honest, client, KEY), honest)
    false = jax.jit(attack)(honest, BAD, KEY)
    same(false.personal, honest.personal)
    assert float(false.weight) == 7
    assert jax.tree.structure(false) == jax.tree.structure(honest)
    assert not np.array_equal(false.delta["item"].values, honest.delta["item"].values)
    eager = attack(honest, BAD, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), false, eager)


def test_sign_flip():
    false = sign_flip(MEMBERS, scale=3.0)(result(), BAD, KEY).delta
    same(false["bias"], jnp.array([-3.0, 6.0]))
    same(false["item"].ids, result().delta["item"].ids)
    same(false["item"].values[0], jnp.array([-9.0, -12.0]))


def test_noise_has_the_size_of_what_it_replaces():
    attack = noise(MEMBERS, scale=2.0, lengths={"item": 6})
    keys = jax.random.split(KEY, 4000)
    drawn = jax.vmap(lambda key: attack(result(), BAD, key).delta)(keys)
    # Rows 4 and 0 hold 3, 4, 0 and 2; what padding holds does not count.
    want = 2 * np.sqrt((9 + 16 + 0 + 4) / 4)
    mine = np.asarray(drawn["item"].values)[:, [0, 2]]
    # A standard deviation of 16,000 draws is known within 0.6 %; five times that.
    np.testing.assert_allclose(mine.std(), want, rtol=0.03)
    np.testing.assert_allclose(mine.mean(), 0, atol=5 * want / np.sqrt(mine.size))
    bias = np.asarray(drawn["bias"])
    np.testing.assert_allclose(bias.std(), 2 * np.sqrt(2.5), rtol=0.04)
    corner = np.corrcoef(mine[:, 0, 0], bias[:, 0])[0, 1]
    assert abs(corner) < 5 / np.sqrt(len(keys))
    assert (
        np.asarray(drawn["item"].ids) == np.asarray(result().delta["item"].ids)
    ).all()
    with pytest.raises(ValueError, match="length of the tables of 'item'"):
        noise(MEMBERS)(result(), BAD, KEY)


def test_boost_takes_the_place_of_padding():
    attack = boost(MEMBERS, 2, num_items=6, toward=popular([0, 5]), scale=2.0)
    false = attack(result(), BAD, KEY).delta["item"]
    assert false.ids.tolist() == [4, 2, 0, 6]
    # Twice the longest row (3, 4) in the direction of row 0, the only popular one.
    np.testing.assert_allclose(false.values[1], [0, 10], rtol=1e-6)
    same(false.values[0], jnp.array([3.0, 4.0]))


def test_boost_takes_the_items_own_place_or_that_of_the_smallest_row():
    attack = boost(MEMBERS, 0, num_items=6, toward=own("w"))
    false = attack(result(), BAD, KEY).delta["item"]
    assert false.ids.tolist() == [4, 6, 0, 6]
    np.testing.assert_allclose(false.values[2], [0, 5], rtol=1e-6)
    full = result(ids=(4, 1, 0, 3))
    attack = boost(MEMBERS, 5, num_items=6, toward=popular([4]))
    false = attack(full, BAD, KEY).delta["item"]
    assert false.ids.tolist() == [4, 1, 5, 3]


def test_a_boost_without_a_popular_item_or_a_table():
    attack = boost(MEMBERS, 2, num_items=6, toward=popular([5]))
    false = attack(result(), BAD, KEY).delta["item"]
    same(false.values[1], jnp.zeros(2))
    with pytest.raises(ValueError, match="item must be in"):
        boost(MEMBERS, 6, num_items=6, toward=popular([5]))
    other = boost(MEMBERS, 2, num_items=6, toward=popular([5]), table="bias")
    with pytest.raises(ValueError, match=r"tables of this model: \['item'\]"):
        other(result(), BAD, KEY)
    with pytest.raises(ValueError, match=r"parameters v; there are \['w'\]"):
        boost(MEMBERS, 2, num_items=6, toward=own("v"))(result(), BAD, KEY)
