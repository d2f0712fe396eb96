"""Chunks by hand, and the fold's visits against any cohort."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.data.clients import ClientData, Ragged
from fedjax_rec.simulation.chunks import chunk_sizes, fold_clients


def population(buckets, widths):
    """Clients without data, in these buckets."""
    n = len(buckets)
    empty = Ragged(
        columns={}, offset=jnp.zeros(n, jnp.int32), size=jnp.zeros(n, jnp.int32)
    )
    return ClientData(
        interactions=empty,
        exclude=empty,
        buckets=jnp.asarray(buckets, jnp.int32),
        num_items=1,
        num_users=n,
        widths=widths,
        exclude_widths=(1,) * len(widths),
    )


@pytest.mark.parametrize(
    ("per_chunk", "cohort", "expected"),
    [
        # 12 clients of width 10, 4 of width 50, 4 without data.
        (1, 20, (1, 1)),  # room for no client at all still takes one
        (10_000, 20, (12, 4)),  # all at once
        # 120 and 200 padded examples in chunks of about 50: 2 trips of 6, 4 of 1.
        (50, 20, (6, 1)),
        # 3 trips (120 / 40) of 4; 5 trips (200 / 40) of 4 clients: 1 each.
        (40, 20, (4, 1)),
        # A cohort of 5 is expected to bring 3 and 1: 30 and 50 examples.
        (30, 5, (3, 1)),
        # 1.5 asked for. By ones: 3 x (1 + .05 x log2 1.5) = 3.09; 2 trips of 2 waste a
        # client: 4 x 1.02; all 3 at once: 3 x 1.05 = 3.15.
        (15, 5, (1, 1)),
        # A cohort of 1 never needs more than one at once.
        (10_000, 1, (1, 1)),
    ],
)
def test_chunk_sizes_by_hand(per_chunk, cohort, expected):
    data = population([0] * 12 + [1] * 4 + [2] * 4, (10, 50))
    assert chunk_sizes(data, per_chunk, cohort) == expected


def test_chunks_are_evened_out():
    # 65 clients of 256, room for 7.8 at once: 8 would leave 7 of 72 slots empty. Of
    # 13 trips of 5: 65 x (1 + .05 x log2(7.8 / 5)) = 67.1; 6 of 11: 66 x 1.025 = 67.6.
    data = population([0] * 65, (256,))
    assert chunk_sizes(data, 2000, 65) == (5,)


def test_chunks_of_an_empty_bucket():
    assert chunk_sizes(population([0, 0], (3, 9)), 9, 2) == (2, 1)


@partial(jax.jit, static_argnames="chunks")
def visits(ids, data, chunks):
    """How often each client was visited, and how many visits were in disorder."""

    def visit(carry, bucket, slots, chunk_ids):
        counts, wrong = carry
        assert slots.shape == chunk_ids.shape == (chunks[bucket],)
        real = slots < ids.shape[0]
        wrong += (real != (chunk_ids < data.num_clients)).sum()
        expected = ids.at[slots].get(mode="fill", fill_value=-1)
        wrong += (real & (expected != chunk_ids)).sum()
        buckets = data.buckets.at[chunk_ids].get(mode="fill", fill_value=-1)
        wrong += (real & (buckets != bucket)).sum()
        return counts.at[slots].add(1, mode="drop"), wrong

    carry = jnp.zeros(ids.shape[0], jnp.int32), jnp.int32(0)
    return fold_clients(visit, carry, ids, data, chunks)


def programs() -> int:
    return visits._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("num_buckets", "chunks", "cohort"),
    [(1, (1,), 6), (1, (4,), 17), (3, (1, 2, 3), 11), (4, (7, 1, 30, 2), 24)],
)
def test_every_present_client_once_and_no_absent_one(num_buckets, chunks, cohort):
    n, rng = 24, np.random.default_rng(cohort)
    before = programs()
    for trial in range(8):
        # Bucket `num_buckets` holds the clients without data, which are not visited.
        layout = rng.integers(0, num_buckets + 1, n)
        if trial == 0:
            layout[:] = num_buckets - 1  # all in one bucket, the others empty
        data = population(layout, tuple(range(1, num_buckets + 1)))
        ids = rng.permutation(n)[:cohort]
        absent = rng.random(cohort) < (0, 0.3, 1)[trial % 3]
        ids = np.where(absent, n + rng.integers(0, 3, cohort), ids)
        counts, wrong = visits(jnp.asarray(ids, jnp.int32), data, chunks)
        expected = [int(i < n and layout[min(i, n - 1)] < num_buckets) for i in ids]
        assert counts.tolist() == expected
        assert int(wrong) == 0
    assert programs() == before + 1  # one program for all of them
