"""What clients keep between messages: sums telescope, and small cases by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs import (
    CODECS,
    dgc,
    ef21,
    error_feedback,
    joined,
    leafwise,
    memory,
    num_bits,
    qsgd,
    row_top_k,
    sign,
    top_k,
)
from fedjax_rec.codecs.low_rank import colr, power_sgd, svd
from fedjax_rec.core import rows

I, D = 12, 2  # noqa: E741
KEY = jax.random.key(0)
SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros((3, 2))}


def delta(seed):
    """Five touched rows, others each time, and two that are padding."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.r_[rng.choice(I, 5, replace=False), I, I])
    values = rng.normal(size=(7, D)) + 99 * (ids == I)[:, None]
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids), values=jnp.asarray(values, jnp.float32), num_rows=I
        ),
        "w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    }


def dense(tree):
    """`[I D + 6]`: a delta or a memory as one vector."""
    table = tree["item"]
    if rows.is_rows(table):
        table = rows.scatter_add(jnp.zeros((I, D)), table)
    else:
        table = table.values
    return np.concatenate([np.ravel(table), np.ravel(tree["w"])])


def run(codec, rounds, deltas=delta):
    """`(decoded, states)` of some messages in turn, after the initial state."""
    encode = jax.jit(codec.encode)
    state, decoded, states = codec.init(SHARED), [], []
    for i in range(rounds):
        message, state = encode(deltas(i), state, jax.random.key(i))
        decoded.append(dense(codec.decode(message)))
        states.append(state)
    return decoded, states


INNER = {
    "top-k": leafwise(top_k(0.2)),
    "global top-k": joined(top_k(0.2)),
    "rows, then top-k, then qsgd": leafwise(row_top_k(0.5), top_k(0.5), qsgd()),
    "signs": leafwise(sign()),
}


@pytest.mark.parametrize("name", INNER)
def test_error_feedback_telescopes(name):
    decoded, states = run(error_feedback(INNER[name]), 6)
    sent = sum(decoded)
    for_all = sum(dense(delta(i)) for i in range(6))
    residual = dense(states[-1]["residual"].tree)
    np.testing.assert_allclose(sent + residual, for_all, atol=1e-5)
    assert np.abs(residual).max() > 0.01
    assert np.abs(residual).max() < 20  # nothing of the padding's garbage


def test_error_feedback_by_hand():
    codec = error_feedback(leafwise(top_k(1 / 3)))
    state = codec.init({"w": jnp.zeros(3)})
    seen = []
    for x in ([3.0, 2.0, -1.0], [0.0, 2.0, -1.0], [0.0, 0.0, -1.0]):
        message, state = codec.encode({"w": jnp.array(x)}, state, jax.random.key(0))
        seen.append(codec.decode(message)["w"].tolist())
    assert seen == [[3, 0, 0], [0, 4, 0], [0, 0, -3]]
    assert state["residual"].tree["w"].tolist() == [0, 0, 0]


def test_a_row_that_is_not_touched_keeps_its_residual():
    codec = error_feedback(leafwise(row_top_k(0.5)))

    def one(ids, values):
        table = rows.Rows(
            ids=jnp.array(ids), values=jnp.array(values, jnp.float32), num_rows=I
        )
        return {"item": table, "w": jnp.zeros((3, 2))}

    state = codec.init(SHARED)
    _, state = codec.encode(one([7, 3], [[1, 0], [5, 0]]), state, jax.random.key(0))
    assert state["residual"].tree["item"].values[7].tolist() == [1, 0]
    _, state = codec.encode(one([4, I], [[2, 0], [9, 9]]), state, jax.random.key(0))
    assert state["residual"].tree["item"].values[7].tolist() == [1, 0]
    message, state = codec.encode(
        one([7, I], [[1, 2], [9, 9]]), state, jax.random.key(0)
    )
    assert codec.decode(message)["item"].values[0].tolist() == [2, 2]
    assert not state["residual"].tree["item"].values.any()


def test_ef21_by_hand_and_its_cost():
    codec = ef21(leafwise(top_k(0.5)))
    state = codec.init({"w": jnp.zeros(2)})
    seen = []
    for x in ([3.0, 2.0], [3.0, 2.0], [1.0, 2.0]):
        message, state = codec.encode({"w": jnp.array(x)}, state, jax.random.key(0))
        seen.append(codec.decode(message)["w"].tolist())
        # One id of width 0 or 1 after its header, and one float; the estimate is known.
        assert int(num_bits(message)) in (10 + 32, 11 + 32)
    assert seen == [[3, 0], [3, 2], [1, 2]]
    assert state["estimate"].tree["w"].tolist() == seen[-1]


@pytest.mark.parametrize("name", ["top-k", "global top-k", "signs"])
def test_ef21_converges_on_a_delta_that_stays(name):
    decoded, states = run(ef21(INNER[name]), 60, lambda i: delta(0))
    truth = dense(delta(0))
    errors = [np.square(d - truth).sum() for d in decoded]
    assert all(b <= a * 1.0001 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * errors[0]
    np.testing.assert_allclose(
        dense(states[-1]["estimate"].tree), decoded[-1], atol=1e-6
    )


def test_dgc_by_hand():
    codec = dgc(kept=(0.5,), momentum=0.5)
    state = codec.init({"w": jnp.zeros(2)})
    seen, held, momentum = [], [], []
    for x in ([4.0, 1.0], [0.0, 1.0], [0.0, 0.0]):
        message, state = codec.encode({"w": jnp.array(x)}, state, jax.random.key(0))
        seen.append(codec.decode(message)["w"].tolist())
        held.append(state["held"].tree["w"].tolist())
        momentum.append(state["momentum"].tree["w"].tolist())
    # 1: u = v = (4, 1); the first goes, and its momentum with it.
    # 2: u = (0, 1.5), v = (0, 2.5); the second goes. 3: nothing is left to move.
    assert seen == [[4, 0], [0, 2.5], [0, 0]]
    assert held == [[0, 1], [0, 0], [0, 0]]
    assert momentum == [[0, 1], [0, 0], [0, 0]]


def test_dgc_warms_up_by_its_own_messages():
    codec = dgc(kept=(0.5, 0.25, 0.1))
    state = codec.init({"w": jnp.zeros(40)})
    encode, sent = jax.jit(codec.encode), []
    for i in range(5):
        x = jax.random.normal(jax.random.key(i), (40,))
        message, state = encode({"w": x}, state, jax.random.key(0))
        sent.append(int((codec.decode(message)["w"] != 0).sum()))
    assert sent == [20, 10, 4, 4, 4]


def test_dgc_without_momentum_is_error_feedback():
    a, _ = run(dgc(kept=(0.2,), momentum=0.0), 5)
    b, _ = run(error_feedback(INNER["top-k"]), 5)
    np.testing.assert_allclose(a, b, atol=1e-6)
    a, _ = run(dgc(kept=(0.2,), momentum=0.0, scope="global"), 5)
    b, _ = run(error_feedback(INNER["global top-k"]), 5)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_dgc_clips_the_whole_delta():
    decoded, _ = run(dgc(kept=(1.0,), momentum=0.0, clip=0.5), 1)
    whole = dense(delta(0))
    np.testing.assert_allclose(
        decoded[0], whole * 0.5 / np.linalg.norm(whole), rtol=1e-5, atol=1e-7
    )


def test_what_makes_no_sense_is_refused():
    for arguments, message in [
        ({"momentum": 1.0}, r"\[0, 1\), got 1"),
        ({"clip": 0.0}, "positive norm"),
        ({"scope": "tree"}, "'leaf' or 'global'"),
        ({"kept": ()}, "at least one share"),
        ({"kept": (0.5, 2.0)}, "got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            dgc(**arguments)


CLIENTS, AT_ONCE = 5, np.array([3, 0, 9])  # the last is past the end: nobody
REMEMBERING = {
    "ef": error_feedback(INNER["rows, then top-k, then qsgd"]),
    "ef of every row": error_feedback(INNER["top-k"]),
    "ef, joined": error_feedback(INNER["global top-k"]),
    "ef of power sgd": error_feedback(power_sgd(1)),
    "ef21": ef21(INNER["rows, then top-k, then qsgd"]),
    "ef21 of every row": ef21(INNER["top-k"]),
    "dgc": dgc(kept=(0.5, 0.2), clip=2.0),
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", REMEMBERING)
def test_the_touched_rows_of_a_memory_are_enough(name, ordered):
    """As a round does it, against whole memories and rows in any order, one by one."""
    codec = REMEMBERING[name]
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    states = jax.vmap(lambda _: codec.init(SHARED))(jnp.arange(CLIENTS))
    alone = [codec.init(SHARED) for _ in range(CLIENTS)]

    @jax.jit
    def at_once(states, deltas, keys):
        if ordered:
            merge = jax.vmap(lambda item: rows.merge_repeats(item, I))
            deltas = {**deltas, "item": merge(deltas["item"])}
        taken = memory.take(states, jnp.asarray(AT_ONCE), deltas)
        message, new = jax.vmap(codec.encode)(deltas, taken, keys)
        states = memory.put(states, jnp.asarray(AT_ONCE), new)
        return states, jax.vmap(codec.decode)(message)

    for i in range(4):
        some = [delta(10 * i + c) for c in range(len(AT_ONCE))]
        deltas = jax.tree.map(lambda *x: jnp.stack(x), *some)
        keys = jax.random.split(jax.random.key(i), len(AT_ONCE))
        states, decoded = at_once(states, deltas, keys)
        for place, client in enumerate(AT_ONCE[:2]):
            sent, alone[client] = encode(some[place], alone[client], keys[place])
            one = jax.tree.map(lambda x, p=place: x[p], decoded)
            np.testing.assert_allclose(
                dense(one), dense(decode(sent)), rtol=1e-5, atol=1e-5
            )
    for client, one in enumerate(alone):
        mine = jax.tree.map(lambda x, c=client: x[c], states)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "codec",
    [
        *CODECS.values(),
        lambda: svd(1),
        lambda: power_sgd(1),
        lambda: colr({"item": jnp.eye(2)[:1]}),
        lambda: colr({"item": jnp.eye(2)[:1]}, touched_only=True),
    ],
)
def test_a_codec_of_every_row_decodes_them_in_order(codec):
    codec, one = codec(), delta(0)
    item = rows.merge_repeats(one["item"], I)
    message, _ = codec.encode({**one, "item": item}, codec.init(SHARED), KEY)
    decoded = codec.decode(message)["item"]
    assert decoded.ordered
    if codec.every_row:
        np.testing.assert_array_equal(decoded.ids, item.ids)
    real = np.asarray(decoded.ids) < I
    assert (np.diff(np.asarray(decoded.ids)[real]) > 0).all()
    assert not np.asarray(decoded.values)[~real].any()
    assert not real[real.sum() :].any()
