"""Points that share a program: equal up to seeds and scalars of the recipe."""

import copy
import dataclasses
import functools
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any

from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.experiment.build import make_recipe
from fedjax_rec.experiment.fields import fields_of
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.plain import plain


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
    """The values of the recipe's scalars at one point."""
    return {name: _get(experiment.algorithm, name) for name in recipe.hparams}


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
