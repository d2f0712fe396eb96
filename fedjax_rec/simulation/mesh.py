"""The device mesh, arrays placed on it, and clients dealt over it.

The mesh has an axis `clients`, over which `shard_map` runs a round, and an axis
`parts`, which the compiler handles: over it a large backbone's weights or large item
tables are split. A share is one position on the axis `clients`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.pack import pack

CLIENTS, PARTS = "clients", "parts"
EVERYWHERE, DEALT = PartitionSpec(), PartitionSpec(CLIENTS)


def make_mesh(devices: int = 0, parts: int = 1) -> Mesh:
    """A mesh of `devices / parts` shares of the clients.

    Args:
        devices: number of devices of all processes together; 0 is all there are.
        parts: devices that hold a backbone or a table together.

    Raises:
        ValueError: there are fewer devices, or they do not divide.
    """
    available = jax.devices()
    count = devices or len(available)
    if not 1 <= count <= len(available):
        raise ValueError(
            f"mesh.devices={devices}, and there are {len(available)} "
            f"{available[0].platform} device(s); 0 takes all"
        )
    if parts < 1 or count % parts:
        raise ValueError(
            f"{parts} devices a backbone or table do not divide {count} devices"
        )
    if jax.process_count() > 1 and count != len(available):
        raise ValueError(
            f"mesh.devices={devices}: over {jax.process_count()} processes all "
            f"{len(available)} devices take part; leave it at 0"
        )
    return jax.make_mesh(
        (count // parts, parts),
        (CLIENTS, PARTS),
        axis_types=(AxisType.Auto,) * 2,
        devices=available[:count],
    )


def shares(mesh: Mesh) -> int:
    """Number of devices (or groups of them) that hold clients."""
    return mesh.shape[CLIENTS]


def client_axis(mesh: Mesh) -> str | None:
    """The axis that a round joins; `None` for one share, which needs no `shard_map`.

    XLA cannot partition an all-reduce over an axis of one device among the parts.
    """
    return None if shares(mesh) == 1 else CLIENTS


def place(mesh: Mesh, tree: Tree, spec: PartitionSpec | Tree = EVERYWHERE) -> Tree:
    """Puts arrays on the mesh's devices; every process passes the same values.

    Args:
        mesh: mesh of all processes' devices.
        tree: NumPy or JAX arrays; typed keys too.
        spec: the spec of all leaves, or a tree of specs.
    """
    specs = spec
    if isinstance(spec, PartitionSpec):
        specs = jax.tree.map(lambda _: spec, tree)

    def place_leaf(leaf: Any, spec: PartitionSpec) -> Array:
        sharding = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        is_array = isinstance(leaf, jax.Array)
        if is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place_leaf(jax.random.key_data(leaf), spec)
            return jax.random.wrap_key_data(data)
        if is_array and not leaf.is_fully_addressable:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(place_leaf, tree, specs)


def place_dealt(mesh: Mesh, parts: Mapping[int, Tree]) -> Tree:
    """Joins the shares' arrays, of equal shapes, into arrays dealt over the mesh.

    Args:
        mesh: mesh of all processes' devices.
        parts: arrays by share, at least those of this process's devices.
    """
    sharding = NamedSharding(mesh, DEALT)
    count = shares(mesh)

    def join(*leaves: Any) -> Array:
        by_share = dict(zip(parts, leaves, strict=True))
        length, *row_shape = leaves[0].shape
        if count == 1 and jax.process_count() == 1:
            return jax.device_put(leaves[0], sharding)

        def share(index: Any) -> Any:
            return by_share[(index[0].start or 0) // max(length, 1)]

        return jax.make_array_from_callback(
            (count * length, *row_shape), sharding, share
        )

    return jax.tree.map(join, *parts.values())


def place_taken(mesh: Mesh, order: np.ndarray, take: Callable[..., Tree]) -> Tree:
    """`take(order)` dealt over the mesh; a process takes only for its own devices.

    Args:
        mesh: mesh of all processes' devices.
        order: `[shares * n]`.
        take: maps `[n]` of them to NumPy arrays of leading length `n`.
    """
    groups = np.split(order, shares(mesh))
    return place_dealt(mesh, {share: take(groups[share]) for share in own_shares(mesh)})


def place_clients(
    mesh: Mesh,
    data: ClientData,
    groups: Sequence[np.ndarray],
    *,
    clients: int,
    lengths: Sequence[int],
    pool: Array | None,
) -> ClientData:
    """The data of groups of clients, dealt over the mesh.

    Args:
        mesh: mesh of all processes' devices.
        data: all clients' data, as NumPy arrays.
        groups: client ids of each share.
        clients: rows of a share.
        lengths: length of the columns of interactions, and of exclusions.
        pool: the pool of `data` on all devices.
    """
    present = own_shares(mesh)
    parts = pack(
        dataclasses.replace(data, pool=None),
        [groups[share] for share in present],
        clients=clients,
        interactions=lengths[0],
        exclusions=lengths[1],
    )
    dealt = place_dealt(mesh, dict(zip(present, parts, strict=True)))
    return dataclasses.replace(dealt, pool=pool)


def own_shares(mesh: Mesh) -> list[int]:
    """The shares with a device of this process."""
    process = jax.process_index()
    return [
        share
        for share, group in enumerate(mesh.devices.reshape(shares(mesh), -1))
        if any(device.process_index == process for device in group)
    ]


def program(
    function: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any, donate=()
) -> Callable:
    """`function` of every share's arrays, under `jit` and `shard_map` over `clients`.

    With `check_vma`, a gradient of a replicated argument would be the sum over devices,
    which mixes clients; without it each device computes its own gradient, and
    `function` calls the collectives. The compiler handles the axis `parts`.

    Args:
        function: function of arrays of one share.
        mesh: the devices.
        in_specs: specs of the first arguments; further ones are replicated, and so is
            the `pool` of dealt client data and targets.
        out_specs: specs of the results.
        donate: positions of donated arguments.
    """

    def spec_of(argument: Any, spec: PartitionSpec) -> Any:
        if spec != DEALT or getattr(argument, "pool", None) is None:
            return spec
        specs = jax.tree.map(lambda _: DEALT, argument)
        return dataclasses.replace(specs, pool=EVERYWHERE)

    def run(*arguments):
        specs = (*in_specs, *(EVERYWHERE,) * (len(arguments) - len(in_specs)))
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(map(spec_of, arguments, specs)),
            out_specs=out_specs,
            axis_names={CLIENTS},
            check_vma=False,
        )(*arguments)

    single = client_axis(mesh) is None
    return jax.jit(function if single else run, donate_argnums=donate)


def deal(buckets: np.ndarray, count: int) -> list[np.ndarray]:
    """Clients by share, ascending; every share gets as many of each size bucket.

    Args:
        buckets: `[n]` size bucket of each client.
        count: number of shares.
    """
    owner = np.empty(len(buckets), np.int32)
    owner[np.argsort(buckets, kind="stable")] = np.arange(len(buckets)) % count
    return [np.flatnonzero(owner == share) for share in range(count)]


def in_slots(groups: Sequence[np.ndarray], length: int, absent: int) -> np.ndarray:
    """`[shares * length]` int32: the clients of each share, padded with `absent`."""
    slots = np.full((len(groups), length), absent, np.int32)
    for row, group in zip(slots, groups, strict=True):
        row[: len(group)] = group
    return slots.reshape(-1)


def column_lengths(data: ClientData, groups: Sequence[np.ndarray]) -> list[int]:
    """Lengths of columns of interactions and exclusions that hold any of the groups."""
    sizes = np.asarray(data.interactions.size), np.asarray(data.exclude.size)
    return [1 + max(int(size[group].sum()) for group in groups) for size in sizes]


def table_specs(shared: Tree, mesh: Mesh, split: bool) -> Tree:
    """Specs of shared parameters: row tables over `parts` if `split`.

    Raises:
        ValueError: a table's rows do not divide.
    """
    parts = mesh.shape[PARTS]

    def specs_of(leaf):
        if not split or not rows.is_table(leaf):
            return jax.tree.map(lambda _: EVERYWHERE, leaf)
        if leaf.values.shape[0] % parts:
            raise ValueError(
                f"mesh.items={parts} does not divide the {leaf.values.shape[0]} rows "
                f"of the {leaf.space} table"
            )
        return jax.tree.map(lambda _: PartitionSpec(PARTS), leaf)

    return jax.tree.map(specs_of, shared, is_leaf=rows.is_table)


def weight_specs(frozen: Tree, mesh: Mesh, split: bool) -> Tree:
    """Specs of frozen arrays: if `split`, those of 4,096 numbers or more over `parts`.

    Each is split along its longest axis that divides.
    """
    parts = mesh.shape[PARTS] if split else 1

    def spec_of(leaf: Any) -> PartitionSpec:
        axes = [a for a, n in enumerate(leaf.shape) if n % parts == 0 and n >= parts]
        if parts == 1 or not axes or math.prod(leaf.shape) < 4096:
            return EVERYWHERE
        axis = max(axes, key=lambda a: leaf.shape[a])
        return PartitionSpec(*[None] * axis, PARTS)

    return jax.tree.map(spec_of, frozen)
