"""What leaves a client: counted bytes, states that stay, groups nobody sends."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_rec.codecs.serialize import serialize
from fedjax_rec.experiment.codec import CodecConfig, with_codec
from fedjax_rec.simulation.sending import CODEC, PROFILE, leave, own, send

from fedjax_rec import FedAvg, PFedRec, SyntheticData
from fedjax_rec.core import rows
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.partition import PerUser
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, make_algorithm, train_client

USERS, ITEMS = 12, 20
KEY = jax.random.key(3)
TRAIN = SyntheticData(num_users=USERS, num_items=ITEMS, num_interactions=90).load()
DATA = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=1)


def recipe_of(codec: Any = "none", algorithm=None, **options):
    algorithm = algorithm or PFedRec(dim=4, negatives=2, batch_size=8)
    recipe = algorithm.build(num_items=ITEMS, num_users=USERS)
    return with_codec(recipe, CodecConfig(name=codec, **options))


def play(recipe, ids, rounds=1, personal=None):
    algorithm = make_algorithm(recipe, (3,))
    state = algorithm.init(KEY)
    if personal is None:
        personal = initial_personal(recipe, KEY, DATA.num_clients)
    ids = jnp.asarray(ids, jnp.int32)
    step, told = jax.jit(algorithm.round), {}
    for _ in range(rounds):
        cohort = Cohort(ids=ids, rows=ids, personal=personal)
        state, cohort, told = step(state, cohort, DATA, (), recipe.hparams, KEY)
        personal = cohort.personal
    return state, personal, told


def test_float32_changes_nothing():
    plain, personal, _ = play(recipe_of(), np.arange(USERS), 3)
    coded, own_personal, told = play(recipe_of("float32"), np.arange(USERS), 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        (plain.shared, personal),
        (coded.shared, own_personal),
    )
    assert "up_bytes" in told


@pytest.mark.parametrize("codec", ["float32", "top_k_qsgd", "colr_touched"])
def test_up_bytes_are_those_of_the_messages_on_the_wire(codec):
    recipe, ids = recipe_of(codec), np.array([0, 3, 5, 7, 11])
    state, personal, told = play(recipe, ids)
    algorithm = make_algorithm(recipe, (3,))
    shared = algorithm.init(KEY).shared
    before = initial_personal(recipe, KEY, DATA.num_clients)
    round_key = jax.random.key(0)  # of the size no key decides
    hparams = dict(recipe.hparams)
    train = jax.jit(train_client(recipe, DATA, 0))
    bits = 0
    for client in ids:
        mine = jax.tree.map(lambda x, c=client: x[c], before)
        key = client_key(KEY, jnp.int32(0), jnp.int32(client))
        result = train(shared, mine, (), hparams, jnp.int32(client), key)
        delta = {"item": rows.merge_repeats(result.delta["item"], ITEMS)}
        assert recipe.codec is not None
        codec_ = recipe.codec(round_key)
        message, _ = codec_.encode(delta, mine.get(CODEC, ()), key)
        left = leave(recipe, shared, result, client, key)
        sent = send(recipe, mine.get(CODEC, ()), left, key, round_key)
        exact = 8 * float(sent.told["up_bytes"])
        assert len(serialize(message)) == -(-exact // 8)
        bits += exact
    # Local training in another basis may leave other rows at zero, not more of them.
    assert float(told["up_bytes"]) == pytest.approx(bits / 8, rel=1e-6)
    del state, personal


def test_the_codecs_state_is_the_clients_own_and_the_absent_keep_theirs():
    recipe = recipe_of("top_k")
    before = initial_personal(recipe, KEY, DATA.num_clients)
    _, after, _ = play(recipe, [0, 3, DATA.num_clients, 5])
    assert set(after) == {"scorer", CODEC}
    moved = [
        any(
            not np.array_equal(a[c], b[c])
            for a, b in zip(
                jax.tree.leaves(before[CODEC]),
                jax.tree.leaves(after[CODEC]),
                strict=True,
            )
        )
        for c in range(USERS)
    ]
    assert np.flatnonzero(moved).tolist() == [0, 3, 5]


def test_groups_that_nobody_trains_are_neither_encoded_nor_counted():
    recipe = recipe_of(algorithm=FedAvg(model="ncf", dim=4, negatives=1))
    whole = with_codec(recipe, CodecConfig(name="float32"))
    shared = jax.eval_shape(recipe.model.init, KEY).shared
    dense = [name for name in shared if not rows.is_table(shared[name])]
    fixed = with_codec(recipe._replace(fixed=(dense[0],)), CodecConfig(name="float32"))
    _, _, all_of_it = play(whole, [0, 1, 2])
    _, _, rest = play(fixed, [0, 1, 2])
    size = sum(x.size for x in jax.tree.leaves(shared[dense[0]]))
    difference = float(all_of_it["up_bytes"]) - float(rest["up_bytes"])
    assert difference == pytest.approx(3 * 4 * size)


def test_profiles_lie_with_their_clients_and_never_change():
    profiles = np.random.default_rng(0).normal(size=(USERS, 5)).astype(np.float32)
    recipe = recipe_of("top_k")._replace(profiles=profiles)
    _, personal, _ = play(recipe, np.arange(USERS), 2)
    np.testing.assert_array_equal(personal[PROFILE], profiles)
    assert set(own(personal)) == {"scorer"}


def test_an_attack_comes_before_the_codec():
    def silence(result, client, key):
        del key
        zero = jax.tree.map(
            lambda x: jnp.where(client == 3, jnp.zeros_like(x), x), result.delta
        )
        return result.__class__(**{**vars(result), "delta": zero})

    def attack(result, client, key):
        changed = silence(result, client, key)
        ids = result.delta["item"].ids
        item = rows.Rows(ids=ids, values=changed.delta["item"].values, num_rows=ITEMS)
        return result.__class__(**{**vars(result), "delta": {"item": item}})

    honest = recipe_of("float32")
    _, _, told = play(honest, [3])
    state, _, lied = play(honest._replace(attack=attack), [3])
    start = make_algorithm(honest, (3,)).init(KEY)
    # The same rows go, all zero: nothing moves, and the bytes are the same.
    jax.tree.map(np.testing.assert_array_equal, state.shared, start.shared)
    assert float(lied["up_bytes"]) == float(told["up_bytes"])


@pytest.mark.parametrize("codec", ["top_k", "row_top_k", "power_sgd"])
def test_rows_that_an_attack_leaves_in_another_order_are_the_same_message(codec):
    def shuffled(result, client, key):
        del client
        order = jax.random.permutation(key, len(result.delta["item"].ids))
        item = jax.tree.map(lambda x: x[order], result.delta["item"])
        return dataclasses.replace(result, delta={**result.delta, "item": item})

    honest = recipe_of(codec)
    expected = play(honest, np.arange(USERS), 3)
    got = play(honest._replace(attack=shuffled), np.arange(USERS), 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected
    )


def test_a_codec_whose_state_is_empty_needs_none():
    recipe = recipe_of("svd", feedback="none", rank=2)
    state, personal, told = play(recipe, np.arange(USERS), 2)
    assert set(personal) == {"scorer"}
    assert float(told["up_bytes"]) > 0
    start = make_algorithm(recipe, (3,)).init(KEY)
    assert not np.array_equal(state.shared["item"].values, start.shared["item"].values)
