"""Comparisons of trees that say what differs, where and by how much."""

from typing import Any

import jax
import numpy as np

from fedjax_rec.testing.law import LawBroken


def require(holds: Any, message: str) -> None:
    """Raises LawBroken with a message unless a condition holds."""
    if not bool(holds):
        raise LawBroken(message)


def check_close(
    actual: Any, expected: Any, what: str, *, atol: float = 0.0, rtol: float = 0.0
) -> None:
    """Compares two trees of numbers.

    Args:
        actual: the first tree.
        expected: the second tree.
        what: how the two were made, which begins the message.
        atol: allowed absolute difference.
        rtol: allowed difference relative to `expected`.

    Raises:
        LawBroken: structures or shapes differ, or numbers by more than is allowed.
    """
    bounds = [f"{atol:g}"] * (atol > 0) + [f"{rtol:g} of the value"] * (rtol > 0)
    allowed = f" by more than {' + '.join(bounds)}" if bounds else ""
    for path, a, b in _pairs(actual, expected, what):
        wide = jax.numpy.issubdtype(b.dtype, jax.numpy.floating)
        x, y = (z.astype(np.float64) if wide else z for z in (a, b))
        near = np.isclose(x, y, atol=atol, rtol=rtol, equal_nan=True)
        if near.all():
            continue
        worst = np.unravel_index(
            np.argmax(np.where(near, -1.0, _distance(x, y))), x.shape
        )
        at = f"[{', '.join(map(str, worst))}]" if x.shape else ""
        digits = 6 if allowed else 9
        raise LawBroken(
            f"{what}: {path}{at} is {x[worst]:.{digits}g} instead of "
            f"{y[worst]:.{digits}g}; {(~near).sum()} of {near.size} numbers of this "
            f"array differ{allowed}"
        )


def check_same(actual: Any, expected: Any, what: str) -> None:
    """Compares two trees bit for bit, NaN included.

    Raises:
        LawBroken: they differ.
    """
    check_close(actual, expected, what)


def check_finite(tree: Any, what: str) -> None:
    """Raises LawBroken if a tree holds NaN or an infinite number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf)
        if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
            continue
        bad = ~np.isfinite(values.astype(np.float64))
        if bad.any():
            kind = "NaN" if np.isnan(values.astype(np.float64)).any() else "infinite"
            raise LawBroken(
                f"{what}: {bad.sum()} of {bad.size} numbers of {shown(path)} are {kind}"
            )


def check_shapes(actual: Any, expected: Any, what: str) -> None:
    """Compares the structure, shapes and types of two trees, not their numbers.

    Raises:
        LawBroken: they differ.
    """
    for path, a, b in _leaves(actual, expected, what):
        one, other = (f"{x.dtype}{list(x.shape)}" for x in (a, b))
        require(
            one == other, f"{what}: {shown(path)} is {one}, and {other} was expected"
        )


def check_structure(actual: Any, expected: Any, what: str) -> None:
    """Raises LawBroken if two trees have other containers or names."""
    one, other = jax.tree.structure(actual), jax.tree.structure(expected)
    if one == other:
        return
    names = [
        {shown(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (actual, expected)
    ]
    more, fewer = names[0] - names[1], names[1] - names[0]
    parts = [
        f"{word} {', '.join(sorted(group)) or 'itself'}"
        for word, group in (("has the extra", more), ("lacks", fewer))
        if group
    ]
    seen = " and ".join(parts) or f"has the structure {one} instead of {other}"
    raise LawBroken(f"{what}: the result {seen}")


def shown(path: Any) -> str:
    """A path in a tree, such as `item.values`."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "the result"


def _leaves(actual: Any, expected: Any, what: str):
    """Paths and leaves of two trees of the same structure."""
    check_structure(actual, expected, what)
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected), strict=True):
        yield path, a, b


def _pairs(actual: Any, expected: Any, what: str):
    for path, a, b in _leaves(actual, expected, what):
        a, b = np.asarray(_data(a)), np.asarray(_data(b))
        require(
            a.shape == b.shape,
            f"{what}: {shown(path)} has shape {a.shape} instead of {b.shape}",
        )
        yield shown(path) if path else "entry ", a, b


def _data(leaf: Any) -> Any:
    is_key = hasattr(leaf, "dtype") and jax.numpy.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )
    return jax.random.key_data(leaf) if is_key else leaf


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        distance = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return np.where(np.isfinite(distance), distance, np.inf)
