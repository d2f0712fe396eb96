"""Row tables against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.core import row_ids, rows


def numpy_first(ids):
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return first[inverse]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20))
def test_first_occurrence_small_table_is_numpy_unique(ids):
    ids = np.asarray(ids, np.int32)
    got = row_ids.first_occurrence(jnp.asarray(ids), 12)
    np.testing.assert_array_equal(got, numpy_first(ids))


@pytest.mark.parametrize("num_rows", [100_000, 2**20])
def test_first_occurrence_large_table_takes_the_sort_and_agrees(num_rows):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, 300).astype(np.int32) * (num_rows // 60)
    ids[::7] = num_rows  # padding
    got = jax.jit(lambda x: row_ids.first_occurrence(x, num_rows))(ids)
    np.testing.assert_array_equal(got, numpy_first(ids))


def test_first_occurrence_when_id_and_position_do_not_fit_a_word():
    ids = np.array([2**30, 5, 2**30, 5, 7], np.int32)
    # 31 bits of id and 3 of position: falls back without error in a traced shape.
    shape = jax.eval_shape(lambda x: row_ids.first_occurrence(x, 2**30), ids)
    assert shape.shape == (5,)


@pytest.mark.parametrize("num_rows", [40, 100_000, 2**30])
@pytest.mark.parametrize("ordered", [False, True])
def test_places_of_is_a_dictionary(num_rows, ordered):
    rng = np.random.default_rng(0)
    own = rng.choice(40, 25, replace=False) * (num_rows // 40)
    own = np.r_[np.sort(own) if ordered else own, num_rows, num_rows]
    asked = np.r_[np.arange(40) * (num_rows // 40), 1, num_rows]
    there = {x: i for i, x in enumerate(own) if x < num_rows}
    table = rows.Rows(
        ids=jnp.asarray(own, jnp.int32),
        values=jnp.zeros((len(own), 1)),
        num_rows=num_rows,
        ordered=ordered,
    )
    got = rows.places_of(jnp.asarray(asked, jnp.int32), table)
    assert got.tolist() == [there.get(x, len(own)) for x in asked]


def test_scatter_add_drops_padding_and_adds_repeats():
    table = jnp.zeros((3, 2))
    change = rows.Rows(
        ids=jnp.array([[0, 0, 3], [2, 3, 0]]),
        values=jnp.ones((2, 3, 2)) * jnp.array([1.0, 10.0])[:, None, None],
    )
    got = rows.scatter_add(table, change, jnp.array([2.0, 1.0]))
    # Client 0 adds 1 twice to row 0 at weight 2; client 1 adds 10 to rows 0 and 2.
    np.testing.assert_allclose(got[:, 0], [2 * (1 + 1) + 10, 0, 10])


def test_count_touched_counts_a_client_once_a_row():
    change = rows.Rows(
        ids=jnp.array([[0, 0, 3], [2, 3, 0], [1, 1, 1]]), values=jnp.zeros((3, 3, 1))
    )
    got = rows.count_touched(3, change, jnp.array([1.0, 5.0, 0.0]))
    np.testing.assert_allclose(got, [6, 0, 5])


def test_split_and_merge_are_inverse():
    tree = {"item": rows.Table(values=jnp.ones((2, 1))), "mlp": [{"w": jnp.zeros(3)}]}
    tables, dense = rows.split_tables(tree)
    assert tables["mlp"][0]["w"] is None
    assert dense["item"] is None
    merged = rows.merge_tables(tables, dense)
    assert jax.tree.structure(merged) == jax.tree.structure(tree)
    np.testing.assert_array_equal(merged["item"].values, tree["item"].values)


@pytest.mark.parametrize("num_rows", [50, 10_000])  # by a buffer, and by a sort
def test_repeats_add_up_in_ascending_order(num_rows):
    rng = np.random.default_rng(0)
    ids = rng.choice(12, 20).astype(np.int32) * (num_rows // 50)
    ids[[2, 5, 19]] = num_rows
    values = rng.normal(size=(20, 3)).astype(np.float32)
    merged = jax.jit(lambda r: rows.merge_repeats(r, num_rows))(
        rows.Rows(ids=jnp.asarray(ids), values=jnp.asarray(values))
    )
    real = ids < num_rows
    expected, place = np.unique(ids[real], return_inverse=True)
    sums = np.zeros((len(expected), 3))
    np.add.at(sums, place, values[real])
    n = len(expected)
    np.testing.assert_array_equal(merged.ids[:n], expected)
    assert (np.asarray(merged.ids[n:]) == num_rows).all()
    np.testing.assert_allclose(merged.values[:n], sums, atol=1e-6)
    assert not np.asarray(merged.values[n:]).any()
    assert merged.ordered


def test_ordered_rows_are_left_as_they_are_and_counted_without_a_look():
    rng = np.random.default_rng(0)
    some = rows.Rows(
        ids=jnp.asarray([[1, 4, 6, 6], [0, 1, 2, 3]]),
        values=jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32),
        num_rows=6,
        ordered=True,
    )
    some = dataclasses.replace(some, values=some.values.at[0, 2:].set(0))
    unknown = dataclasses.replace(some, ordered=False)
    merge = jax.vmap(lambda x: rows.merge_repeats(x, 6))
    jax.tree.map(np.testing.assert_array_equal, merge(some), merge(unknown))
    weights = jnp.array([2.0, 3.0])
    counts = [rows.count_touched(6, x, weights) for x in (some, unknown)]
    np.testing.assert_array_equal(counts, [[3, 5, 3, 3, 2, 0]] * 2)
