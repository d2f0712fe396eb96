"""Size buckets: clients are padded to a few widths, not to the largest client."""

from collections.abc import Callable

import numpy as np


def choose_widths(
    sizes: np.ndarray,
    max_buckets: int,
    cost: Callable[[np.ndarray], np.ndarray] = lambda width: width,
    max_candidates: int = 512,
) -> tuple[int, ...]:
    """Chooses the widths that minimise the summed cost of all padded clients.

    Exact dynamic programming over the distinct sizes, or over `max_candidates`
    quantiles of them.

    Args:
        sizes: `[N]` examples of each client; empty clients have no cost.
        max_buckets: Maximum number of widths.
        cost: Work of a client padded to each width, `[S] -> [S]`, increasing.
        max_candidates: Maximum number of distinct widths considered.

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
        thinned = np.unique(np.quantile(widths, levels, method="higher"))
        counts = np.bincount(np.searchsorted(thinned, widths), counts, len(thinned))
        widths = thinned
    work = np.asarray(cost(widths), np.float64)
    n = len(widths)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[j]: least cost of the first j widths; the next bucket ends at width j - 1.
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
        if start[end - 1] < 0:  # an earlier pass was as good
            continue
        chosen.append(int(widths[end - 1]))
        end = int(start[end - 1])
    return tuple(reversed(chosen))


def bucket_of(sizes: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Returns the index of the narrowest width for each client, `[N]` int32.

    Clients without examples get `len(widths)` and never train.
    """
    bucket = np.searchsorted(np.asarray(widths), sizes).astype(np.int32)
    return np.where(sizes > 0, bucket, len(widths)).astype(np.int32)
