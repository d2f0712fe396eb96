"""Values as in JSON, their leaves, and their differences."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from fedjax_rec.storage.sources import code_of, own_file


def plain(value: Any) -> Any:
    """`value` as in JSON; a dataclass is a dict that begins with its `type`.

    A dataclass from a user's file also has `defined_in`: the file's name, and the
    `sha256` of that file and the other files of the user that it imports. Floats that
    JSON lacks (NaN, infinities) become `None`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **_origin(value), **plain(fields)}
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


def is_plain(value: Any) -> bool:
    """Whether JSON holds all of a value, but for the classes of its dataclasses.

    >>> is_plain({"a": (1, 2.0, None)}), is_plain([object()])
    (True, False)
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        # Others than its fields would be state that no key holds.
        known = {f.name for f in dataclasses.fields(value)}
        return getattr(value, "__dict__", {}).keys() <= known and is_plain(fields)
    if isinstance(value, dict):
        return all(type(k) is str and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return type(value) in (bool, int, float, str, type(None))


def _origin(value: Any) -> dict[str, Any]:
    file = own_file(type(value))
    if file is None:
        return {}
    name = PurePath(file).name
    return {"defined_in": {"file": name, "sha256": code_of(value) or ""}}


def own_files(value: Any) -> list[str]:
    """The files from users of the dataclasses in `value`, in order, once each."""
    if isinstance(value, list | tuple):
        inner = [file for item in value for file in own_files(item)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, f.name) for f in dataclasses.fields(value)]
        inner = [own_file(type(value)) or "", *own_files(parts)]
    else:
        return []
    return [file for file in dict.fromkeys(inner) if file]


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
