"""Chunk sizes, and the fold over a cohort in chunks."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.clients import ClientData

T = TypeVar("T")


def chunk_sizes(
    data: ClientData, examples_per_chunk: int, cohort_size: int, shares: int = 1
) -> tuple[int, ...]:
    """`V` for each bucket: about `examples_per_chunk` padded examples.

    Chunks are evened out over the expected clients of a cohort, so that the last one is
    not mostly empty: the size with the least work is chosen, and twice or half the
    examples asked for count as 5 % more work.

    Args:
        data: data of all clients.
        examples_per_chunk: padded examples of one `vmap`.
        cohort_size: `C`.
        shares: devices that a cohort is dealt over.

    Returns:
        One `V` of at least 1 for each of `data.widths`.
    """
    sizes = np.bincount(np.asarray(data.buckets), minlength=len(data.widths) + 1)
    part = cohort_size / data.num_clients
    expected = np.ceil(np.ceil(sizes * part) / shares).astype(int)
    chunks = []
    for count, width in zip(expected, data.widths, strict=False):
        count = max(1, min(count, cohort_size))
        asked = max(1.0, examples_per_chunk / width)
        v = np.arange(1, count + 1)
        work = -(-count // v) * v * (1 + 0.05 * np.abs(np.log2(v / asked)))
        chunks.append(int(v[np.argmin(work)]))
    return tuple(chunks)


def default_examples_per_chunk(pairs: int, texts: bool = False) -> int:
    """Padded examples of one `vmap`, by the parallelism of the default device.

    Measured (benchmarks/RESULTS.md): on a CPU a chunk should stay in cache; an
    accelerator uses all the parallelism that fits. A text of 32 tokens in all layers
    of MiniLM keeps about 4 MB in float32 for the backward pass. A CPU's devices are its
    cores, so that the number of cores has no part in it.

    Args:
        pairs: pairs of an example.
        texts: each pair is a text that passes through layers of a backbone.
    """
    on_cpu = jax.default_backend() == "cpu"
    budget = 10_000 if on_cpu else 2_000_000
    if texts:
        budget = 32 if on_cpu else 4096
    return max(1, budget // pairs)


def fold_clients(
    visit: Callable[[T, int, Array, Array], T],
    carry: T,
    rows: Array,
    data: ClientData,
    chunks: tuple[int, ...],
    batch_axis: str | None = None,
) -> T:
    """Folds `visit` over a cohort, chunk by chunk, one loop for each bucket.

    Args:
        visit: `(carry, bucket, slots [V], rows [V]) -> carry`. `slots` are positions in
            `rows`. If a chunk is not full, its last slots are `C`, with rows past the
            end.
        carry: first value, donated from step to step, so writes into it are in place.
        rows: `[C]` int32 rows of `data`; rows past its end are absent.
        data: client data, with each client's bucket.
        chunks: `V` for each bucket.
        batch_axis: axis of an enclosing `vmap` over experiments. Their loops then run
            equally often: with different trip counts, `vmap` would copy every carry at
            every step.

    Returns:
        The last carry.
    """
    n, c = data.num_clients, rows.shape[0]
    num_buckets = len(data.widths)
    bucket = data.buckets.at[rows].get(mode="fill", fill_value=num_buckets)
    order = jnp.argsort(bucket).astype(jnp.int32)
    counts = jnp.zeros(num_buckets + 1, jnp.int32).at[bucket].add(1)
    firsts = jnp.cumsum(counts) - counts
    for g in range(num_buckets):
        v, first, count = chunks[g], firsts[g], counts[g]

        def step(i, carry, g=g, v=v, first=first, count=count):
            within = i * v + jnp.arange(v, dtype=jnp.int32)
            present = within < count
            sorted_slots = order.at[first + within].get(mode="clip")
            slots = jnp.where(present, sorted_slots, c)
            chunk_rows = rows.at[slots].get(mode="fill", fill_value=n)
            return visit(carry, g, slots, chunk_rows)

        trips = (count + v - 1) // v
        if batch_axis is not None:
            trips = jax.lax.pmax(trips, batch_axis)
        carry = jax.lax.fori_loop(0, trips, step, carry)
    return carry
