"""Whole trees: several tables, other types of numbers, and chains of all kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs.leaves import in_order, joined, leafwise
from fedjax_rec.codecs.quantize import QSGD, BlockInt, Float32, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, rotated
from fedjax_rec.codecs.sparsify import (
    RandomK,
    RowTopK,
    Threshold,
    TopK,
    share,
    top_share,
)
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.testing.wire_stream import deserialize, serialize, to_bits
from tests.codecs.deltas import sender

KEY = jax.random.key(0)


def delta(seed, real=6):
    """Two tables, of rows `[3]` and of scalars, and two dense leaves."""
    rng = np.random.default_rng(seed)

    def table(num_rows, room, shape, space):
        count = min(real, room)
        ids = np.full(room, num_rows)
        ids[:count] = rng.choice(num_rows, count, replace=False)
        return rows.Rows(
            ids=jnp.asarray(rng.permutation(ids), jnp.int32),
            values=jnp.asarray(rng.normal(size=(room, *shape)), jnp.float32),
            space=space,
            num_rows=num_rows,
        )

    return {
        "bias": table(500, 5, (), "user"),
        "item": table(40, 8, (3,), "item"),
        "head": {
            "b": jnp.asarray(rng.normal(), jnp.float32),
            "w": jnp.asarray(rng.normal(size=(4, 7)), jnp.float32),
        },
    }


def top_k(fraction, then=None):
    return TopK(fraction=fraction, then=then, feedback="none")


class Custom:
    """A link of a user's own: a rotation in a chain."""

    feedback = "none"

    def link(self):
        return rotated(QSGD(bits=3).link(), 16)


CHAINS = {
    "float32": leafwise(Float32().link()),
    "rows, random, integers": RowTopK(
        fraction=0.5, then=RandomK(fraction=0.5, then=BlockInt(bits=4, block=8))
    ).plain(),
    "largest, rotated": top_k(0.3, Custom()).plain(),
    "threshold, ternary, joined": joined(
        Threshold(least=0.7, most=0.6, then=TernGrad()).link()
    ),
    "random, largest, signs": RandomK(
        fraction=0.4, then=top_k(0.5, Sign(bucket=4, feedback="none"))
    ).plain(),
    "rotated, largest, joined": joined(rotated(top_share(share(0.2), 0.2, QSGD()), 32)),
    "rows, drive": RowTopK(fraction=0.3, then=Drive(block=16)).plain(),
}


@pytest.mark.parametrize("name", CHAINS)
def test_links_of_all_kinds_go_together(name):
    codec = CHAINS[name]
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    for seed, real in enumerate((6, 8, 1, 0)):
        sent = delta(seed, real)
        message, _ = encode(sent, (), sender(jax.random.key(seed)))
        bits = to_bits(message)
        assert len(bits) == int(num_bits(message))
        result = decode(message)
        again = decode(deserialize(serialize(message), message))
        jax.tree.map(np.testing.assert_array_equal, result, again)
        for table in ("bias", "item"):
            ids = np.asarray(result[table].ids)
            count = int((ids < result[table].num_rows).sum())
            assert (np.diff(ids[:count]) > 0).all()
            assert not np.asarray(result[table].values)[count:].any()
            assert result[table].space == sent[table].space


@pytest.mark.parametrize("scope", [leafwise, joined])
def test_float32_sends_everything(scope):
    sent, codec = delta(0), scope(Float32().link())
    result = codec.decode(codec.encode(sent, (), sender(KEY))[0])
    np.testing.assert_array_equal(result["head"]["w"], sent["head"]["w"])
    assert result["head"]["b"] == sent["head"]["b"]
    for name, num_rows in (("bias", 500), ("item", 40)):
        table = jnp.zeros((num_rows, *sent[name].values.shape[1:]))
        np.testing.assert_array_equal(
            rows.scatter_add(table, result[name]), rows.scatter_add(table, sent[name])
        )


@pytest.mark.parametrize("scope", ["leaf", "all"])
def test_types_of_numbers_survive(scope):
    sent = {"a": jnp.arange(6.0, dtype=jnp.bfloat16), "b": jnp.ones(3, jnp.float16)}
    codec = TopK(fraction=1.0, scope=scope).plain()
    result = codec.decode(codec.encode(sent, (), sender(KEY))[0])
    assert result["a"].dtype == jnp.bfloat16
    assert result["b"].dtype == jnp.float16
    jax.tree.map(np.testing.assert_array_equal, result, sent)


def test_shared_and_single_budgets_differ_where_leaves_do():
    sent = {"big": jnp.array([9.0, 8, 7, 6]), "small": jnp.array([0.4, 0.3, 0.2, 0.1])}
    alone = TopK(fraction=0.5).plain()
    together = TopK(fraction=0.5, scope="all").plain()
    result = alone.decode(alone.encode(sent, (), sender(KEY))[0])
    np.testing.assert_allclose(result["big"], [9, 8, 0, 0])
    np.testing.assert_allclose(result["small"], [0.4, 0.3, 0, 0])
    result = together.decode(together.encode(sent, (), sender(KEY))[0])
    np.testing.assert_allclose(result["big"], [9, 8, 7, 6])
    np.testing.assert_allclose(result["small"], np.zeros(4))


def test_the_leaves_draw_other_random_bits():
    x = jax.random.normal(KEY, (200,))
    codec = RandomK(fraction=0.5).plain()
    result = codec.decode(codec.encode({"a": x, "b": x}, (), sender(KEY))[0])
    assert not np.array_equal(result["a"], result["b"])


@pytest.mark.parametrize("scope", ["leaf", "all"])
def test_an_empty_tree_costs_no_bits(scope):
    codec = TopK(fraction=0.5, scope=scope).plain()
    message, _ = codec.encode({}, (), sender(KEY))
    assert int(num_bits(message)) == 0
    assert serialize(message) == b""
    assert codec.decode(message) == {}


def test_rows_without_the_tables_length_are_refused():
    unknown = rows.Rows(ids=jnp.arange(2), values=jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"rows\.merge_repeats"):
        Float32().plain().encode({"t": unknown}, (), sender(KEY))


@pytest.mark.parametrize("num_rows", [50, 10_000])
def test_rows_are_sent_in_the_order_of_their_ids(num_rows):
    rng = np.random.default_rng(0)
    ids = rng.choice(50, 20, replace=False).astype(np.int32) * (num_rows // 50)
    ids[[0, 3, 19]] = num_rows
    values = jnp.asarray(ids, jnp.float32)
    part = rows.Rows(ids=jnp.asarray(ids), values=values, num_rows=num_rows)
    message, _ = Float32().plain().encode({"t": part}, (), sender(KEY))
    result = Float32().plain().decode(message)["t"]
    assert int(message["t"].count) == 17
    np.testing.assert_array_equal(result.ids, np.sort(ids))
    np.testing.assert_array_equal(result.values[:17], np.sort(ids)[:17])
    assert not np.asarray(result.values[17:]).any()


def test_ids_of_a_huge_table_need_no_word_of_their_own():
    """An id and a position do not fit into 32 bits; only shapes are traced."""

    def ordered(ids):
        return in_order(rows.Rows(ids=ids, values=jnp.ones(20), num_rows=2**30))[0]

    shapes = jax.eval_shape(ordered, jnp.zeros(20, jnp.int32))
    assert shapes.ids.shape == shapes.values.shape == (20,)
