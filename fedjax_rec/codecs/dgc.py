"""Deep gradient compression: momentum corrected for what is held back."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.codecs import memory
from fedjax_rec.codecs.links import Chain, Quantizer
from fedjax_rec.codecs.order import table_length
from fedjax_rec.codecs.share import Share, share
from fedjax_rec.codecs.sparsify import largest_share
from fedjax_rec.codecs.whole import joined, leafwise
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.messages import MessageTransform, Sender

WARM_UP = (0.25, 0.0625, 0.015625, 0.004, 0.001)
"""Shares sent, message by message: sparsity of 75, 93.75, 98.4375, 99.6, 99.9 %."""


def dgc(
    *links: Quantizer | Chain,
    kept: tuple[float, ...] = WARM_UP,
    momentum: float = 0.9,
    clip: float | None = None,
    scope: str = "leaf",
) -> MessageTransform:
    """Top-k with momentum correction, local clipping, factor masking and warm-up.

    `u' = m u + clip(delta)`, `v' = v + u'`; the largest of `v'` go, and where they went
    `v` keeps what was not sent of it and `u` starts anew, so that stale momentum does
    not push them on. The server must have no momentum of its own.

    Args:
        *links: what the kept values go through; nothing is float32.
        kept: the share sent of a client's first message, its second, and so on; the
            last holds from then on. The paper changes it by epochs, this by messages.
        momentum: `m` in [0, 1).
        clip: largest 2-norm of a delta, over all its leaves; `None` for no clipping.
            The paper divides its gradient's bound by the square root of the clients.
        scope: `leaf` for a budget a leaf, `global` for one of all leaves together.

    Returns:
        A codec whose state is twice shaped like the shared parameters, and a counter of
        the client's messages.

    Raises:
        ValueError: for numbers outside these ranges.

    References:
        Lin et al., Deep Gradient Compression: Reducing the Communication Bandwidth for
        Distributed Training, ICLR 2018.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum lies in [0, 1), got {momentum}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is a positive norm or None, got {clip}")
    if scope not in ("leaf", "global"):
        raise ValueError(f"scope is 'leaf' or 'global', got {scope!r}")
    if not kept:
        raise ValueError("kept needs at least one share, of the messages after warm-up")
    steps = [share(fraction) for fraction in kept]
    whole = leafwise if scope == "leaf" else joined

    def inner(now: Share) -> MessageTransform:
        return whole(largest_share(now, max(kept)), *links)

    def init(shared: Tree) -> Tree:
        return {
            "momentum": memory.zeros(shared),
            "held": memory.zeros(shared),
            "messages": jnp.zeros((), jnp.int32),
        }

    def encode(delta: Tree, state: Tree, sender: Sender) -> tuple[Tree, Tree]:
        step = jnp.minimum(state["messages"], len(steps) - 1)
        now = Share(
            jnp.array([s.over for s in steps])[step],
            jnp.array([s.under for s in steps])[step],
        )
        before = memory.read(state["momentum"], delta)
        moving = memory.plus(_clipped(delta, clip), before, momentum)
        held = memory.plus(moving, memory.read(state["held"], delta))
        coder = inner(now)
        message, _ = coder.encode(held, (), sender)
        sent = memory.aligned(coder.decode(message), held, coder.every_row)
        state = {
            "momentum": memory.write(state["momentum"], _forget(moving, sent)),
            "held": memory.write(state["held"], memory.plus(held, sent, -1)),
            "messages": state["messages"] + 1,
        }
        return message, state

    return MessageTransform(init, encode, inner(steps[-1]).decode)


def _clipped(delta: Tree, clip: float | None) -> Tree:
    if clip is None:
        return delta

    def squares(leaf):
        if not rows.is_rows(leaf):
            return jnp.square(leaf).sum()
        real = _real(leaf)
        return jnp.where(real, jnp.square(leaf.values), 0).sum()

    leaves = jax.tree.leaves(delta, is_leaf=rows.is_rows)
    norm = jnp.sqrt(sum(squares(leaf) for leaf in leaves))
    factor = jnp.minimum(1, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    return jax.tree.map(
        lambda leaf: (
            dataclasses.replace(leaf, values=leaf.values * factor)
            if rows.is_rows(leaf)
            else leaf * factor
        ),
        delta,
        is_leaf=rows.is_rows,
    )


def _real(leaf: rows.Rows) -> Array:
    mask = leaf.ids < table_length(leaf)
    return mask.reshape(mask.shape + (1,) * (leaf.values.ndim - 1))


def _forget(momentum: Tree, sent: Tree) -> Tree:
    """Zero where something was sent (factor masking)."""

    def leaf(before, gone):
        if not rows.is_rows(before):
            return jnp.where(gone != 0, 0, before)
        values = jnp.where(gone.values != 0, 0, before.values)
        return dataclasses.replace(before, values=values)

    return jax.tree.map(leaf, momentum, sent, is_leaf=rows.is_rows)
