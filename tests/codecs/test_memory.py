"""Memories of the touched rows, and the rows that codecs decode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs import memory
from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.low_rank import PowerSGD
from fedjax_rec.codecs.quantize import QSGD
from fedjax_rec.codecs.sparsify import RowTopK, TopK
from fedjax_rec.core import rows
from fedjax_rec.core.messages import Sender
from tests.codecs.deltas import CONTEXT, SHARED, I, delta, dense, sender
from tests.codecs.every_codec import CODECS

CLIENTS, AT_ONCE = 5, np.array([3, 0, 9])  # the last is past the end: absent
THEN = TopK(fraction=0.5, then=QSGD(), feedback="none")
REMEMBERING = {
    "ef": RowTopK(fraction=0.5, then=THEN),
    "ef of every row": TopK(fraction=0.2),
    "ef, joined": TopK(fraction=0.2, scope="all"),
    "ef of power sgd": PowerSGD(rank=1),
    "ef21": RowTopK(fraction=0.5, then=THEN, feedback="ef21"),
    "ef21 of every row": TopK(fraction=0.2, feedback="ef21"),
    "dgc": DGC(fractions=(0.5, 0.2), clip=2.0),
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", REMEMBERING)
def test_the_touched_rows_of_a_memory_are_enough(name, ordered):
    """As in a round, against whole memories and rows in any order, one by one."""
    codec = REMEMBERING[name].build(CONTEXT)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    states = jax.vmap(lambda _: codec.init(SHARED))(jnp.arange(CLIENTS))
    alone = [codec.init(SHARED) for _ in range(CLIENTS)]
    axes = Sender(id=None, key=0, round_key=None, weight=None, personal=None)  # pyright: ignore

    @jax.jit
    def at_once(states, deltas, keys):
        if ordered:
            merge = jax.vmap(lambda item: rows.merge_repeats(item, I))
            deltas = {**deltas, "item": merge(deltas["item"])}
        taken = memory.take(states, jnp.asarray(AT_ONCE), deltas)
        send = jax.vmap(codec.encode, (0, 0, axes))
        message, new = send(deltas, taken, sender(keys))
        states = memory.put(states, jnp.asarray(AT_ONCE), new)
        return states, jax.vmap(codec.decode)(message)

    for i in range(4):
        batch = [delta(10 * i + c) for c in range(len(AT_ONCE))]
        deltas = jax.tree.map(lambda *x: jnp.stack(x), *batch)
        keys = jax.random.split(jax.random.key(i), len(AT_ONCE))
        states, decoded = at_once(states, deltas, keys)
        for place, client in enumerate(AT_ONCE[:2]):
            message, alone[client] = encode(
                batch[place], alone[client], sender(keys[place])
            )
            result = jax.tree.map(lambda x, p=place: x[p], decoded)
            np.testing.assert_allclose(
                dense(result), dense(decode(message)), rtol=1e-5, atol=1e-5
            )
    for client, expected in enumerate(alone):
        state = jax.tree.map(lambda x, c=client: x[c], states)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_decode_rows_in_order(name):
    codec, change = CODECS[name].build(CONTEXT), delta(0)
    item = rows.merge_repeats(change["item"], I)
    message, _ = codec.encode(
        {**change, "item": item}, codec.init(SHARED), sender(jax.random.key(0))
    )
    decoded = codec.decode(message)["item"]
    assert decoded.ordered
    if codec.every_row:
        np.testing.assert_array_equal(decoded.ids, item.ids)
    real = np.asarray(decoded.ids) < I
    assert (np.diff(np.asarray(decoded.ids)[real]) > 0).all()
    assert not np.asarray(decoded.values)[~real].any()
    assert not real[real.sum() :].any()
