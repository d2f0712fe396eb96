"""Laws of the numbers that a codec decodes."""

from typing import Any

import jax
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.testing.client_delta import NUM_ITEMS, SCALES, SHARED, delta_of, dense
from fedjax_rec.testing.codecs import Codec
from fedjax_rec.testing.compare import check_finite, require
from fedjax_rec.testing.law import LawBroken, NotApplicable

TRIES = 4
"""Deltas and keys over which numbers are averaged."""


def zeros_are_finite(codec: Codec) -> None:
    """A delta of zeros is decoded as finite numbers"""
    zeros = rows.map_values(lambda x: 0 * x, delta_of(0))
    check_finite(_decoded(codec, zeros, 0), "the decoded delta of zeros")


def decoded_numbers_point_along(codec: Codec) -> str:
    """Positive and negative numbers are decoded with their signs, in equal sizes"""
    lost = []
    for scale in SCALES:
        shares = _shares(codec, scale)
        if scale < 1 and not any(shares.values()):
            lost.append(f"{scale:g}")
            continue
        for name, share in shares.items():
            require(
                share > 0,
                f"the {name} numbers of deltas of scale {scale:g} are decoded as "
                f"{share:.3g} times themselves, on average over {TRIES} deltas and "
                "keys; expected more than 0 (numbers are lost at 0, and change their "
                "signs below)",
            )
        one, other = shares["positive"], shares["negative"]
        require(
            0.5 <= one / other <= 2,
            f"the same numbers of deltas of scale {scale:g} are decoded as {one:.3g} "
            f"times themselves if they are positive, and as {other:.3g} times if they "
            "are negative; expected the same",
        )
    return f"deltas of scale {', '.join(lost)} are decoded as zeros" if lost else ""


def sparse_is_true(codec: Codec) -> None:
    """`sparse` is declared if most numbers are decoded as zeros"""
    if codec.transform.sparse:
        raise NotApplicable("sparse=True is declared")
    try:
        decoded_numbers_point_along(codec)
    except LawBroken as error:
        raise NotApplicable("numbers of one sign are not decoded as such") from error
    always, tries, state = None, 8, codec.states[0]
    for seed in range(tries):
        message, state = codec.encode(delta_of(0), state, jax.random.key(seed))
        table, w = dense(codec.transform.decode(message)).values()
        sent = np.asarray(delta_of(0)["item"].ids)
        numbers = np.concatenate([table[sent[sent < NUM_ITEMS]].ravel(), w.ravel()])
        zero = numbers == 0
        always = zero if always is None else always & zero
    assert always is not None
    require(
        always.mean() <= 0.5,
        f"{always.sum()} of {len(always)} numbers of a delta are decoded as zero in "
        f"{tries} of {tries} messages, and none of them is: declare sparse=True, so "
        "that rules that decide each number from the clients' values of it are refused",
    )


def _shares(codec: Codec, scale: float) -> dict[str, float]:
    """Decoded parts of the same numbers, as positive and as negative ones.

    Half of the numbers are positive in a delta, and the others in its opposite. What a
    delta of zeros is decoded as, such as noise, is subtracted.
    """
    along, own = np.zeros(2), 0.0
    for seed in range(TRIES):
        delta = delta_of(seed, scale=scale)
        zeros, plus, minus = (
            _flat(_decoded(codec, rows.map_values(lambda x, k=k: k * x, delta), seed))
            for k in (0, 1, -1)
        )
        x = _flat(dense(delta))
        as_positive, as_negative = plus - zeros, zeros - minus
        positive = x > 0
        along[0] += x[positive] @ as_positive[positive]
        along[0] += x[~positive] @ as_negative[~positive]
        along[1] += x[positive] @ as_negative[positive]
        along[1] += x[~positive] @ as_positive[~positive]
        own += x @ x
    return dict(zip(("positive", "negative"), (along / own).tolist(), strict=True))


def _decoded(codec: Codec, delta: Any, seed: int) -> Any:
    state = codec.transform.init(SHARED)
    message, _ = codec.encode(delta, state, jax.random.key(seed))
    return dense(codec.decode(message))


def _flat(delta: Any) -> np.ndarray:
    return np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in (delta["item"], delta["w"])]
    )


LAWS = (zeros_are_finite, decoded_numbers_point_along, sparse_is_true)
