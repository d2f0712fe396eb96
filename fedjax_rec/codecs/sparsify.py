"""Sparsifiers: some numbers or rows are sent, the others count as zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from etils import epy

from fedjax_rec.codecs.feedback import Codec, Feedback
from fedjax_rec.codecs.quantize import Float32

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import leaves, select, wire
    from fedjax_rec.core import messages, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparse(Codec):
    """Sends a share of the numbers or rows.

    Attributes:
        fraction: the share, in [1e-4, 1].
        then: codec of the numbers that are sent; `None` for float32.
    """

    fraction: float = 0.1
    then: Codec | None = None
    feedback: Feedback = "ef"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK(Sparse):
    """Sends the `k = ceil(fraction n)` largest numbers by magnitude.

    Of equal numbers the first are sent. `||x - C(x)||^2 <= (1 - k / n) ||x||^2`.

    Attributes:
        fraction: `k / n`, in [1e-4, 1], of a client's real numbers.
        scope: the `k` largest of each `leaf`, or of `all` leaves together.
        then: codec of the numbers that are sent; `None` for float32.

    References:
        Stich et al., Sparsified SGD with Memory, NeurIPS 2018.
    """

    scope: Literal["leaf", "all"] = "leaf"

    def link(self) -> leaves.Link:
        return top_share(share(self.fraction), self.fraction, self.then)

    def plain(self) -> messages.MessageTransform:
        return leaves.SCOPES[self.scope](self.link())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold(Codec):
    """Sends the numbers of at least `least` in magnitude; of too many the largest.

    Attributes:
        least: positive.
        most: share of a client's numbers there is room for, in [1e-4, 1].
        then: codec of the numbers that are sent; `None` for float32.

    References:
        Strom, Scalable Distributed DNN Training Using Commodity GPU Cloud Computing,
        Interspeech 2015.
    """

    least: float = 1e-3
    most: float = 1.0
    then: Codec | None = None
    feedback: Feedback = "ef"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.least > 0:
            raise ValueError(
                f"least={self.least}: expected a positive threshold, since zeros would "
                "be sent otherwise"
            )
        share(self.most)

    def link(self) -> leaves.Link:
        room = share(self.most)

        def keep(values: jax.Array, count: leaves.Count) -> select.Places:
            slots = room.of(len(values))
            enough = ~(jnp.abs(values) < self.least)  # sends NaN, so that it is seen
            if self.most == 1:
                return select.places(select.pack(enough), slots, len(values))
            k = jnp.minimum(enough.sum(), room.of(count))
            return select.largest(select.magnitude(values), k, slots)

        return _by_ids(keep, room, _link(self.then), sparse=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomK(Sparse):
    """Sends a random number of each of `k` even strata, and a 32-bit seed for the ids.

    The `n` numbers are cut into `k = ceil(fraction n)` runs of `w`, `n / k` rounded
    down or up. Drawing one of each costs `O(k)`, a uniform set of `k` `O(n)`; each
    number is sent with probability `1 / w` in either case, and the variance is no
    larger: `E ||x - C(x)||^2 = sum_i (w_i - 1) x_i^2 <= (ceil(n / k) - 1) ||x||^2`.

    Numbers are multiplied by `w`, which is unbiased, but not under feedback, which
    needs a codec that contracts.

    Attributes:
        fraction: `k / n`, in [1e-4, 1], of a client's real numbers.
        then: codec of the numbers that are sent; `None` for float32.

    References:
        Wangni et al., Gradient Sparsification for Communication-Efficient Distributed
        Optimization, NeurIPS 2018 (random sparsification, not stratified).
    """

    feedback: Feedback = "none"

    def link(self) -> leaves.Link:
        then = _link(self.then)
        contracting = self._link(_contracting(then), scaled=False)
        return self._link(then, scaled=True)._replace(contracting=contracting)

    def _link(self, then: leaves.Link, scaled: bool) -> leaves.Link:
        part = share(self.fraction)

        def drawn(
            seed: jax.Array, n: int, count: leaves.Count
        ) -> tuple[jax.Array, jax.Array]:
            """`(places [k slots], w [k slots])`."""
            k = part.of(count)
            least = jnp.maximum(k, 1)
            stratum = jnp.arange(part.of(n), dtype=jnp.int32)
            width, longer = count // least, count % least
            start = stratum * width + jnp.minimum(stratum, longer)
            width = width + (stratum < longer)
            bits = jax.random.bits(jax.random.key(seed), stratum.shape, jnp.uint32)
            uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24
            step = jnp.minimum((uniform * width).astype(jnp.int32), width - 1)
            return jnp.where(stratum < k, start + step, n), width

        def encode(values, count, key, place):
            seed = jax.random.bits(jax.random.fold_in(key, place), (), jnp.uint32)
            places, _ = drawn(seed, len(values), count)
            chosen = values.at[places].get(mode="fill", fill_value=0)
            return {
                "seed": wire.unsigned(seed[None], 1, 32),
                "then": then.encode(chosen, part.of(count), key, place + 1),
            }

        def decode(sent, n, count):
            values = then.decode(sent["then"], part.of(n), part.of(count))
            places, width = drawn(sent["seed"].values[0], n, count)
            values = values * width if scaled else values
            return jnp.zeros(n).at[places].set(values, mode="drop")

        return leaves.Link(encode, decode, sparse=self.fraction < 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowTopK(Sparse):
    """Sends the touched rows of a table with the largest norms, and dense leaves whole.

    Attributes:
        fraction: share of a client's touched rows, in [1e-4, 1].
        then: codec of the rows that are sent, and of dense leaves; `None` for float32.
    """

    def plain(self) -> messages.MessageTransform:
        codec = self._rows(_link(self.then))
        contracting = self._rows(_contracting(_link(self.then)))
        return codec._replace(contracting=contracting)

    def _rows(self, then: leaves.Link) -> messages.MessageTransform:
        part, codec = share(self.fraction), leaves.leafwise(then)

        def chosen(leaf):
            if not rows.is_rows(leaf):
                return leaf
            leaf, num_rows, count = leaves.in_order(leaf)
            r = len(leaf.ids)
            squares = jnp.square(leaf.values.astype(jnp.float32)).reshape(r, -1).sum(1)
            order = select.magnitude(squares)
            index = select.largest(order, part.of(count), part.of(r)).index
            ids = leaf.ids.at[index].get(mode="fill", fill_value=num_rows)
            values = leaf.values.at[index].get(mode="fill", fill_value=0)
            return dataclasses.replace(leaf, ids=ids, values=values)

        def encode(delta, state, sender):
            delta = jax.tree.map(chosen, delta, is_leaf=rows.is_rows)
            return codec.encode(delta, state, sender)

        return codec._replace(encode=encode, every_row=False)


class Share(NamedTuple):
    """A fraction `over / under`; both may be traced.

    In floating point `ceil(0.1 * 10)` can be 2, and differ between a static and a
    traced count.
    """

    over: jax.Array | int
    under: jax.Array | int

    def of(self, count: leaves.Count) -> Any:
        """`ceil(count * over / under)`, an int if all three are, for any int32 count.

        >>> share(0.1).of(10), share(0.1).of(11)
        (1, 2)
        """
        quotient, remainder = count // self.under, count % self.under
        top = remainder * self.over + self.under - 1
        return quotient * self.over + top // self.under


def share(fraction: float) -> Share:
    """The nearest fraction with a denominator of at most 10,000.

    Raises:
        ValueError: `fraction` is not in [1e-4, 1].
    """
    if not 1e-4 <= fraction <= 1:
        raise ValueError(f"a share must be between 0.0001 and 1, got {fraction}")
    exact = Fraction(fraction).limit_denominator(10_000)
    return Share(exact.numerator, exact.denominator)


def top_share(part: Share, most: float, then: Any) -> leaves.Link:
    """The link of `TopK`, with a share that may be traced and is at most `most`."""
    room = share(most)

    def keep(values: jax.Array, count: leaves.Count) -> select.Places:
        slots = room.of(len(values))
        return select.largest(select.magnitude(values), part.of(count), slots)

    return _by_ids(keep, room, _link(then), sparse=most < 1)


def _link(then: Any) -> leaves.Link:
    return (then or Float32()).link()


def _contracting(link: leaves.Link) -> leaves.Link:
    return link.contracting or link


def _by_ids(
    keep: Callable[..., Any], room: Share, then: leaves.Link, sparse: bool
) -> leaves.Link:
    def encode(values, count, key, place):
        places, number = keep(values, count)
        chosen = values.at[places].get(mode="fill", fill_value=0)
        return {
            "ids": wire.coded_ids(places, number),
            "then": then.encode(chosen, number, key, place + 1),
        }

    def decode(sent, n, count):
        ids = sent["ids"]
        values = then.decode(sent["then"], room.of(n), ids.count)
        places = jnp.where(jnp.arange(len(ids.values)) < ids.count, ids.values, n)
        return jnp.zeros(n).at[places].set(values, mode="drop")

    contracting = None
    if then.contracting is not None:
        contracting = _by_ids(keep, room, then.contracting, sparse)
    return leaves.Link(encode, decode, sparse, contracting)
