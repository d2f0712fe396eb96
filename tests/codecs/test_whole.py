"""Whole trees: several tables, other types of numbers, and links of all kinds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs import (
    block_int,
    drive,
    float32,
    joined,
    leafwise,
    num_bits,
    qsgd,
    random_k,
    rotate,
    row_top_k,
    sign,
    terngrad,
    threshold,
    top_k,
)
from fedjax_rec.codecs.serialize import deserialize, serialize, to_bits
from fedjax_rec.core import rows

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


CHAINS = [
    (),
    (row_top_k(0.5), random_k(0.5), block_int(4, block=8)),
    (top_k(0.3), rotate(16), qsgd(bits=3)),
    (threshold(0.7, most=0.6), terngrad()),
    (random_k(0.4), top_k(0.5), sign(bucket=4)),
    (rotate(32), top_k(0.2), qsgd()),
    (row_top_k(0.3), drive(16)),
]


@pytest.mark.parametrize(
    ("whole", "links"),
    list(zip(itertools.cycle((leafwise, joined)), CHAINS, strict=False)),
)
def test_links_of_all_kinds_go_together(whole, links):
    codec = whole(*links)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
    for seed, real in enumerate((6, 8, 1, 0)):
        sent = delta(seed, real)
        message, _ = encode(sent, (), jax.random.key(seed))
        bits = to_bits(message)
        assert len(bits) == int(num_bits(message))
        got = decode(message)
        again = decode(deserialize(serialize(message), message))
        jax.tree.map(np.testing.assert_array_equal, got, again)
        for name in ("bias", "item"):
            ids = np.asarray(got[name].ids)
            count = int((ids < got[name].num_rows).sum())
            assert (np.diff(ids[:count]) > 0).all()
            assert not np.asarray(got[name].values)[count:].any()
            assert got[name].space == sent[name].space


@pytest.mark.parametrize("whole", [leafwise, joined])
def test_without_links_everything_arrives(whole):
    sent = delta(0)
    got = whole(float32()).decode(whole().encode(sent, (), KEY)[0])
    np.testing.assert_array_equal(got["head"]["w"], sent["head"]["w"])
    assert got["head"]["b"] == sent["head"]["b"]
    for name, num_rows in (("bias", 500), ("item", 40)):
        table = jnp.zeros((num_rows, *sent[name].values.shape[1:]))
        np.testing.assert_array_equal(
            rows.scatter_add(table, got[name]), rows.scatter_add(table, sent[name])
        )


@pytest.mark.parametrize("whole", [leafwise, joined])
def test_types_of_numbers_survive(whole):
    sent = {"a": jnp.arange(6.0, dtype=jnp.bfloat16), "b": jnp.ones(3, jnp.float16)}
    got = whole(top_k(1.0)).decode(whole(top_k(1.0)).encode(sent, (), KEY)[0])
    assert got["a"].dtype == jnp.bfloat16
    assert got["b"].dtype == jnp.float16
    jax.tree.map(np.testing.assert_array_equal, got, sent)


def test_shared_and_single_budgets_differ_where_leaves_do():
    sent = {"big": jnp.array([9.0, 8, 7, 6]), "small": jnp.array([0.4, 0.3, 0.2, 0.1])}
    alone, together = leafwise(top_k(0.5)), joined(top_k(0.5))
    got = alone.decode(alone.encode(sent, (), KEY)[0])
    np.testing.assert_allclose(got["big"], [9, 8, 0, 0])
    np.testing.assert_allclose(got["small"], [0.4, 0.3, 0, 0])
    got = together.decode(together.encode(sent, (), KEY)[0])
    np.testing.assert_allclose(got["big"], [9, 8, 7, 6])
    np.testing.assert_allclose(got["small"], np.zeros(4))


def test_the_leaves_draw_other_random_bits():
    x = jax.random.normal(KEY, (200,))
    codec = leafwise(random_k(0.5))
    got = codec.decode(codec.encode({"a": x, "b": x}, (), KEY)[0])
    assert not np.array_equal(got["a"], got["b"])


def test_nothing_to_send():
    for codec in (leafwise(top_k(0.5)), joined(top_k(0.5))):
        message, _ = codec.encode({}, (), KEY)
        assert int(num_bits(message)) == 0
        assert serialize(message) == b""
        assert codec.decode(message) == {}
