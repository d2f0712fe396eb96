"""Size buckets: pad clients to a few widths instead of to the largest client."""

from collections.abc import Callable

import numpy as np


def choose_widths(
    sizes: np.ndarray,
    max_buckets: int,
    cost: Callable[[np.ndarray], np.ndarray] = lambda width: width,
    max_candidates: int = 512,
) -> tuple[int, ...]:
    """Widths that minimise the summed cost of every client's padded size.

    Exact dynamic programming over the distinct sizes (thinned to quantiles beyond
    `max_candidates` of them).

    Args:
        sizes: `[N]` examples of each client; empty clients cost nothing.
        max_buckets: at most so many widths.
        cost: work of a client padded to each width, `[S] -> [S]`, increasing.
        max_candidates: bound on the distinct widths considered.

    Returns:
        Ascending widths, the last at least the largest size.

    Raises:
        ValueError: `max_buckets` is below 1.

    >>> choose_widths(np.array([1, 2, 2, 50]), 2)
    (2, 50)
    """
    if max_buckets < 1:
        raise ValueError(f"max_buckets must be at least 1, got {max_buckets}")
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return (1,)
    widths, counts = np.unique(sizes, return_counts=True)
    if len(widths) > max_candidates:
        levels = np.linspace(0, 1, max_candidates)
        kept = np.unique(np.quantile(widths, levels, method="higher"))
        counts = np.bincount(np.searchsorted(kept, widths), counts, len(kept))
        widths = kept
    work = np.asarray(cost(widths), np.float64)
    n = len(widths)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: least cost of the first j widths; one more bucket ends at width j - 1.
    best = np.full(n + 1, np.inf)
    best[0] = 0
    choices = []
    for _ in range(min(max_buckets, n)):
        span = (below[None, 1:] - below[:-1, None]) * work[None, :]
        total = np.where(np.tri(n, k=-1), np.inf, best[:-1, None] + span)
        start = total.argmin(0)
        new = np.concatenate([[0], total[start, np.arange(n)]])
        choices.append(np.where(new < best, np.append(-1, start), -1)[1:])
        best = np.minimum(best, new)
    return _backtrack(widths, choices)


def _backtrack(widths: np.ndarray, choices: list[np.ndarray]) -> tuple[int, ...]:
    chosen, end = [], len(widths)
    for start in reversed(choices):
        if end == 0:
            break
        if start[end - 1] < 0:  # an earlier pass was already as good
            continue
        chosen.append(int(widths[end - 1]))
        end = int(start[end - 1])
    return tuple(reversed(chosen))


def bucket_of(sizes: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """`[N]` int32 index of the narrowest width that holds each client.

    Clients without examples get `len(widths)`: they never train.
    """
    bucket = np.searchsorted(np.asarray(widths), sizes).astype(np.int32)
    return np.where(sizes > 0, bucket, len(widths)).astype(np.int32)
