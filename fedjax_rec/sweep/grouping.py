"""Points that share a program: equal up to seeds and scalars, as many as fit."""

import copy
import dataclasses
import functools
import json
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.fields import fields_of
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.plain import plain
from fedjax_rec.simulation.cells import Layout, arrange
from fedjax_rec.simulation.round import train_client
from fedjax_rec.simulation.side_by_side import resident_data
from fedjax_rec.simulation.simulation import Simulation


class DiffersError(Exception):
    """Points need different recipes.

    Attributes:
        outcomes: `[P]`; points with equal outcomes may share a recipe.
    """

    def __init__(self, field: str, outcomes: Sequence[Any]):
        super().__init__(f"{field} decides the shape of the program")
        self.outcomes = list(outcomes)


class Several:
    """A number with one value per point, on which only a program may do arithmetic.

    A recipe is built once for all points with these in place of numbers. One that is
    passed on into `Recipe.hparams` has no part in the program's shape. A branch on it
    (`if self.proximal`) is valid if all points take it the same way; arithmetic would
    make a value part of the program, and is refused.
    """

    def __init__(self, field: str, values: Sequence[float]):
        self.field, self.values = field, tuple(values)

    def _agree(self, outcomes: Sequence[Any]) -> Any:
        if len(set(outcomes)) > 1:
            raise DiffersError(self.field, outcomes)
        return outcomes[0]

    def __bool__(self) -> bool:
        return self._agree([bool(v) for v in self.values])

    __hash__ = object.__hash__


def _comparison(compare: Callable[[Any, Any], bool]):
    def method(self: Several, other: Any) -> bool:
        if other is self:
            return compare(0, 0)
        return self._agree([compare(v, other) for v in self.values])

    return method


def _refusal(self: Several, *others: Any):
    raise DiffersError(self.field, self.values)


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Several, f"__{_name}__", _comparison(getattr(operator, _name)))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod"):
    setattr(Several, f"__{_name}__", _refusal)
    setattr(Several, f"__r{_name}__", _refusal)
for _name in ("neg", "abs", "float", "int", "round", "array", "jax_array"):
    setattr(Several, f"__{_name}__", _refusal)


def scalar_fields(algorithm: Any) -> list[str]:
    """Dotted names of an algorithm's floating-point numbers, which may be arrays."""
    return [name for name, field in fields_of(algorithm).items() if field.hint is float]


def groups_of(experiments: Sequence[Experiment]) -> list[list[int]]:
    """Positions of experiments that are equal up to seed and scalars, by group."""
    groups: dict[str, list[int]] = {}
    for position, experiment in enumerate(experiments):
        config = plain(experiment)
        del config["seed"], config["name"]
        for name in scalar_fields(experiment.algorithm):
            *owners, field = name.split(".")
            part = functools.reduce(operator.getitem, owners, config["algorithm"])
            del part[field]
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(position)
    return list(groups.values())


def data_key(experiment: Experiment) -> str:
    """A key that is equal for experiments with the same data."""
    return json.dumps(plain(experiment.data), sort_keys=True)


def common_recipe(
    experiments: Sequence[Experiment],
) -> Callable[[Experiment, Context], Recipe]:
    """`recipe_of` of `experiment.build` for all points of a group.

    When called, it raises a `DiffersError` if a field that differs is not only a scalar
    of the recipe.
    """
    algorithms = [experiment.algorithm for experiment in experiments]
    values = {
        name: [_get(algorithm, name) for algorithm in algorithms]
        for name in scalar_fields(algorithms[0])
    }
    varied = {n: Several(n, v) for n, v in values.items() if len(set(v)) > 1}

    def recipe_of(experiment: Experiment, context: Context) -> Recipe:
        probe = algorithms[0]
        for name, number in varied.items():
            probe = _with(probe, name, number)
        try:
            probed = dataclasses.replace(experiment, algorithm=probe)
            recipe = make_recipe(probed, context)
        except TypeError as error:
            if not varied:
                raise
            both = list(zip(*(s.values for s in varied.values()), strict=True))
            raise DiffersError(", ".join(varied), both) from error
        for name, number in varied.items():
            if recipe.hparams.get(name) is not number:
                raise DiffersError(name, number.values)
        first = {name: number.values[0] for name, number in varied.items()}
        return recipe._replace(hparams={**recipe.hparams, **first})

    return recipe_of


def scalars_of(recipe: Recipe, experiment: Experiment) -> dict[str, float]:
    """The values of the recipe's scalars at one point; others keep the recipe's."""
    values = {}
    for name, value in recipe.hparams.items():
        try:
            values[name] = _get(experiment.algorithm, name)
        except AttributeError:
            values[name] = value
    return values


def _get(settings: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), settings)


def _with(settings: Any, name: str, value: Any) -> Any:
    """A copy with one field replaced, without the checks of its classes."""
    field, _, inner = name.partition(".")
    if inner:
        value = _with(getattr(settings, field), inner, value)
    changed = copy.copy(settings)
    object.__setattr__(changed, field, value)
    return changed


CPU_MOST = 8
"""Points of one `vmap` on a CPU: measured no faster beyond, see docs/sweeps.md."""
ACCELERATOR_MOST = 256
"""Points of one `vmap` on an accelerator; each keeps two files open."""


def free_bytes(device: Any) -> int:
    """Free memory of a device; for a CPU that of the system."""
    stats = device.memory_stats() or {} if device.platform != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        return 4 * 2**30  # the system does not say: assume a modest machine


def point_bytes(simulation: Simulation) -> int:
    """Estimated memory of one more point, in bytes.

    Server state, personal state (old and new), aggregate and pseudo-gradient, and the
    values that a chunk of clients keeps for the backward pass of one step.
    """
    recipe, data = simulation.recipe, resident_data(simulation)
    state, personal = simulation.state, simulation.personal

    def size(tree: Tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    chunk = 0
    for bucket, clients in enumerate(simulation.chunks):
        result = jax.eval_shape(
            train_client(recipe, data, bucket),
            state.shared,
            jax.tree.map(lambda x: x[0], personal),
            simulation.frozen,
            recipe.hparams,
            jnp.int32(0),
            simulation.key,
        )
        # Rows at the start, now, their gradients and those of the batch.
        chunk = max(chunk, 6 * clients * size(result))
    scores = 4 * simulation.user_chunk * data.num_items * 4
    server = 4 * size(state.shared) + 2 * size((state.optimizer, state.aggregator))
    return server + 2 * size(personal) + max(chunk, scores)


def most_points(per_point: int, devices: list[Any], memory: int = 0) -> int:
    """Number of points that each device may hold at once, at least one.

    Args:
        per_point: bytes of a point.
        devices: devices that share the points.
        memory: budget of all of them in bytes; 0 is half of the free memory.
    """
    on_cpu = devices[0].platform == "cpu"
    budget = memory or free_bytes(devices[0]) * (1 if on_cpu else len(devices)) // 2
    cap = CPU_MOST if on_cpu else ACCELERATOR_MOST
    return max(1, min(cap, budget // len(devices) // max(per_point, 1)))


def layouts_of(
    simulation: Simulation, seeds: list[int], devices: list[Any], memory: int, say
) -> list[Layout]:
    """The layouts of a group, as many points at once as fit."""
    each = point_bytes(simulation)
    most = most_points(each, devices, memory)
    layouts = arrange(
        seeds,
        devices=min(len(devices), len(seeds)),
        most=most,
        # One row cannot fill an accelerator; on a CPU it overfills the cache.
        seeds_at_once=devices[0].platform != "cpu",
    )
    shape = layouts[0].index.shape
    say(
        f"{len(seeds)} points as one program, in blocks of {shape[0]} device(s) x "
        f"{shape[1]} seed(s) x {shape[2]} setting(s), {len(layouts)} in turn; about "
        f"{each / 2**20:,.1f} MiB a point, room for {most} on a device"
    )
    return layouts
