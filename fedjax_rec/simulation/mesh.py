"""Devices: the mesh, what lies on each of them, and clients dealt out to them.

The mesh has an axis `clients`, over which `shard_map` runs a round, and an axis
`parts`, which the compiler handles: over it a large backbone's weights or large item
tables are split.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.data.clients import ClientData

CLIENTS, PARTS = "clients", "parts"
EVERYWHERE, DEALT = PartitionSpec(), PartitionSpec(CLIENTS)


def make_mesh(devices: int = 0, parts: int = 1) -> Mesh:
    """A mesh of `devices / parts` shares of the clients.

    Args:
        devices: how many, of all processes together; 0 is all there are.
        parts: devices that hold a backbone or a table together.

    Raises:
        ValueError: there are fewer devices, or they do not divide.
    """
    there = jax.devices()
    count = devices or len(there)
    if not 1 <= count <= len(there):
        raise ValueError(
            f"mesh.devices={devices}, and there are {len(there)} "
            f"{there[0].platform} device(s); 0 takes all"
        )
    if parts < 1 or count % parts:
        raise ValueError(
            f"{parts} devices a backbone or table do not divide {count} devices"
        )
    if jax.process_count() > 1 and count != len(there):
        raise ValueError(
            f"mesh.devices={devices}: over {jax.process_count()} processes all "
            f"{len(there)} devices take part; leave it at 0"
        )
    return jax.make_mesh(
        (count // parts, parts),
        (CLIENTS, PARTS),
        axis_types=(AxisType.Auto,) * 2,
        devices=there[:count],
    )


def shares(mesh: Mesh) -> int:
    """How many devices (or groups of them) have clients of their own."""
    return mesh.shape[CLIENTS]


def place(mesh: Mesh, tree: Tree, spec: PartitionSpec | Tree = EVERYWHERE) -> Tree:
    """Puts arrays on the mesh's devices; every process passes the same values.

    Args:
        mesh: of all processes' devices.
        tree: of NumPy or JAX arrays; typed keys too.
        spec: of all leaves, or a tree of specs.
    """
    specs = spec
    if isinstance(spec, PartitionSpec):
        specs = jax.tree.map(lambda _: spec, tree)

    def one(leaf: Any, spec: PartitionSpec) -> Array:
        sharding = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        is_array = isinstance(leaf, jax.Array)
        if is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf), spec))
        if is_array and not leaf.is_fully_addressable:
            return leaf
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(one, tree, specs)


def place_dealt(mesh: Mesh, parts: dict[int, Tree]) -> Tree:
    """Joins each share's own arrays, of equal shapes, into ones dealt over the mesh.

    Args:
        mesh: of all processes' devices.
        parts: by share, at least those of this process's devices.
    """
    sharding = NamedSharding(mesh, DEALT)
    count = shares(mesh)

    def one(*leaves: Any) -> Array:
        by_share = dict(zip(parts, leaves, strict=True))
        length, *rest = leaves[0].shape
        if count == 1 and jax.process_count() == 1:
            return jax.device_put(leaves[0], sharding)

        def share(index: Any) -> Any:
            return by_share[(index[0].start or 0) // max(length, 1)]

        return jax.make_array_from_callback((count * length, *rest), sharding, share)

    return jax.tree.map(one, *parts.values())


def own_shares(mesh: Mesh) -> list[int]:
    """The shares of which a device belongs to this process."""
    mine = jax.process_index()
    return [
        number
        for number, group in enumerate(mesh.devices.reshape(shares(mesh), -1))
        if any(device.process_index == mine for device in group)
    ]


def place_taken(mesh: Mesh, order: np.ndarray, take: Callable[..., Tree]) -> Tree:
    """`take(order)` dealt over the mesh; a process takes for its own devices alone.

    Args:
        mesh: of all processes' devices.
        order: `[shares * n]`.
        take: `[n]` of them to arrays of leading length `n`, in NumPy.
    """
    groups = np.split(order, shares(mesh))
    return place_dealt(mesh, {share: take(groups[share]) for share in own_shares(mesh)})


def agree(text: str) -> str:
    """What the first process of a run says, for all of them."""
    if jax.process_count() == 1:
        return text
    said = np.zeros(4096, np.uint8)
    data = text.encode()
    said[: len(data)] = np.frombuffer(data, np.uint8)
    heard = np.asarray(multihost_utils.broadcast_one_to_all(said))
    return heard.tobytes().rstrip(b"\0").decode()


def run_dealt(function, mesh: Mesh, in_specs: Tree, out_specs: Tree):
    """`function` on every share's own arrays, under `shard_map` over `clients`.

    With `check_vma`, a gradient of what all devices hold would be the sum over them,
    which mixes clients; without it every device computes for itself, and says itself
    what it joins. The axis `parts` stays with the compiler.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={CLIENTS},
        check_vma=False,
    )


def client_specs(data: ClientData) -> Any:
    """Which arrays of dealt client data are dealt: all but the pool."""
    specs = jax.tree.map(lambda _: DEALT, data)
    if data.pool is not None:
        specs = dataclasses.replace(specs, pool=EVERYWHERE)
    return specs


def deal(buckets: np.ndarray, count: int) -> list[np.ndarray]:
    """Clients by share, ascending: of each size bucket every share gets as many.

    Args:
        buckets: `[n]` the size bucket of each client.
        count: of shares.
    """
    owner = np.empty(len(buckets), np.int32)
    owner[np.argsort(buckets, kind="stable")] = np.arange(len(buckets)) % count
    return [np.flatnonzero(owner == share) for share in range(count)]


def table_specs(shared: Tree, mesh: Mesh, split: bool) -> Tree:
    """Specs of shared parameters: row tables over `parts` if `split`, else whole.

    Raises:
        ValueError: a table's rows do not divide.
    """
    parts = mesh.shape[PARTS]

    def one(leaf):
        if not split or not rows.is_table(leaf):
            return jax.tree.map(lambda _: EVERYWHERE, leaf)
        if leaf.values.shape[0] % parts:
            raise ValueError(
                f"mesh.items={parts} does not divide the {leaf.values.shape[0]} rows "
                f"of the {leaf.space} table"
            )
        return jax.tree.map(lambda _: PartitionSpec(PARTS), leaf)

    return jax.tree.map(one, shared, is_leaf=rows.is_table)


def weight_specs(frozen: Tree, mesh: Mesh, split: bool) -> Tree:
    """Specs of frozen arrays: if `split`, those of 4,096 numbers or more over `parts`.

    Each is split along its longest axis that divides.
    """
    parts = mesh.shape[PARTS] if split else 1

    def one(leaf: Any) -> PartitionSpec:
        axes = [a for a, n in enumerate(leaf.shape) if n % parts == 0 and n >= parts]
        if parts == 1 or not axes or math.prod(leaf.shape) < 4096:
            return EVERYWHERE
        axis = max(axes, key=lambda a: leaf.shape[a])
        return PartitionSpec(*[None] * axis, PARTS)

    return jax.tree.map(one, frozen)
