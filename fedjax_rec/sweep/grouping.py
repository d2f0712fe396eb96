"""Which points share a program: all but seeds and scalars of the recipe is equal."""

import copy
import dataclasses
import json
import operator
import typing
from collections.abc import Callable, Sequence
from typing import Any

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.experiment.build import Experiment
from fedjax_rec.runs.folder import plain


class DiffersError(Exception):
    """Points need different recipes.

    Attributes:
        outcomes: `[P]`; those with one outcome may share a recipe.
    """

    def __init__(self, field: str, outcomes: Sequence[Any]):
        super().__init__(f"{field} decides the shape of the program")
        self.outcomes = list(outcomes)


class Several:
    """A number with a value for each point, which only a program may calculate with.

    A recipe is built once for all points with these in place of numbers. One that is
    passed on into `Recipe.hparams` has no part in the program's shape. A branch on it
    (`if self.proximal`) holds as long as all points take it the same way; arithmetic
    would bake a value into the program, and is refused.
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
    """Fields of an algorithm that may be arrays: its floating-point numbers."""
    hints = typing.get_type_hints(type(algorithm))
    return [f.name for f in dataclasses.fields(algorithm) if hints[f.name] is float]


def groups_of(experiments: Sequence[Experiment]) -> list[list[int]]:
    """Positions of experiments that are equal but for seed and scalars, by group."""
    groups: dict[str, list[int]] = {}
    for position, experiment in enumerate(experiments):
        config = plain(experiment)
        del config["seed"], config["name"]
        for name in scalar_fields(experiment.algorithm):
            if name not in _read_by_the_rule(experiment):
                del config["algorithm"][name]
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(position)
    return list(groups.values())


def _read_by_the_rule(experiment: Experiment) -> tuple[str, ...]:
    """Scalars that the server's rule was made from, which so belong to the program."""
    rule = experiment.aggregation
    inverse = rule.rule == "q_fedavg" and rule.lipschitz is None
    return ("client_lr",) if inverse else ()


def data_of(experiment: Experiment) -> str:
    """Equal where two experiments read the same data."""
    return json.dumps(plain(experiment.data), sort_keys=True)


def common_recipe(experiments: Sequence[Experiment]) -> Callable[..., Recipe]:
    """`make_recipe` of `experiment.build` that serves all of a group's points.

    Raises (when it is called):
        DiffersError: a field that differs is not just a scalar of the recipe.
    """
    algorithms = [experiment.algorithm for experiment in experiments]
    varied = {}
    for name in scalar_fields(algorithms[0]):
        values = [getattr(algorithm, name) for algorithm in algorithms]
        if len(set(values)) > 1:
            varied[name] = Several(name, values)

    def make_recipe(**sizes: Any) -> Recipe:
        probe = copy.copy(algorithms[0])
        for name, several in varied.items():
            object.__setattr__(probe, name, several)
        try:
            recipe = probe.build(**sizes)
        except TypeError as error:
            if not varied:
                raise
            both = list(zip(*(s.values for s in varied.values()), strict=True))
            raise DiffersError(", ".join(varied), both) from error
        for name, several in varied.items():
            if recipe.hparams.get(name) is not several:
                raise DiffersError(name, several.values)
        first = {name: several.values[0] for name, several in varied.items()}
        return recipe._replace(hparams={**recipe.hparams, **first})

    return make_recipe


def scalars_of(recipe: Recipe, experiment: Experiment) -> dict[str, float]:
    """A point's own values of the recipe's scalars."""
    return {
        name: getattr(experiment.algorithm, name, value)
        for name, value in recipe.hparams.items()
    }
