"""CoLR: messages in a shared basis, published sizes, and local training along it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.algorithms.implicit import PFedRec
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.contrib.colr import CoLR, coordinates
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.orthogonal import random_rows
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.testing.wire_stream import serialize
from tests.codecs.deltas import sender

I, D = 30, 8  # noqa: E741
KEY = jax.random.key(0)
BASIS = random_rows(KEY, 3, D)


def delta(touched=(7, 2, 29, 11, 5)):
    """Rows of `touched` among padding that holds garbage, and a dense leaf."""
    rng = np.random.default_rng(0)
    ids = [I, *touched[:2], I, *touched[2:], I]
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids, jnp.int32),
            values=jnp.asarray(rng.normal(size=(len(ids), D)), jnp.float32),
            num_rows=I,
        ),
        "dense": jnp.asarray(rng.normal(size=(3, 6)), jnp.float32),
    }


def dense_of(part):
    return np.asarray(rows.scatter_add(jnp.zeros((I, D)), part))


def transform(touched_only, basis=BASIS):
    return coordinates(lambda round_key: {"item": basis}, touched_only=touched_only)


def through(codec, change):
    message, _ = jax.jit(codec.encode)(change, (), sender(KEY))
    return message, codec.decode(message)


both = pytest.mark.parametrize("touched_only", [False, True])


@both
def test_deltas_in_the_basis_are_exact_and_others_projected(touched_only):
    codec, change = transform(touched_only), delta()
    item = change["item"]
    inside = dataclasses.replace(item, values=item.values[:, :3] @ BASIS)
    _, decoded = through(codec, {**change, "item": inside})
    np.testing.assert_allclose(dense_of(decoded["item"]), dense_of(inside), atol=1e-6)
    np.testing.assert_array_equal(decoded["dense"], change["dense"])
    _, decoded = through(codec, change)
    projected = dense_of(item) @ np.asarray(BASIS.T @ BASIS)
    np.testing.assert_allclose(dense_of(decoded["item"]), projected, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_messages_have_the_published_size(rank):
    """A round of ML-1M: 3,706 items times the rank times 4 bytes."""
    item = rows.Rows(
        ids=jnp.arange(40, dtype=jnp.int32), values=jnp.ones((40, 64)), num_rows=3706
    )
    message, _ = through(transform(False, random_rows(KEY, rank, 64)), {"item": item})
    assert int(num_bits(message)) == 8 * 3706 * rank * 4
    assert len(serialize(message)) == 3706 * rank * 4


@both
@pytest.mark.parametrize("count", [0, 1, 5, 25])
def test_messages_have_the_size_of_their_bytes(touched_only, count):
    touched = (7, 2, 29, 11, 5, *range(12, 29), 3, 4, 6)[:count]
    message, _ = through(transform(touched_only), delta(touched))
    assert len(serialize(message)) == -(-int(num_bits(message)) // 8)


@both
def test_every_row_is_decoded_in_order(touched_only):
    codec, item = transform(touched_only), rows.merge_repeats(delta()["item"], I)
    _, decoded = through(codec, {**delta(), "item": item})
    assert codec.every_row
    assert decoded["item"].ordered
    np.testing.assert_array_equal(decoded["item"].ids, item.ids)
    assert not np.asarray(decoded["item"].values)[np.asarray(item.ids) == I].any()


def context(recipe=None):
    return Context(
        num_items=I,
        num_users=2,
        num_clients=2,
        cohort_size=2,
        dtype=jnp.float32,
        examples=np.array([6, 3]),
        recipe=recipe,
    )


def plain(**options):
    return PFedRec(dim=D, negatives=2, batch_size=4, **options).build(context())


def examples():
    items = np.array([3, 5, 7, 11, 13, 17, 2, 3, 4])
    train = make_interactions(
        user=np.repeat([0, 1], [6, 3]),
        item=items,
        rating=np.ones(9, np.float32),
        users=Entities(ids=["a", "b"]),
        items=Entities(ids=[str(i) for i in range(I)]),
    )
    data = make_client_data(train, PerUser().partition(train), max_buckets=1)
    return data.examples(jnp.int32(0), 0)


@both
def test_clients_train_in_the_basis_of_their_message(touched_only):
    """Several steps on the rows; the message loses no number only in the same basis."""
    recipe = CoLR(rank=3, touched_only=touched_only).build(context(plain()))
    params = recipe.model.init(KEY)
    round_key = jax.random.key(5)
    hparams = {**recipe.hparams, "round_key": round_key}
    result = recipe.client_update(params, (), examples(), hparams, jax.random.key(1))
    change = {"item": rows.merge_repeats(result.delta["item"], I)}
    assert np.linalg.matrix_rank(dense_of(change["item"]), tol=1e-4) <= 3
    assert recipe.transform is not None
    for key, lossless in ((round_key, True), (jax.random.key(6), False)):
        client = dataclasses.replace(sender(KEY), round_key=key)
        message, _ = recipe.transform.encode(change, (), client)
        decoded = dense_of(recipe.transform.decode(message)["item"])
        expected = dense_of(change["item"])
        close = np.allclose(decoded, expected, atol=1e-5 * np.abs(expected).max())
        assert close == lossless


def test_tuning_after_a_round_has_no_basis():
    wrapped = CoLR(rank=3).build(context(plain()))
    params = wrapped.model.init(KEY)
    args = (params, (), examples(), wrapped.hparams, jax.random.key(1))
    tuned, expected = wrapped.client_update(*args), plain().client_update(*args)
    jax.tree.map(np.testing.assert_array_equal, tuned.delta, expected.delta)


def test_systems_without_a_basis_are_refused():
    recipe = plain()
    wrong = recipe._replace(local=recipe.local._replace(corrections=False))
    with pytest.raises(ValueError, match="plain SGD on item rows"):
        CoLR().build(context(wrong))
    with pytest.raises(ValueError, match="has a message transform"):
        CoLR().build(context(recipe._replace(transform=transform(False))))
    with pytest.raises(
        ValueError, match="rank=9 is more than the width 8 of the table"
    ):
        CoLR(rank=9).build(context(recipe))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        CoLR(rank=0)
    # A basis is not followed twice.
    assert not CoLR().build(context(recipe)).local.corrections


def test_models_without_an_item_table_are_refused():
    recipe = plain()

    def init(key):
        return Params(shared={"head": jnp.zeros(3)}, personal={})

    with pytest.raises(ValueError, match="this model shares none; it shares head"):
        CoLR().build(context(recipe._replace(model=recipe.model._replace(init=init))))
    fixed = recipe.model._replace(fixed=("item",))
    with pytest.raises(ValueError, match="this model shares none; it shares no group"):
        CoLR().build(context(recipe._replace(model=fixed)))
