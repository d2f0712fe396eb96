"""Values as in JSON, their leaves, and their differences."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """`value` as in JSON; a dataclass is a dict that begins with its `type`.

    Floats that JSON lacks (NaN, infinities) become `None`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **plain(fields)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; a list of dicts by their numbers.

    >>> flat({"a": {"b": 1}, "c": [{"d": 2}]})
    {'a.b': 1, 'c.0.d': 2}
    """
    if isinstance(tree, list) and tree and all(isinstance(x, dict) for x in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {name: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{name}.{key}" if name else key)
    return leaves


def differences(
    old: Any, new: Any, name: str = "", words: tuple[str, str] = ("there", "now")
) -> list[str]:
    """One line for each value in which two trees of plain values differ.

    Args:
        old: the first tree.
        new: the second tree.
        name: name of the trees' root.
        words: words for the two trees.

    >>> differences({"rounds": 5, "seed": 0}, {"rounds": 6, "seed": 0})
    ['rounds: 5 there, 6 now']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in dict.fromkeys([*old, *new]):
            inner = f"{name}.{key}" if name else key
            gone = "(absent)"
            lines += differences(old.get(key, gone), new.get(key, gone), inner, words)
        return lines
    return [] if old == new else [f"{name}: {old} {words[0]}, {new} {words[1]}"]
