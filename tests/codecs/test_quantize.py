"""Quantizers: levels by hand, errors against their bounds, means by a z-test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from fedjax_rec.codecs import (
    bf16,
    block_int,
    drive,
    leafwise,
    num_bits,
    qsgd,
    rotate,
    sign,
    terngrad,
    trits,
)

KEY = jax.random.key(0)


def coded(codec, x, key=KEY):
    message, _ = codec.encode({"w": jnp.asarray(x, jnp.float32)}, (), key)
    return np.asarray(codec.decode(message)["w"]), int(num_bits(message))


def many(codec, x, number=20_000):
    keys = jax.random.split(jax.random.key(1), number)
    delta = {"w": jnp.asarray(x, jnp.float32)}
    one = lambda k: codec.decode(codec.encode(delta, (), k)[0])["w"]  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


def relative_error(x, got):
    return np.square(got - x).sum() / np.square(x).sum()


STOCHASTIC = {
    "qsgd": qsgd(bits=3, bucket=8),
    "qsgd max": qsgd(bits=2, bucket=None, norm="max"),
    "terngrad": terngrad(),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_rounding_is_unbiased(name):
    x = np.random.default_rng(0).normal(size=20).astype(np.float32)
    x[3] = 0
    got = many(leafwise(STOCHASTIC[name]), x)
    deviation = got.std(0)
    fixed = deviation < 1e-6  # on a level already
    np.testing.assert_allclose(got.mean(0)[fixed], x[fixed], rtol=1e-4, atol=1e-6)
    z = (got.mean(0) - x)[~fixed] / (deviation[~fixed] / np.sqrt(len(got)))
    assert np.abs(z).max() < stats.norm.isf(0.001 / 2 / len(x))  # Bonferroni


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("size", [4, 64])
def test_the_variance_of_qsgd_keeps_its_bound(bits, size):
    x = np.random.default_rng(bits).normal(size=size).astype(np.float32)
    got = many(leafwise(qsgd(bits=bits, bucket=size)), x, 2000)
    s = 2 ** (bits - 1) - 1
    error = np.square(got - x).sum(1).mean() / np.square(x).sum()
    assert error <= min(size / s**2, np.sqrt(size) / s) * 1.05
    # Exactly: the variance of each number between its two levels.
    level = np.abs(x) / np.linalg.norm(x) * s
    part = level - np.floor(level)
    exact = (part * (1 - part)).sum() / s**2  # of ||x||^2
    assert error == pytest.approx(exact, rel=0.1)


def test_qsgd_by_hand():
    x = [3.0, 0.0, -4.0, 0.0, 0.0]  # norm 5 in the first bucket, 0 in the second
    got, bits = coded(leafwise(qsgd(bits=2, bucket=4)), x)
    assert set(np.abs(got)) <= {0, 5}
    assert got[0] >= 0 >= got[2]
    assert bits == 5 * 2 + 2 * 32
    on_levels = [1.0, -2.0, 3.0, 0.0]
    got, _ = coded(leafwise(qsgd(bits=3, norm="max")), on_levels)
    np.testing.assert_allclose(got, on_levels, rtol=1e-6)


def test_terngrad_by_hand():
    x = [2.0, -2.0, 0.0, 2.0, 0.0, 1.0, 0.0]
    got, bits = coded(leafwise(terngrad()), x)
    np.testing.assert_array_equal(got[[0, 1, 2, 3, 4, 6]], [2, -2, 0, 2, 0, 0])
    assert got[5] in (0, 2)
    assert bits == 32 + 2 * 8
    # Mean 1, deviation 3: at half a deviation all is cut to 1.5.
    got, _ = coded(leafwise(terngrad(clip=0.5)), [10.0] + 9 * [0.0])
    np.testing.assert_allclose(got, [1.5] + 9 * [0], rtol=1e-6)


def test_trits_are_packed_five_to_a_byte():
    values = np.random.default_rng(0).integers(0, 3, 23)
    packed = trits.pack(jnp.asarray(values))
    assert len(packed) == 5
    assert int(packed.max()) < 243
    assert int(packed[0]) == sum(v * 3**i for i, v in enumerate(values[:5]))
    np.testing.assert_array_equal(trits.unpack(packed, 23), values)


@pytest.mark.parametrize("bits", [8, 4])
def test_block_int_rounds_to_the_nearest_level(bits):
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    got, size = coded(leafwise(block_int(bits, block=32)), x)
    assert size == 100 * bits + 4 * 32
    levels = 2 ** (bits - 1) - 1
    for block in np.split(np.arange(100), [32, 64, 96]):
        largest = np.abs(x[block]).max()
        want = np.round(x[block] / largest * levels) / levels * largest
        np.testing.assert_allclose(got[block], want, rtol=1e-5, atol=1e-6)
        assert np.abs(got[block] - x[block]).max() <= largest / (2**bits - 2) * 1.0001


def test_bf16_keeps_eight_bits_of_precision():
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    got, size = coded(leafwise(bf16()), x)
    assert size == 1600
    assert (np.abs(got - x) <= 2.0**-8 * np.abs(x)).all()
    np.testing.assert_array_equal(coded(leafwise(bf16()), got)[0], got)


def test_signs_err_by_what_their_mean_leaves():
    x = np.array([1.0, -3.0, 0.0, 4.0])
    got, bits = coded(leafwise(sign()), x)
    np.testing.assert_array_equal(got, [2, -2, 2, 2])
    assert bits == 32 + 4
    x = np.random.default_rng(0).normal(size=50)
    got, _ = coded(leafwise(sign()), x)
    exact = 1 - np.abs(x).sum() ** 2 / 50 / np.square(x).sum()
    assert relative_error(x, got) == pytest.approx(exact, rel=1e-5)
    got, bits = coded(leafwise(sign(bucket=2)), [1.0, 3.0, 5.0])
    np.testing.assert_array_equal(got, [2, 2, 5])
    assert bits == 2 * 32 + 3


@pytest.mark.parametrize("n", [1, 6, 64, 300, 1000])
def test_rotation_is_orthonormal_and_undone(n):
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    stage = rotate(256)
    parts, rotated, count = stage.encode(jnp.asarray(x), n, KEY)
    assert (
        count
        == len(rotated)
        == (256 * -(-n // 256) if n > 128 else 2 ** (n - 1).bit_length())
    )
    np.testing.assert_allclose(np.linalg.norm(rotated), np.linalg.norm(x), rtol=1e-5)
    np.testing.assert_allclose(stage.decode(parts, rotated, n, n), x, atol=1e-5)


@pytest.mark.parametrize("block", [8, 256, 1024])
def test_rotation_is_the_hadamard_matrix_times_random_signs(block):
    stage = rotate(block)
    rotated = jax.vmap(lambda x: stage.encode(x, block, KEY)[1])
    columns = np.asarray(rotated(jnp.eye(block)))
    plain = linalg.hadamard(block) / np.sqrt(block)
    for column, want in zip(columns, plain, strict=True):
        match = np.allclose(column, want, atol=1e-6)
        assert match or np.allclose(column, -want, atol=1e-6)


def test_drive_keeps_the_projection_and_beats_plain_signs():
    x = np.random.default_rng(0).normal(size=1024) ** 3
    got, bits = coded(leafwise(drive(256)), x)
    assert bits == 32 + 1024 + 4 * 32
    # <x, C(x)> = ||x||^2, the scale's definition, block by block.
    for a, b in zip(np.split(x, 4), np.split(got, 4), strict=True):
        assert a @ b == pytest.approx(a @ a, rel=1e-4)
    # Of a rotated vector, near Gaussian, signs leave pi / 2 - 1.
    keys = [jax.random.key(i) for i in range(10)]
    errors = [relative_error(x, coded(leafwise(drive(256)), x, k)[0]) for k in keys]
    error = np.mean(errors)
    assert error == pytest.approx(np.pi / 2 - 1, rel=0.1)
    plain, _ = coded(leafwise(sign(256, "projection")), x)
    assert relative_error(x, plain) > 2 * error


@pytest.mark.parametrize(
    "quantizer",
    [qsgd(), qsgd(norm="max"), terngrad(2.5), block_int(), sign(), drive(), bf16()],
)
def test_zeros_stay_zeros(quantizer):
    got, _ = coded(leafwise(quantizer), np.zeros(5))
    np.testing.assert_array_equal(np.abs(got), np.zeros(5))


def test_what_makes_no_sense_is_refused():
    for wrong, message in [
        (lambda: qsgd(bits=1), "2 to 16 bits a number, got 1"),
        (lambda: qsgd(norm="l1"), "'l2' or 'max', got 'l1'"),
        (lambda: qsgd(bucket=0), "at least 1 number, got 0"),
        (lambda: block_int(1), "2 to 16 bits a number, got 1"),
        (lambda: terngrad(clip=0), "positive number of deviations"),
        (lambda: sign(scale="max"), "'mean' or 'projection', got 'max'"),
        (lambda: rotate(100), "power of two, got 100"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
