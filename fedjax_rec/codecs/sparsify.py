"""Sparsifiers: some entries or rows go, the others count as zero."""

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.links import Count, Parts, RowStage, Stage
from fedjax_rec.codecs.select import Places, largest, magnitude, pack, places
from fedjax_rec.codecs.share import Share, share
from fedjax_rec.codecs.wire import coded_ids, unsigned
from fedjax_rec.types import Array


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
    """Entries at random, drawn from a seed of 32 bits that goes instead of their ids.

    Args:
        fraction: `k / n`, of the real entries, in (0, 1].
        unbiased: multiply by `n / k`. Under error feedback leave it off: what is
            magnified there grows without bound.

    References:
        Wangni et al., Gradient Sparsification for Communication-Efficient Distributed
        Optimization, NeurIPS 2018.
    """
    part = share(fraction)

    def drawn(seed: Array, n: int, count: Count) -> Places:
        # The k largest of random numbers; below 2^31 they order as int32.
        numbers = jax.random.bits(jax.random.key(seed), (n,), jnp.uint32) >> 1
        numbers = jnp.where(jnp.arange(n) < count, numbers.astype(jnp.int32), -1)
        return largest(numbers, part.of(count), part.of(n))

    def factor(count: Count) -> Array | float:
        if not unbiased:
            return 1.0
        k = jnp.maximum(part.of(count), 1)
        return jnp.asarray(count, jnp.float32) / k.astype(jnp.float32)

    def encode(values: Array, count: Count, key: Array):
        seed = jax.random.bits(key, (), jnp.uint32)
        at = drawn(seed, len(values), count).at
        kept = values.at[at].get(mode="fill", fill_value=0)
        return {"seed": unsigned(seed[None], 1, 32)}, kept, part.of(count)

    def passed(parts: Parts, n: int, count: Count):
        return part.of(n), part.of(count)

    def decode(parts: Parts, values: Array, n: int, count: Count) -> Array:
        at = drawn(parts["seed"].values[0], n, count).at
        scaled = values * factor(count)
        return jnp.zeros(n).at[at].set(scaled, mode="drop")

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
