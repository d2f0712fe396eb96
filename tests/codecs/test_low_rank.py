"""Low-rank codecs against NumPy's SVD, published sizes, and their wire format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs.low_rank import SVD, PowerSGD
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.testing.wire_stream import serialize
from tests.codecs.deltas import sender

I, D = 30, 8  # noqa: E741
SHARED = {
    "item": rows.Table(values=jnp.zeros((I, D))),
    "dense": jnp.zeros((3, 6, 9)),
    "bias": jnp.zeros(5),
}
KEY = jax.random.key(0)


def delta(seed=0, touched=(7, 2, 29, 11, 5)):
    """Rows of `touched` among padding that holds garbage."""
    rng = np.random.default_rng(seed)
    ids = [I, *touched[:2], I, *touched[2:], I]
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids, jnp.int32),
            values=jnp.asarray(rng.normal(size=(len(ids), D)), jnp.float32),
            num_rows=I,
        ),
        "dense": jnp.asarray(rng.normal(size=(3, 6, 9)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=5), jnp.float32),
    }


def dense_of(part):
    return np.asarray(rows.scatter_add(jnp.zeros((I, D)), part))


def through(codec, change, state=None):
    state = codec.init(SHARED) if state is None else state
    message, state = jax.jit(codec.encode)(change, state, sender(KEY))
    return message, codec.decode(message), state


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_svd_is_the_best_of_its_rank(rank):
    change = delta()
    _, back, _ = through(SVD(rank=rank).plain(), change)
    np.testing.assert_allclose(
        dense_of(back["item"]), truncated(dense_of(change["item"]), rank), atol=1e-4
    )
    matrix = np.asarray(change["dense"]).reshape(18, 9)
    np.testing.assert_allclose(
        np.asarray(back["dense"]).reshape(18, 9), truncated(matrix, rank), atol=1e-4
    )
    np.testing.assert_array_equal(back["bias"], change["bias"])


def test_a_leaf_that_factors_would_not_shrink_goes_whole():
    change = delta()
    for codec in (SVD(rank=8).plain(), PowerSGD(rank=8).plain()):
        message, back, _ = through(codec, change)
        np.testing.assert_array_equal(dense_of(back["item"]), dense_of(change["item"]))
        np.testing.assert_array_equal(back["dense"], change["dense"])
        # 5 rows of 8, 162 and 5 numbers; ids as they are coded.
        ids = message["item"].ids.bits
        assert int(num_bits(message)) == 32 * (40 + 162 + 5) + int(ids)


def test_power_sgd_finds_the_best_subspace_of_a_delta_that_stays():
    change, state = delta(), None
    codec = PowerSGD(rank=2).plain()
    errors = []
    for _ in range(60):
        _, back, state = through(codec, change, state)
        errors.append(np.linalg.norm(dense_of(back["item"]) - dense_of(change["item"])))
    best = truncated(dense_of(change["item"]), 2)
    np.testing.assert_allclose(dense_of(back["item"]), best, atol=1e-3)
    assert errors[0] > errors[-1]
    assert (np.diff(errors) < 1e-5).all()  # subspace iteration only gets closer
    # One step by hand, from the same start.
    q = np.asarray(codec.init(SHARED)[2])
    matrix = dense_of(change["item"])
    p = np.linalg.qr(matrix @ q)[0]
    _, first, _ = through(codec, change)
    np.testing.assert_allclose(dense_of(first["item"]), p @ (p.T @ matrix), atol=1e-5)


def test_a_client_without_a_delta_keeps_its_subspace():
    codec = PowerSGD(rank=2).plain()
    _, _, state = through(codec, delta())
    nothing = jax.tree.map(jnp.zeros_like, delta())
    nothing["item"] = rows.Rows(ids=jnp.full(4, I), values=jnp.ones((4, D)), num_rows=I)
    message, back, after = through(codec, nothing, state)
    assert (dense_of(back["item"]) == 0).all()
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(int(field.bits) == 0 for field in message["item"].sent.values())


@pytest.mark.parametrize("settings", [SVD(rank=2), PowerSGD(rank=2)])
def test_messages_have_the_size_of_their_bytes(settings):
    for touched in ((), (4,), (7, 2, 29, 11, 5), tuple(range(25))):
        message, _, _ = through(settings.plain(), delta(touched=touched))
        assert len(serialize(message)) == -(-int(num_bits(message)) // 8)


@pytest.mark.parametrize("kind", [SVD, PowerSGD])
@pytest.mark.parametrize("padded", [9, 40])
def test_few_touched_rows_are_sent_as_they_are(kind, padded):
    """At 32 numbers and rank 4, factors of up to 4 rows are larger than the rows."""
    d, rank, values = 32, 4, np.random.default_rng(0).normal(size=(40, 32))
    codec = kind(rank=rank).plain()
    shared = {"item": rows.Table(values=jnp.zeros((50, d)))}
    start = codec.init(shared)

    @jax.jit
    def coded(touched):
        ids = jnp.where(jnp.arange(padded) < touched, jnp.arange(padded), 50)
        change = rows.Rows(
            ids=ids, values=jnp.asarray(values[:padded], jnp.float32), num_rows=50
        )
        message, state = codec.encode({"item": change}, start, sender(KEY))
        bits = num_bits(message), message["item"].ids.bits
        return bits, codec.decode(message)["item"].values, state

    for touched in range(8):
        (bits, ids), back, state = coded(touched)
        exact = np.where(np.arange(padded)[:, None] < touched, values[:padded], 0)
        if touched < 5:
            assert int(bits - ids) == 32 * touched * d
            np.testing.assert_allclose(back, exact, rtol=1e-6)
            assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), start, state))
        else:
            assert int(bits - ids) == 32 * rank * (touched + d) < 32 * touched * d
            error = np.square(back - exact).sum() / np.square(exact).sum()
            assert 0.01 < error < 0.9


def test_power_sgd_of_a_message_with_more_rows_than_its_table():
    """Rows may repeat: a table of one row, and a message of four, of rank 1."""
    codec = PowerSGD(rank=1).plain()
    row = np.arange(1.0, 9.0, dtype=np.float32)
    values = np.outer([1.0, 2.0, 3.0, 4.0], row).astype(np.float32)
    ids = jnp.zeros(4, jnp.int32)
    change = {"t": rows.Rows(ids=ids, values=jnp.asarray(values), num_rows=1)}
    state = codec.init({"t": rows.Table(values=jnp.zeros((1, 8)))})
    message, _ = codec.encode(change, state, sender(KEY))
    decoded = rows.scatter_add(jnp.zeros((1, 8)), codec.decode(message)["t"])
    np.testing.assert_allclose(decoded, [10 * row], rtol=1e-4)
