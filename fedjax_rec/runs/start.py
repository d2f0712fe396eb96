"""A simulation that starts from the parameters of another run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.runs.fingerprint import digest
from fedjax_rec.runs.model import (
    Stored,
    named_leaves,
    users_of_clients,
    with_arrays,
)
from fedjax_rec.simulation.parameters import Parameters, parameters_of, put
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError


def start_from(sim: Simulation, stored: Stored) -> None:
    """Gives a new simulation the parameters of a run, matched by original ids.

    Rows of tables follow the ids of their items (or users), and personal parameters the
    user of their client. The others keep the values that they start from. What was
    matched goes to `sim.notes["started_from"]` and `sim.why`.

    Args:
        sim: a simulation that has not run yet.
        stored: the model of a run, or of an export.

    Raises:
        FileError: its arrays do not fit the system.
    """
    path, like = stored.path, parameters_of(sim)
    backbone = sim.notes.get("backbone", {}).get("fingerprint")
    if stored.ids["backbone"] != backbone:
        raise FileError(
            f"{path} was trained on another backbone ({stored.ids['backbone']}) than "
            f"this experiment has ({backbone}): expected the same weights"
        )
    if lines := check_names(like, stored.arrays, values=False):
        raise FileError(
            f"{path} holds other parameters than this system:\n{lines}\n"
            "Use the algorithm of that run"
        )
    train = sim.split.train
    places = {
        "item": _matched(stored.ids["items"], train.items.ids),
        "user": _matched(stored.ids["users"], train.users.ids),
        "client": _matched(stored.ids["clients"] or (), users_of_clients(sim) or ()),
    }
    arrays = {
        name: _moved(name, leaf, stored, places)
        for name, leaf in named_leaves(like).items()
    }
    put(sim, with_arrays(like, arrays))
    sim.digests = {**sim.digests, "start": digest(stored.arrays)}
    facts = {
        "items": _counts(places["item"], stored.ids["items"]),
        "users": _counts(places["user"], stored.ids["users"]),
    }
    done, clients = stored.ids["round"], int((places["client"] >= 0).sum())
    note: dict[str, Any] = {"run": str(path), "round": done, **facts}
    note |= {"personal": clients} if like.personal else {}
    sim.notes = {**sim.notes, "started_from": note}
    words = "; ".join(
        f"{facts[kind]['matched']:,} {kind} matched by id, {facts[kind]['new']:,} new, "
        f"{facts[kind]['unused']:,} of that run unused"
        for kind in ("items", "users")
    )
    sim.why = (*sim.why, f"starts from round {done} of {path}: {words}")


def check_names(
    like: Parameters, arrays: Mapping[str, np.ndarray], values: bool = True
) -> str:
    """Lines about arrays that are absent, or not expected; empty if there are none.

    Args:
        like: the parameters of the system.
        arrays: the stored arrays.
        values: also compare shapes.
    """
    lines = []
    leaves = named_leaves(like)
    for name in dict.fromkeys([*arrays, *leaves]):
        old, new = arrays.get(name), leaves.get(name)
        array = getattr(new, "values", new)  # of a table
        shape = None if array is None else array.shape
        there = "absent" if old is None else f"{list(old.shape)}"
        here = "absent" if shape is None else f"{list(shape)}"
        if old is None or shape is None or (values and old.shape != shape):
            lines.append(f"  {name}: {there} there, {here} here")
    return "\n".join(lines[:9])


def _matched(old: Sequence[Any], new: Sequence[Any]) -> np.ndarray:
    """`[new]` the position of each new id among the old ones, -1 if it has none."""
    place = {id_: i for i, id_ in enumerate(old) if id_ is not None}
    names = (None if id_ is None else str(id_) for id_ in new)
    return np.array([place.get(name, -1) for name in names], np.int64)


def _counts(places: np.ndarray, old: Sequence[Any]) -> dict[str, int]:
    matched = int((places >= 0).sum())
    new, unused = len(places) - matched, len(old) - matched
    return {"matched": matched, "new": new, "unused": unused}


def _moved(
    name: str,
    leaf: Any,
    stored: Stored,
    places: Mapping[str, np.ndarray],
) -> np.ndarray:
    """The array of a leaf, with the rows that have one in the stored array."""
    old, path = stored.arrays[name], stored.path
    table = rows.is_table(leaf)
    new = np.array(leaf.values if table else leaf)
    axes = ["client"] if name.startswith("personal.") else []
    axes += [leaf.space] if table else []
    rest = len(axes)
    if old.ndim != new.ndim or old.shape[rest:] != new.shape[rest:]:
        raise FileError(
            f"{path}: {name} is {list(old.shape)} there and {list(new.shape)} here; "
            "expected equal sizes besides rows. Use the sizes of that run"
        )
    items = places["item"]
    same = len(items) == len(stored.ids["items"]) and bool(
        (items == np.arange(len(items))).all()
    )
    if not table and not same and len(stored.ids["items"]) in old.shape[rest:]:
        raise FileError(
            f"{path}: {name} {list(old.shape)} seems to have an entry for each of "
            f"{len(stored.ids['items'])} items, is no table, and the items here are "
            "others or in another order: its rows cannot be matched"
        )
    if not axes:
        return old.astype(new.dtype)
    at = [np.flatnonzero(places[axis] >= 0) for axis in axes]
    source = [places[axis][x] for axis, x in zip(axes, at, strict=True)]
    new[np.ix_(*at)] = old[np.ix_(*source)]
    return new
