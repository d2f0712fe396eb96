"""Error feedback: what a codec left out is added to the next message."""

from fedjax_rec.codecs import memory
from fedjax_rec.core.arrays import Tree, struct
from fedjax_rec.core.messages import MessageTransform, Sender


def error_feedback(codec: MessageTransform) -> MessageTransform:
    """Sends `C(delta + e)` and keeps `e' = delta + e - C(delta + e)`.

    What has been decoded so far plus what is kept is the sum of all deltas. The
    residual of a row waits until the client touches that row again. It goes with codecs
    that contract; a stochastic one that magnifies (`random_k(unbiased=True)`) makes the
    residual grow without bound.

    Args:
        codec: of any kind; its own state is kept beside the residual.

    Returns:
        A codec whose state is shaped like the shared parameters.

    References:
        Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014. Karimireddy
        et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes,
        ICML 2019.
    """

    def init(shared: Tree) -> Tree:
        return {"residual": memory.zeros(shared), "inner": codec.init(shared)}

    def encode(delta: Tree, state: Tree, sender: Sender) -> tuple[Tree, Tree]:
        residual = state["residual"]
        wanted = memory.plus(delta, memory.read(residual, delta))
        message, inner = codec.encode(wanted, state["inner"], sender)
        decoded = memory.aligned(codec.decode(message), wanted, codec.every_row)
        residual = memory.write(residual, memory.plus(wanted, decoded, -1))
        return message, {"residual": residual, "inner": inner}

    return MessageTransform(init, encode, codec.decode, codec.every_row)


@struct
class Known:
    """A message and what the server knows without it.

    Attributes:
        sent: the message; what goes over the wire.
        estimate: the server's copy of the client's estimate, the sum of all its earlier
            messages.
    """

    sent: Tree
    estimate: Tree


def ef21(codec: MessageTransform) -> MessageTransform:
    """Sends `c = C(delta - g)`; both sides then hold `g' = g + c`, which is decoded.

    Of a table the rows that the client touches take part in a round; the estimate of
    other rows waits. Of a row that the codec leaves out nothing is decoded.

    Args:
        codec: one that contracts.

    Returns:
        A codec whose state is shaped like the shared parameters.

    References:
        Richtarik et al., EF21: A New, Simpler, Theoretically Better, and Practically
        Faster Error Feedback, NeurIPS 2021.
    """

    def init(shared: Tree) -> Tree:
        return {"estimate": memory.zeros(shared), "inner": codec.init(shared)}

    def encode(delta: Tree, state: Tree, sender: Sender) -> tuple[Tree, Tree]:
        estimate = memory.read(state["estimate"], delta)
        wanted = memory.plus(delta, estimate, -1)
        sent, inner = codec.encode(wanted, state["inner"], sender)
        decoded = codec.decode(sent)
        known = memory.aligned(estimate, decoded, codec.every_row)
        message = Known(sent=sent, estimate=known)
        estimate = memory.plus(
            estimate, memory.aligned(decoded, estimate, codec.every_row)
        )
        new = memory.write(state["estimate"], estimate)
        return message, {"estimate": new, "inner": inner}

    def decode(message: Known) -> Tree:
        return memory.plus(codec.decode(message.sent), message.estimate)

    return MessageTransform(init, encode, decode, codec.every_row)
