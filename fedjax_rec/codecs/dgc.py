"""Deep gradient compression: top-k with momentum that accounts for delayed numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from etils import epy

from fedjax_rec.codecs.feedback import Codec, check_fields
from fedjax_rec.codecs.sparsify import Share, share, top_share
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import leaves, memory
    from fedjax_rec.core import messages, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class DGC:
    """Top-k with momentum correction, local clipping, factor masking and warm-up.

    `u' = m u + clip(delta)`, `v' = v + u'`; the largest of `v'` are sent. There `v`
    keeps the part that was not sent and `u` starts from zero, so that stale momentum
    does not push them on. Without momentum this is error feedback. The state is twice
    shaped like the shared parameters. The server must have no momentum of its own.

    Attributes:
        fractions: share of the numbers sent in a client's first message, its second,
            and so on; the last one holds from then on. The paper changes it by epochs.
            The default is a sparsity of 75, 93.75, 98.4375, 99.6 and 99.9 %.
        momentum: `m` in [0, 1).
        clip: largest 2-norm of a delta, over all its leaves; `None` for no clipping.
            The paper divides its gradient's bound by the square root of the clients.
        scope: the largest of each `leaf`, or of `all` leaves together.
        then: codec of the numbers that are sent; `None` for float32.

    References:
        Lin et al., Deep Gradient Compression: Reducing the Communication Bandwidth for
        Distributed Training, ICLR 2018.
    """

    fractions: tuple[float, ...] = (0.25, 0.0625, 0.015625, 0.004, 0.001)
    momentum: float = 0.9
    clip: float | None = None
    scope: Literal["leaf", "all"] = "leaf"
    then: Codec | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.fractions:
            raise ValueError("fractions=(): expected at least one share")
        for fraction in self.fractions:
            share(fraction)
        if self.momentum >= 1:
            raise ValueError(f"momentum={self.momentum}: expected a number in [0, 1)")
        if self.clip == 0:
            raise ValueError("clip=0: expected a positive norm, or None")

    def build(self, context: Context) -> messages.MessageTransform:
        """The codec of a delta; it depends on no fact about the experiment."""
        shares = [share(fraction) for fraction in self.fractions]

        def init(shared):
            return {
                "momentum": memory.zeros(shared),
                "held": memory.zeros(shared),
                "messages": jnp.zeros((), jnp.int32),
            }

        def encode(delta, state, sender):
            step = jnp.minimum(state["messages"], len(shares) - 1)
            part = Share(*(jnp.array(x)[step] for x in zip(*shares, strict=True)))
            codec = self._codec(part)
            clipped = delta if self.clip is None else _clipped(delta, self.clip)
            before = memory.read(state["momentum"], delta)
            moving = memory.plus(clipped, before, self.momentum)
            held = memory.plus(moving, memory.read(state["held"], delta))
            message, _ = codec.encode(held, (), sender)
            sent = memory.aligned(codec.decode(message), held, codec.every_row)
            left = rows.map_values(lambda u, x: jnp.where(x != 0, 0, u), moving, sent)
            state = {
                "momentum": memory.write(state["momentum"], left),
                "held": memory.write(state["held"], memory.plus(held, sent, -1)),
                "messages": state["messages"] + 1,
            }
            return message, state

        decode = self._codec(shares[-1]).decode
        return messages.MessageTransform(
            init,
            encode,
            decode,
            schedule=len(shares),
            sparse=min(self.fractions) < 1,
            own_momentum=True,
        )

    def _codec(self, part: Share) -> messages.MessageTransform:
        link = top_share(part, max(self.fractions), self.then)
        codec = leaves.SCOPES[self.scope](link)
        return codec.contracting or codec  # what is not sent is held, as by feedback


def _clipped(delta: Any, clip: float) -> Any:
    def squares(leaf):
        if not rows.is_rows(leaf):
            return jnp.square(leaf).sum()
        return jnp.square(leaves.in_order(leaf)[0].values).sum()

    norm = jnp.sqrt(sum(map(squares, jax.tree.leaves(delta, is_leaf=rows.is_rows))))
    factor = jnp.minimum(1, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    return rows.map_values(lambda x: x * factor, delta)
