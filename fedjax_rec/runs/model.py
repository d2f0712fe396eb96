"""Parameters of a run's selected round, in the folder `model` of its folder.

`parameters.safetensors` holds the arrays under the names `shared.GROUP...` and
`personal.GROUP...`; `ids.json` names their rows. Any reader of safetensors can
use them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Tree
from fedjax_rec.runs.folder import CONFIG, MODEL, read_run
from fedjax_rec.runs.missing import why_no_model
from fedjax_rec.runs.writer import RunFolder, SilentFolder
from fedjax_rec.simulation.parameters import Parameters
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import FileError, UserError, writable

PARAMETERS, IDS = "parameters.safetensors", "ids.json"


class Stored(NamedTuple):
    """A model as read from its folder.

    Attributes:
        path: the folder.
        arrays: arrays by name.
        ids: content of `ids.json`: `round`, `users` and `items` (ids in the order of
            rows), `clients` (the user of each client, or `None` if clients hold several
            users), `rows` (`"item"` or `"user"` for each array that is a table), and
            `backbone` (fingerprint of the backbone, or `None`).
    """

    path: Path
    arrays: dict[str, np.ndarray]
    ids: dict[str, Any]


def write_model(folder: RunFolder, sim: Simulation) -> None:
    """Writes the selected parameters, if the simulation holds any."""
    if sim.selected is None or isinstance(folder, SilentFolder):
        return
    with writable(folder.path):
        (folder.path / MODEL).mkdir(exist_ok=True)
    arrays = named_arrays(sim.selected)
    with folder.replacing(f"{MODEL}/{PARAMETERS}") as temporary:
        save_file(arrays, temporary, {"round": str(sim.selected.round)})
    folder.write_json(f"{MODEL}/{IDS}", ids_of(sim))


def ids_of(sim: Simulation) -> dict[str, Any]:
    """The content of `ids.json` for the selected parameters."""
    assert sim.selected is not None
    train = sim.split.train
    return {
        "round": sim.selected.round,
        "users": [str(id_) for id_ in train.users.ids],
        "items": [str(id_) for id_ in train.items.ids],
        "clients": users_of_clients(sim),
        "rows": {
            name: leaf.space
            for name, leaf in named_leaves(sim.selected).items()
            if rows.is_table(leaf)
        },
        "backbone": sim.notes.get("backbone", {}).get("fingerprint"),
    }


def users_of_clients(sim: Simulation) -> list[str | None] | None:
    """The user id of each client, `None` for a client without a user.

    Returns:
        The ids in the order of the clients; `None` if clients hold several users.
    """
    if sim.multi_user:
        return None
    client = np.asarray(sim.client_of_user)
    served = np.flatnonzero(client < sim.data.num_clients)
    names = np.full(sim.data.num_clients, None, object)
    ids = sim.split.train.users.ids
    names[client[served]] = [str(ids[user]) for user in served.tolist()]
    return names.tolist()


def named_leaves(parameters: Parameters) -> dict[str, Any]:
    """Leaves by name; a table is one leaf."""
    tree = {"shared": parameters.shared, "personal": parameters.personal}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=rows.is_table)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
    }


def named_arrays(parameters: Parameters) -> dict[str, np.ndarray]:
    """Arrays by name, of tables their values."""
    return {
        name: np.ascontiguousarray(leaf.values if rows.is_table(leaf) else leaf)
        for name, leaf in named_leaves(parameters).items()
    }


def with_arrays(like: Parameters, arrays: Mapping[str, np.ndarray]) -> Parameters:
    """`like` with arrays by name."""
    names = iter(named_leaves(like))

    def leaf(old: Any) -> Any:
        new = arrays[next(names)]
        return dataclasses.replace(old, values=new) if rows.is_table(old) else new

    # In the order in which `named_leaves` walks the groups.
    tree: Tree = {"shared": like.shared, "personal": like.personal}
    tree = jax.tree.map(leaf, tree, is_leaf=rows.is_table)
    return like._replace(**tree)


def read_model(path: str | Path) -> Stored:
    """Reads the model of a run or of an export; changes no file.

    Args:
        path: folder of a run, or of an export.

    Raises:
        FileError: there is no model, or it cannot be read, or a run has selected
            another round than the one that its model is of.
    """
    path = Path(path)
    folder = path if (path / PARAMETERS).is_file() else path / MODEL
    if not (folder / PARAMETERS).is_file():
        raise FileError(why_no_model(path))
    try:
        arrays = load_file(folder / PARAMETERS)
        ids = json.loads((folder / IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(f"cannot be read: {error}", file=folder) from error
    if folder != path and (path / CONFIG).is_file():
        selected = read_run(path).part().get("selected", ids["round"])
        if selected != ids["round"]:
            raise FileError(
                f"{folder} holds the parameters of round {ids['round']}, and the run "
                f"selected round {selected}: it went on from before that round with "
                "more rounds or other software. Run it again with --overwrite"
            )
    return Stored(folder, arrays, ids)


def export_model(path: str | Path, output: str | Path) -> Path:
    """Copies the model and the config of a run into an empty or new folder.

    Args:
        path: folder of a run.
        output: folder that gets `parameters.safetensors`, `ids.json`, `config.json`.

    Raises:
        FileError: there is no model, or `output` is not empty or cannot be written.
    """
    stored, output = read_model(path), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty; expected a new or an empty folder")
    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
        for file in (stored.path / PARAMETERS, stored.path / IDS):
            shutil.copyfile(file, output / file.name)
        shutil.copyfile(Path(path) / CONFIG, output / CONFIG)
    return output
