"""The count sketch as a message: linear, of one size whatever a client touched."""

from fedjax_rec.codecs.wire import floats
from fedjax_rec.core import count_sketch as sketches
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.messages import MessageTransform, Sender


def count_sketch(
    shared: Tree, *, repeats: int = 5, columns: int = 10_000
) -> MessageTransform:
    """Sends `repeats x columns` numbers; what is decoded is the sketch itself.

    Encoding commutes with sums, so the server adds up sketches and looks for the large
    numbers in the sum: `aggregators.fetch_sgd` with the same sizes takes them.

    Args:
        shared: the shared parameters, or their shapes.
        repeats: rows of the sketch.
        columns: buckets of each.

    References:
        Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with
        Sketching, ICML 2020.
    """
    lengths = rows.table_lengths(shared)

    def encode(delta: Tree, state: Tree, sender: Sender):
        del sender
        found = sketches.sketch(delta, lengths, repeats, columns)
        return {"sketch": floats(found.reshape(-1), found.size)}, state

    def decode(message: Tree) -> Tree:
        return {"sketch": message["sketch"].values.reshape(repeats, columns)}

    return MessageTransform(lambda shared: (), encode, decode)
