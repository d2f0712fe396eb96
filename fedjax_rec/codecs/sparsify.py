"""Sparsifiers: some entries or rows go, the others count as zero."""

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.links import Count, Parts, RowStage, Stage
from fedjax_rec.codecs.select import Places, largest, magnitude, pack, places
from fedjax_rec.codecs.share import Share, share
from fedjax_rec.codecs.wire import coded_ids, unsigned
from fedjax_rec.core.arrays import Array


def top_k(fraction: float) -> Stage:
    """The largest entries by magnitude: `k = ceil(fraction n)` of them, of equals the
    first.

    `||x - C(x)||^2 <= (1 - k / n) ||x||^2`. Within one leaf by `leafwise`, among all
    leaves together by `joined`.

    Args:
        fraction: of the real entries, in (0, 1].

    References:
        Stich et al., Sparsified SGD with Memory, NeurIPS 2018.
    """
    return largest_share(share(fraction), fraction)


def largest_share(kept: Share, most: float) -> Stage:
    """As `top_k`, with a share that may be traced but is never more than `most`."""
    room = share(most)

    def keep(values: Array, count: Count) -> Places:
        slots = room.of(len(values))
        return largest(magnitude(values), kept.of(count), slots)

    return _by_ids(keep, room)


def threshold(least: float, most: float = 1.0) -> Stage:
    """Entries of at least `least` in magnitude; of too many the largest.

    Args:
        least: positive.
        most: share of the entries there is room for.

    Raises:
        ValueError: if `least` is not positive: zeros would be sent, padding too.

    References:
        Strom, Scalable Distributed DNN Training Using Commodity GPU Cloud Computing,
        Interspeech 2015.
    """
    if not least > 0:
        raise ValueError(f"a threshold is positive, got {least}")
    room = share(most)

    def keep(values: Array, count: Count) -> Places:
        slots = room.of(len(values))
        enough = ~(jnp.abs(values) < least)  # NaN is sent, and so seen
        if most == 1:
            return places(pack(enough), slots, len(values))
        k = jnp.minimum(enough.sum(), room.of(count))
        return largest(magnitude(values), k, slots)

    return _by_ids(keep, room)


def random_k(fraction: float, unbiased: bool = True) -> Stage:
    """An entry at random of each of `k` even strata; a 32-bit seed goes for ids.

    The `n` entries are cut into `k = ceil(fraction n)` runs of `w`, `n / k` rounded
    down or up. One of each costs `O(k)` to draw, a uniform set of `k` costs `O(n)`;
    each entry still goes with probability `1 / w`, and the variance is no larger:
    `E ||x - C(x)||^2 = sum_i (w_i - 1) x_i^2 <= (ceil(n / k) - 1) ||x||^2`.

    Args:
        fraction: `k / n`, of the real entries, in (0, 1].
        unbiased: multiply by `w`. Under error feedback leave it off: what is
            magnified there grows without bound.

    References:
        Wangni et al., Gradient Sparsification for Communication-Efficient Distributed
        Optimization, NeurIPS 2018 (random sparsification, not stratified).
    """
    part = share(fraction)

    def drawn(seed: Array, n: int, count: Count) -> tuple[Array, Array]:
        """`(at [k slots], w [k slots])`."""
        k = part.of(count)
        least = jnp.maximum(k, 1)
        stratum = jnp.arange(part.of(n), dtype=jnp.int32)
        width, longer = count // least, count % least
        start = stratum * width + jnp.minimum(stratum, longer)
        width = width + (stratum < longer)
        bits = jax.random.bits(jax.random.key(seed), stratum.shape, jnp.uint32) >> 8
        uniform = bits.astype(jnp.float32) * 2.0**-24
        chosen = start + jnp.minimum((uniform * width).astype(jnp.int32), width - 1)
        return jnp.where(stratum < k, chosen, n), width

    def encode(values: Array, count: Count, key: Array):
        seed = jax.random.bits(key, (), jnp.uint32)
        at, _ = drawn(seed, len(values), count)
        kept = values.at[at].get(mode="fill", fill_value=0)
        return {"seed": unsigned(seed[None], 1, 32)}, kept, part.of(count)

    def passed(parts: Parts, n: int, count: Count):
        return part.of(n), part.of(count)

    def decode(parts: Parts, values: Array, n: int, count: Count) -> Array:
        at, width = drawn(parts["seed"].values[0], n, count)
        values = values * width if unbiased else values
        return jnp.zeros(n).at[at].set(values, mode="drop")

    return Stage(encode, passed, decode)


def row_top_k(fraction: float) -> RowStage:
    """Of a table the touched rows with the largest norms; dense leaves go whole.

    Args:
        fraction: of the client's touched rows, in (0, 1].
    """
    part = share(fraction)

    def select(values: Array, count: Array, key: Array) -> Places:
        del key
        squares = jnp.square(values).sum(1)
        return largest(magnitude(squares), part.of(count), part.of(len(values)))

    return RowStage(select)


def _by_ids(keep, room: Share) -> Stage:
    def encode(values: Array, count: Count, key: Array):
        del key
        found = keep(values, count)
        kept = values.at[found.at].get(mode="fill", fill_value=0)
        return {"ids": coded_ids(found.at, found.count)}, kept, found.count

    def passed(parts: Parts, n: int, count: Count):
        return room.of(n), parts["ids"].count

    def decode(parts: Parts, values: Array, n: int, count: Count) -> Array:
        ids = parts["ids"]
        at = jnp.where(jnp.arange(len(ids.values)) < ids.count, ids.values, n)
        return jnp.zeros(n).at[at].set(values, mode="drop")

    return Stage(encode, passed, decode)
