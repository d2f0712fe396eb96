"""Quantizers: levels by hand, errors against their bounds, means by a z-test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.codecs import dither, evenly
from fedjax_rec.codecs.quantize import BF16, QSGD, BlockInt, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, RotatedQSGD
from tests.codecs.deltas import coded, relative_error, sender

KEY = jax.random.key(0)


def many(settings, x, number=20_000):
    codec, delta = settings.plain(), {"w": jnp.asarray(x, jnp.float32)}

    def one(key):
        return codec.decode(codec.encode(delta, (), sender(key))[0])["w"]

    keys = jax.random.split(jax.random.key(1), number)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


STOCHASTIC = {
    "qsgd": QSGD(bits=3, bucket=8, norm="l2"),
    "qsgd max": QSGD(bits=2, bucket=None),
    "terngrad": TernGrad(clip=None),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_rounding_is_unbiased(name):
    x = np.random.default_rng(0).normal(size=20).astype(np.float32)
    x[3] = 0
    result = many(STOCHASTIC[name], x)
    deviation = result.std(0)
    fixed = deviation < 1e-6  # on a level already
    np.testing.assert_allclose(result.mean(0)[fixed], x[fixed], rtol=1e-4, atol=1e-6)
    z = (result.mean(0) - x)[~fixed] / (deviation[~fixed] / np.sqrt(len(result)))
    assert np.abs(z).max() < stats.norm.isf(0.001 / 2 / len(x))  # Bonferroni


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("size", [4, 64])
def test_the_variance_of_qsgd_keeps_its_bound(bits, size):
    x = np.random.default_rng(bits).normal(size=size).astype(np.float32)
    result = many(QSGD(bits=bits, bucket=size, norm="l2"), x, 2000)
    s = 2 ** (bits - 1) - 1
    error = np.square(result - x).sum(1).mean() / np.square(x).sum()
    assert error <= min(size / s**2, np.sqrt(size) / s) * 1.05
    # Exactly: the variance of each number between its two levels.
    level = np.abs(x) / np.linalg.norm(x) * s
    part = level - np.floor(level)
    exact = (part * (1 - part)).sum() / s**2  # of ||x||^2
    assert error == pytest.approx(exact, rel=0.1)


def test_qsgd_by_hand():
    x = [3.0, 0.0, -4.0, 0.0, 0.0]  # norm 5 in the first bucket, 0 in the second
    result, bits = coded(QSGD(bits=2, bucket=4, norm="l2"), x)
    assert set(np.abs(result)) <= {0, 5}
    assert result[0] >= 0 >= result[2]
    assert bits == 5 * 2 + 2 * 32
    on_levels = [1.0, -2.0, 3.0, 0.0]
    result, _ = coded(QSGD(bits=3), on_levels)
    np.testing.assert_allclose(result, on_levels, rtol=1e-6)


def spread(x, scale, levels):
    """The expected squared error of stochastic rounding to levels of `scale`."""
    level = np.abs(x) / scale * levels
    part = level - np.floor(level)
    return (part * (1 - part)).sum() * (scale / levels) ** 2


@pytest.mark.parametrize(
    ("codec", "size", "scale", "known"),
    [
        (QSGD(), 512, lambda x: np.abs(x).max(), 0.036),
        (QSGD(norm="l2"), 512, np.linalg.norm, 1.58),
        (RotatedQSGD(), 256, lambda x: np.abs(x).max(), 0.032),
        (RotatedQSGD(norm="l2"), 256, np.linalg.norm, 0.86),
    ],
)
def test_the_error_of_four_bits_of_fixed_width(codec, size, scale, known):
    """By default the largest number of a bucket is on the last level.

    A rotation of normal numbers is normal.
    """
    x = np.random.default_rng(0).normal(size=(200, size))
    expected = sum(spread(row, scale(row), 7) for row in x) / np.square(x).sum()
    assert expected == pytest.approx(known, rel=0.03)
    result, bits = coded(codec, x.reshape(-1))
    error = relative_error(x.reshape(-1), result)
    assert error == pytest.approx(expected, rel=0.03)
    seed = 32 if isinstance(codec, RotatedQSGD) else 0
    assert bits == 200 * (4 * size + 32) + seed


def test_elias_codes_of_levels_of_the_2_norm():
    """1.74 bits: a gamma code of the magnitude plus one, and a sign unless it is 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 512))
    level = 7 * np.abs(x) / np.linalg.norm(x, axis=1, keepdims=True)
    level = np.floor(level + rng.random(x.shape))
    bits = 1 + 2 * np.floor(np.log2(level + 1)) + (level > 0)
    assert bits.mean() == pytest.approx(1.74, abs=0.01)
    assert (level == 0).mean() == pytest.approx(0.75, abs=0.01)


def test_dither_is_below_one_at_its_largest_hash():
    """24 bits and a half do not fit into a float32, and became 1.0."""
    largest = jnp.uint32(2**32 - 1)
    assert 0 < float(dither.uniform(jnp.uint32(0))) == 2.0**-24
    assert float(dither.uniform(largest)) == 1 - 2.0**-24
    drawn = np.asarray(dither.dither(KEY, 100_000), np.float64)
    assert np.abs(drawn - 0.5).max() < 0.5
    assert stats.kstest(drawn, "uniform").pvalue > 0.001
    steps = drawn * 2**24
    np.testing.assert_array_equal(steps % 2, 1)  # centers of 2^23 even intervals


@pytest.mark.parametrize("bits", [4, 16])
def test_numbers_on_a_level_are_kept_at_any_dither(bits):
    """A level plus a dither just below one is rounded up in float32."""
    levels = 2 ** (bits - 1) - 1
    x = np.resize(np.arange(-levels, levels + 1), 200_000).astype(np.float32)
    result, _ = coded(QSGD(bits=bits, bucket=None), x)
    np.testing.assert_allclose(result, x, rtol=1e-6)


def test_terngrad_by_hand():
    x = [2.0, -2.0, 0.0, 2.0, 0.0, 1.0, 0.0]
    result, bits = coded(TernGrad(clip=None), x)
    np.testing.assert_array_equal(result[[0, 1, 2, 3, 4, 6]], [2, -2, 0, 2, 0, 0])
    assert result[5] in (0, 2)
    assert bits == 32 + 2 * 8
    # Mean 1, deviation 3: at half a deviation all is cut to 1.5.
    result, _ = coded(TernGrad(clip=0.5), [10.0] + 9 * [0.0])
    np.testing.assert_allclose(result, [1.5] + 9 * [0], rtol=1e-6)


@pytest.mark.parametrize(("clip", "known"), [(None, 1.74), (2.5, 1.01)])
def test_the_error_of_terngrad_by_its_clip(clip, known):
    x = np.random.default_rng(0).normal(size=(200, 1000))
    kept = x
    if clip is not None:
        bound = clip * x.std(1, keepdims=True)
        kept = np.clip(x, -bound, bound)
    largest = np.abs(kept).max(1, keepdims=True)
    variance = np.abs(kept) * (largest - np.abs(kept))
    errors = (variance + np.square(kept - x)).sum(1) / np.square(x).sum(1)
    assert errors.mean() == pytest.approx(known, rel=0.03)
    codec = TernGrad() if clip else TernGrad(clip=None)
    results = many(codec, x[0], 100)
    error = np.square(results - x[0]).sum(1).mean() / np.square(x[0]).sum()
    assert error == pytest.approx(errors[0], rel=0.02)


def test_trits_are_packed_five_to_a_byte():
    values = np.random.default_rng(0).integers(0, 3, 23)
    packed = evenly.pack_trits(jnp.asarray(values))
    assert len(packed) == 5
    assert int(packed.max()) < 243
    assert int(packed[0]) == sum(v * 3**i for i, v in enumerate(values[:5]))
    np.testing.assert_array_equal(evenly.unpack_trits(packed, 23), values)


@pytest.mark.parametrize("bits", [8, 4])
def test_block_int_rounds_to_the_nearest_level(bits):
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    result, size = coded(BlockInt(bits=bits, block=32), x)
    assert size == 100 * bits + 4 * 32
    levels = 2 ** (bits - 1) - 1
    for block in np.split(np.arange(100), [32, 64, 96]):
        largest = np.abs(x[block]).max()
        expected = np.round(x[block] / largest * levels) / levels * largest
        np.testing.assert_allclose(result[block], expected, rtol=1e-5, atol=1e-6)
        assert (
            np.abs(result[block] - x[block]).max() <= largest / (2**bits - 2) * 1.0001
        )


def test_bf16_keeps_eight_bits_of_precision():
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    result, size = coded(BF16(), x)
    assert size == 1600
    assert (np.abs(result - x) <= 2.0**-8 * np.abs(x)).all()
    np.testing.assert_array_equal(coded(BF16(), result)[0], result)


def test_signs_err_by_what_their_mean_leaves():
    x = np.array([1.0, -3.0, 0.0, 4.0])
    result, bits = coded(Sign(), x)
    np.testing.assert_array_equal(result, [2, -2, 2, 2])
    assert bits == 32 + 4
    x = np.random.default_rng(0).normal(size=50)
    result, _ = coded(Sign(), x)
    exact = 1 - np.abs(x).sum() ** 2 / 50 / np.square(x).sum()
    assert relative_error(x, result) == pytest.approx(exact, rel=1e-5)
    result, bits = coded(Sign(bucket=2), [1.0, 3.0, 5.0])
    np.testing.assert_array_equal(result, [2, 2, 5])
    assert bits == 2 * 32 + 3


@pytest.mark.parametrize(
    "codec",
    [QSGD(), QSGD(norm="l2"), TernGrad(), BlockInt(), Sign(), Drive(), BF16()],
)
def test_zeros_stay_zeros(codec):
    result, _ = coded(codec, np.zeros(5))
    np.testing.assert_array_equal(np.abs(result), np.zeros(5))
