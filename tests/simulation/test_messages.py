"""Messages of a round: counted bytes, states that stay, groups that are not sent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    QSGD,
    SVD,
    CoLR,
    Float32,
    PFedRec,
    SyntheticData,
    TopK,
)
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import ClientResult
from fedjax_rec.core.messages import MessageTransform, Sender, chain
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.partition import PerUser
from fedjax_rec.simulation.messages import TRANSFORM, send, without_state
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import (
    ROUND_KEY,
    client_key,
    federated,
    round_hparams,
    train_client,
)
from fedjax_rec.testing.wire_stream import serialize

USERS, ITEMS = 12, 20
KEY = jax.random.key(3)
TRAIN = SyntheticData(num_users=USERS, num_items=ITEMS, num_interactions=90).load()
DATA = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=1)
EVERYONE = range(USERS)


def context_of(recipe=None):
    return Context(
        num_items=ITEMS,
        num_users=USERS,
        num_clients=USERS,
        cohort_size=USERS,
        dtype=np.float32,
        examples=np.bincount(TRAIN.user),
        recipe=recipe,
    )


@functools.cache
def recipe_of(codec=None, wrapper=None):
    recipe = PFedRec(dim=4, negatives=2, batch_size=8).build(context_of())
    if wrapper is not None:
        recipe = wrapper.build(context_of(recipe))
    if codec is None:
        return recipe
    return recipe._replace(transform=codec.build(context_of(recipe)))


@functools.cache
def program(index):
    return jax.jit(federated(RECIPES[index], (3,)).round)


RECIPES = []
"""Recipes with a compiled round; they have no hash."""


def play(recipe, ids, rounds=1):
    """State, personal state and metrics after some rounds of a cohort."""
    index = next((i for i, known in enumerate(RECIPES) if known is recipe), None)
    if index is None:
        index = len(RECIPES)
        RECIPES.append(recipe)
    state = federated(recipe, (3,)).init(KEY)
    personal = initial_personal(recipe, KEY, USERS)
    # Of one length, for one program.
    ids = jnp.asarray([*ids, *[USERS] * (USERS - len(ids))], jnp.int32)
    metrics = {}
    for _ in range(rounds):
        cohort = Cohort(ids=ids, rows=ids, personal=personal)
        state, cohort, metrics = program(index)(
            state, cohort, DATA, (), recipe.hparams, KEY
        )
        personal = cohort.personal
    return state, personal, metrics


def initial_items(recipe):
    return np.asarray(federated(recipe, (3,)).init(KEY).shared["item"].values)


def test_float32_changes_nothing():
    plain, personal, metrics = play(recipe_of(), EVERYONE, 3)
    coded, coded_personal, coded_metrics = play(recipe_of(Float32()), EVERYONE, 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        (plain.shared, personal),
        (coded.shared, coded_personal),
    )
    assert "up_bytes" in coded_metrics
    assert "up_bytes" not in metrics


@pytest.mark.parametrize(
    ("codec", "wrapper"),
    [
        (Float32(), None),
        (TopK(then=QSGD()), None),
        (None, CoLR(rank=2, touched_only=True)),
    ],
    ids=["float32", "top-k, then qsgd", "colr"],
)
def test_up_bytes_are_those_of_the_messages_on_the_wire(codec, wrapper):
    recipe, ids = recipe_of(codec, wrapper), jnp.array([0, 3, 5, 7, 11])
    _, _, metrics = play(recipe, ids)
    shared = federated(recipe, (3,)).init(KEY).shared
    personal = initial_personal(recipe, KEY, USERS)
    hparams = round_hparams(recipe.hparams, KEY, jnp.int32(0))
    client_keys = jax.vmap(lambda i: client_key(KEY, jnp.int32(0), i))(ids)
    train = train_client(recipe, DATA, 0)

    @jax.jit
    def send_all(personal):
        own = jax.tree.map(lambda x: x[ids], without_state(personal))
        result = jax.vmap(train, (None, 0, None, None, 0, 0))(
            shared, own, (), hparams, ids, client_keys
        )
        states = personal.get(TRANSFORM, ())
        sent = send(
            recipe, shared, states, ids, result, ids, client_keys, hparams[ROUND_KEY]
        )
        return result, sent.metrics["up_bytes"]

    @jax.jit
    def encode(result, state, client, key):
        delta = {"item": rows.merge_repeats(result.delta["item"], ITEMS)}
        sender = Sender(
            id=client,
            key=key,
            round_key=hparams[ROUND_KEY],
            weight=result.weight,
            personal=result.personal,
        )
        assert recipe.transform is not None
        state = state or recipe.transform.init(shared)
        return recipe.transform.encode(delta, state, sender)[0]

    results, up_bytes = send_all(personal)
    states = personal.get(TRANSFORM, ())
    if recipe.transform is not None and not recipe.transform.parts and states:
        (states,) = states
    for i, client in enumerate(ids):
        result = jax.tree.map(lambda x, i=i: x[i], results)
        state = jax.tree.map(lambda x, c=client: x[c], states)
        message = encode(result, state, client, client_keys[i])
        assert len(serialize(message)) == -(-int(8 * up_bytes[i]) // 8)
    assert float(metrics["up_bytes"]) == pytest.approx(float(up_bytes.sum()), rel=1e-6)


PROFILES = np.random.default_rng(0).normal(size=(USERS, 5)).astype(np.float32)


@functools.cache
def top_k():
    """Top-k with feedback, and a constant of each client."""
    return recipe_of(TopK())._replace(constants={"profile": PROFILES})


def test_a_codecs_state_and_constants_stay_on_their_clients():
    before = initial_personal(top_k(), KEY, USERS)
    _, after, _ = play(top_k(), [0, 3, USERS, 5])
    assert set(after) == {"scorer", "profile", TRANSFORM}
    np.testing.assert_array_equal(after["profile"], PROFILES)
    assert set(without_state(after)) == {"scorer", "profile"}
    pairs = zip(
        jax.tree.leaves(before[TRANSFORM]),
        jax.tree.leaves(after[TRANSFORM]),
        strict=True,
    )
    moved = [(np.asarray(a) != b).reshape(USERS, -1).any(1) for a, b in pairs]
    # Absent clients keep theirs.
    assert np.flatnonzero(np.any(moved, axis=0)).tolist() == [0, 3, 5]


def test_groups_that_no_client_trains_are_neither_encoded_nor_counted():
    recipe = recipe_of(Float32())
    shared = {
        "item": rows.Table(values=jnp.ones((ITEMS, 4))),
        "head": jnp.ones((3, 2)),
    }
    change = rows.Rows(ids=jnp.array([[3, 7]]), values=jnp.ones((1, 2, 4)))
    result = ClientResult(
        delta={"item": change, "head": jnp.ones((1, 3, 2))},
        personal={},
        weight=jnp.ones(1),
        metrics={},
    )

    def send_one(fixed):
        sender = recipe._replace(model=recipe.model._replace(fixed=fixed))
        keys, zero = jax.random.split(KEY, 1), jnp.zeros(1, jnp.int32)
        sent = jax.jit(functools.partial(send, sender, shared, ()))(
            zero, result, zero, keys, KEY
        )
        return sent.result.delta, float(sent.metrics["up_bytes"][0])

    delta, every = send_one(())
    kept, others = send_one(("head",))
    assert every - others == 4 * 3 * 2
    np.testing.assert_array_equal(kept["head"], delta["head"])


def with_attack(recipe, change):
    """A recipe whose clients change their item rows before the codec."""

    def encode(message, state, sender):
        return {"item": change(message["item"], sender)}, state

    attack = MessageTransform(lambda message: (), encode, counted=False)
    return recipe._replace(transform=chain(attack, recipe.transform))


def test_an_attack_comes_before_the_codec():
    def silence(item, sender):
        values = jnp.where(sender.id == 3, 0, item.values)
        return dataclasses.replace(item, values=values)

    _, _, expected = play(recipe_of(Float32()), [3])
    attacked = with_attack(recipe_of(Float32()), silence)
    state, _, metrics = play(attacked, [3])
    # The same rows are sent, all zero: no item moves, and the bytes are the same.
    np.testing.assert_array_equal(state.shared["item"].values, initial_items(attacked))
    assert float(metrics["up_bytes"]) == float(expected["up_bytes"])


def test_rows_that_an_attack_leaves_in_another_order_are_the_same_message():
    def shuffle(item, sender):
        order = jax.random.permutation(sender.key, len(item.ids))
        moved = jax.tree.map(lambda x: x[order], item)
        return dataclasses.replace(moved, ordered=False)

    expected = play(top_k(), EVERYONE, 3)
    got = play(with_attack(top_k(), shuffle), EVERYONE, 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        (got[0], without_state(got[1]), got[2]),
        (expected[0], without_state(expected[1]), expected[2]),
    )


def test_a_codec_whose_state_is_empty_needs_none():
    recipe = recipe_of(SVD(rank=2, feedback="none"))
    state, personal, metrics = play(recipe, EVERYONE, 2)
    assert set(personal) == {"scorer"}
    assert float(metrics["up_bytes"]) > 0
    assert not np.array_equal(state.shared["item"].values, initial_items(recipe))
