"""Low-rank codecs against NumPy's SVD, published sizes, and their wire format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs.low_rank import colr, orthonormal, power_sgd, svd
from fedjax_rec.codecs.serialize import serialize
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows

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


def sent(codec, some, state=None):
    state = codec.init(SHARED) if state is None else state
    message, state = jax.jit(codec.encode)(some, state, KEY)
    return message, codec.decode(message), state


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def test_orthonormal_rows_point_everywhere():
    some = jax.vmap(lambda k: orthonormal(k, 2, 3))(jax.random.split(KEY, 2000))
    product = np.asarray(some @ some.transpose(0, 2, 1))
    np.testing.assert_allclose(product, np.tile(np.eye(2), (2000, 1, 1)), atol=1e-5)
    # A uniform projection onto 2 of 3 dimensions is 2/3 of the identity in the mean;
    # an entry's standard error over 2,000 of them is below .01.
    projection = np.asarray(some.transpose(0, 2, 1) @ some).mean(0)
    np.testing.assert_allclose(projection, np.eye(3) * 2 / 3, atol=0.04)
    np.testing.assert_allclose(np.asarray(some).mean(0), 0, atol=0.06)
    with pytest.raises(ValueError, match="rank=4: expected 1 to 3"):
        orthonormal(KEY, 4, 3)


@pytest.mark.parametrize("touched_only", [False, True])
def test_colr_is_exact_in_its_basis_and_projects_otherwise(touched_only):
    basis = orthonormal(KEY, 3, D)
    codec = colr({"item": basis}, touched_only=touched_only)
    some = delta()
    inside = {**some, "item": rows.Rows(
        ids=some["item"].ids, values=some["item"].values[:, :3] @ basis, num_rows=I
    )}  # fmt: skip
    _, back, _ = sent(codec, inside)
    np.testing.assert_allclose(
        dense_of(back["item"]), dense_of(inside["item"]), atol=1e-6
    )
    np.testing.assert_array_equal(back["dense"], some["dense"])
    _, back, _ = sent(codec, some)
    projected = dense_of(some["item"]) @ np.asarray(basis.T @ basis)
    np.testing.assert_allclose(dense_of(back["item"]), projected, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_colr_sends_what_its_paper_says(rank):
    """A round of ML-1M: 3,706 items times the rank times 4 bytes."""
    items = {"item": rows.Rows(
        ids=jnp.arange(40, dtype=jnp.int32), values=jnp.ones((40, 64)), num_rows=3706
    )}  # fmt: skip
    codec = colr({"item": orthonormal(KEY, rank, 64)})
    message, _ = codec.encode(items, (), KEY)
    assert int(num_bits(message)) == 8 * 3706 * rank * 4
    assert len(serialize(message)) == 3706 * rank * 4


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_svd_is_the_best_of_its_rank(rank):
    some = delta()
    _, back, _ = sent(svd(rank), some)
    np.testing.assert_allclose(
        dense_of(back["item"]), truncated(dense_of(some["item"]), rank), atol=1e-4
    )
    matrix = np.asarray(some["dense"]).reshape(18, 9)
    np.testing.assert_allclose(
        np.asarray(back["dense"]).reshape(18, 9), truncated(matrix, rank), atol=1e-4
    )
    np.testing.assert_array_equal(back["bias"], some["bias"])


def test_a_leaf_that_factors_would_not_shrink_goes_whole():
    some = delta()
    for codec in (svd(8), power_sgd(8)):
        message, back, _ = sent(codec, some)
        np.testing.assert_array_equal(dense_of(back["item"]), dense_of(some["item"]))
        np.testing.assert_array_equal(back["dense"], some["dense"])
        # 5 rows of 8, 162 and 5 numbers; ids as they are coded.
        ids = message["item"].ids.bits
        assert int(num_bits(message)) == 32 * (40 + 162 + 5) + int(ids)


def test_power_sgd_finds_the_best_subspace_when_it_is_asked_again():
    some, state = delta(), None
    codec = power_sgd(2)
    errors = []
    for _ in range(60):
        _, back, state = sent(codec, some, state)
        errors.append(np.linalg.norm(dense_of(back["item"]) - dense_of(some["item"])))
    best = truncated(dense_of(some["item"]), 2)
    np.testing.assert_allclose(dense_of(back["item"]), best, atol=1e-3)
    assert errors[0] > errors[-1]
    assert (np.diff(errors) < 1e-5).all()  # subspace iteration only gets closer
    # One step by hand, from the same start.
    q = np.asarray(codec.init(SHARED)[2])
    matrix = dense_of(some["item"])
    p = np.linalg.qr(matrix @ q)[0]
    _, first, _ = sent(codec, some)
    np.testing.assert_allclose(dense_of(first["item"]), p @ (p.T @ matrix), atol=1e-5)


def test_who_sends_nothing_keeps_its_subspace():
    codec = power_sgd(2)
    _, _, state = sent(codec, delta())
    nothing = jax.tree.map(jnp.zeros_like, delta())
    nothing["item"] = rows.Rows(ids=jnp.full(4, I), values=jnp.ones((4, D)), num_rows=I)
    message, back, after = sent(codec, nothing, state)
    assert (dense_of(back["item"]) == 0).all()
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(message["item"].left.bits) == int(message["item"].right.bits) == 0


@pytest.mark.parametrize(
    "codec",
    [
        colr({"item": orthonormal(KEY, 3, D)}),
        colr({"item": orthonormal(KEY, 3, D)}, touched_only=True),
        svd(2),
        power_sgd(2),
    ],
    ids=["colr", "colr touched", "svd", "power_sgd"],
)
def test_sizes_are_what_serialising_takes(codec):
    for touched in ((), (4,), (7, 2, 29, 11, 5), tuple(range(25))):
        message, _, _ = sent(codec, delta(touched=touched))
        bits = int(num_bits(message))
        assert len(serialize(message)) == -(-bits // 8)


def test_ranks_are_checked():
    with pytest.raises(ValueError, match="rank=0: expected at least 1"):
        svd(0)
