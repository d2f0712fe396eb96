"""The server and the clients' personal parameters before the first round."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.precision import at_precision
from fedjax_rec.core.rounds import FederatedAlgorithm, ServerState
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.messages import initial_state
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.storage.maps import new_map

FIX = "Choose another store.folder, or free space there"
PIECE = 65_536
"""Clients whose personal parameters pass between the host and the devices at once."""
Start = Callable[[Array, Array], dict[str, Tree]]
"""`(root key, ids [n]) -> personal parameters [n, ...]`, without the constants."""


def initial_server(
    algorithm: FederatedAlgorithm, key: Array, mesh: Mesh, split_tables: bool
) -> ServerState:
    """The state of the server before the first round, on the mesh."""
    if not split_tables:
        # A copy, since rounds donate it, and a model may hold its initial values.
        state = jax.tree.map(jnp.copy, algorithm.init(key))
        return meshes.place(mesh, state)
    # No device ever holds a whole table, nor its moments of the optimizer.
    state = jax.eval_shape(algorithm.init, key)
    specs = meshes.table_specs(state, mesh, split=True)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    init = jax.jit(algorithm.init, out_shardings=shardings)
    return init(meshes.place(mesh, key))


def initial_personal(
    recipe: Recipe,
    key: Array,
    clients: Array | int,
    start: Start | None = None,
) -> Tree:
    """Personal parameters `[n, ...]` before the first round.

    Args:
        recipe: the system; clients start from common values or from values of their
            own.
        key: root key of the experiment.
        clients: ids `[n]`, or `N` for all clients.
        start: `make_start(recipe)`, if it is made already.

    Returns:
        A tree of device arrays.
    """
    ids = jnp.arange(clients) if isinstance(clients, int) else clients
    constants = {
        name: jnp.asarray(values).at[ids].get(mode="clip")
        for name, values in (recipe.constants or {}).items()
    }
    return {**(start or make_start(recipe))(key, ids), **constants}


def make_start(recipe: Recipe) -> Start:
    """`(key, ids [n]) -> personal parameters [n, ...]` without the constants."""

    def start(key: Array) -> Tree:
        params = recipe.model.init(key)
        return {**params.personal, **initial_state(recipe, params.shared)}

    start = at_precision(recipe.precision, start)

    def common(key: Array, ids: Array) -> Tree:
        shared = start(keys.derive(key, keys.Purpose.INIT))
        return jax.tree.map(lambda x: jnp.tile(x, (len(ids),) + (1,) * x.ndim), shared)

    def each(key: Array, ids: Array) -> Tree:
        key = keys.derive(key, keys.Purpose.INIT)
        return jax.vmap(lambda id_: start(jax.random.fold_in(key, id_)))(ids)

    return common if recipe.model.common_start else jax.jit(each)


def start_of(programs: Programs) -> Start:
    """`make_start` of a system."""
    return make_start(programs.recipe)


def pieces(count: int) -> Iterator[slice]:
    """Slices of `PIECE` clients, at most, that cover `count`.

    All have one length, for one program: the last begins early enough to be full.
    """
    for first in range(0, count, PIECE):
        first = max(0, min(first, count - PIECE))
        yield slice(first, min(first + PIECE, count))


def initial_on_host(
    recipe: Recipe,
    key: Array,
    count: int,
    folder: Path | None,
    start: Start | None = None,
):
    """`initial_personal` of `count` clients in NumPy arrays, drawn in pieces.

    Args:
        recipe: the system.
        key: root key of the experiment.
        count: `N`.
        folder: folder of memory maps `personal-0.npy`, ...; `None` for arrays in
            memory.
        start: see `initial_personal`.

    Raises:
        FileError: the folder has no room for the maps.
    """
    start = start or make_start(recipe)
    shapes = jax.eval_shape(lambda: initial_personal(recipe, key, 1, start))
    numbers = itertools.count()

    def empty(leaf):
        shape = (count, *leaf.shape[1:])
        if folder is None:
            return np.empty(shape, leaf.dtype)
        path = folder / f"personal-{next(numbers)}.npy"
        return new_map(path, leaf.dtype, shape, FIX)

    personal = jax.tree.map(empty, shapes)
    for rows in pieces(count):
        # Constants of all clients may not fit the device.
        constants = {
            name: np.asarray(values)[rows]
            for name, values in (recipe.constants or {}).items()
        }
        piece = {**start(key, jnp.arange(rows.start, rows.stop)), **constants}
        jax.tree.map(lambda x, y, rows=rows: x.__setitem__(rows, y), personal, piece)
    return personal
