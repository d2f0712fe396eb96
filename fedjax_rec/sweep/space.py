"""Grids and samples of a sweep, read from the command line."""

import contextlib
import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fedjax_rec.experiment import fields, registry
from fedjax_rec.experiment.names import find
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.storage.errors import UserError

GRID_FORMS = "a,b,c; 0:5; log:LOW:HIGH:COUNT; linear:LOW:HIGH:COUNT"
SAMPLE_FORMS = "log:LOW:HIGH; uniform:LOW:HIGH; choice:a,b,c"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A field and all its values.

    Attributes:
        field: dotted name.
        values: values in the order given.
        geometric: the values are a geometric progression, so that plots take
            logarithms.
    """

    field: str
    values: tuple[Any, ...]
    geometric: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """A field and the distribution of its values.

    Attributes:
        field: dotted name.
        kind: `log` (the logarithm is uniform), `uniform`, `choice`.
        low: lower end of `log` and `uniform`.
        high: upper end of `log` and `uniform`; whole numbers include it.
        values: values of `choice`.
        integer: whether values are whole numbers.
    """

    field: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[Any, ...] = ()
    integer: bool = False

    def sample(self, rng: np.random.Generator) -> Any:
        """One value, to six digits, so that it reads the same in names and tables."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        if self.kind == "log":
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        elif self.integer:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        else:
            value = rng.uniform(self.low, self.high)
        return round(value) if self.integer else float(f"{value:.6g}")


def with_kinds(
    experiments: Sequence[Experiment], texts: Sequence[str]
) -> list[Experiment]:
    """The experiments, and variants with every swept kind of a part.

    A swept field may belong to a swept kind, as in `codec=sign,top_k`.

    Args:
        experiments: the experiments that points change.
        texts: grids and samples.
    """
    variants = list(experiments)
    for text in texts:
        name, _, form = text.partition("=")
        path = name.replace("-", "_")
        for experiment in list(variants):
            field = fields.fields_of(experiment).get(path)
            if field is None or field.slot is None:
                continue
            for kind in form.removeprefix("choice:").split(","):
                with contextlib.suppress(UserError):  # `parse_grid` refuses it
                    variants.append(
                        fields.with_values(experiment, {path: kind.strip()})
                    )
    return variants


def parse_grid(experiments: Sequence[Experiment], text: str) -> Axis:
    """Reads `FIELD=VALUES`.

    Args:
        experiments: experiments; one of them has the field, and `name` chooses among
            several.
        text: `algorithm.client-lr=0.01,0.1,1`, `seed=0:5` (0 to 4),
            `algorithm.client-lr=log:1e-3:1:7` or `linear:0:1:5`.

    Raises:
        UserError: there is no such field, or a value is not valid.
    """
    name, field, form = _read(experiments, "--grid", text, GRID_FORMS)
    hint = field.hint
    kind, *numbers = form.split(":")
    if kind in ("log", "linear") and len(numbers) == 3:
        low, high = _range(text, kind, hint, numbers[:2])
        count = fields.read_value("COUNT", int, [numbers[2]])
        if count < 2:
            raise UserError(f"--grid {text}: expected at least 2 values, got {count}")
        space = np.geomspace if kind == "log" else np.linspace
        values: list[Any] = [float(f"{v:.6g}") for v in space(low, high, count)]
        if hint is int:
            values = list(dict.fromkeys(round(v) for v in values))
        return Axis(field=name, values=tuple(values), geometric=kind == "log")
    if ":" in form and hint is int:
        bounds = [fields.read_value(name, int, [n]) for n in form.split(":")]
        if len(bounds) not in (2, 3) or not range(*bounds):
            raise UserError(
                f"--grid {text}: expected START:STOP with START below STOP (0:5 is "
                "0, 1, 2, 3, 4)"
            )
        return Axis(field=name, values=tuple(range(*bounds)))
    if ":" in form and hint is float:
        raise UserError(f"--grid {text}: expected {fields.shown(name)}= {GRID_FORMS}")
    values = [_value(name, field, v.strip()) for v in form.split(",")]
    if len(set(values)) < len(values):
        raise UserError(f"--grid {text}: a value occurs twice")
    return Axis(field=name, values=tuple(values), geometric=_geometric(values))


def _value(name: str, field: fields.Field, text: str) -> Any:
    """A value; for a part, the name of its kind, which has to exist."""
    if field.slot is None:
        return fields.read_value(name, field.hint, [text])
    return registry.name_of(fields.read_kind(name, field, text))


def parse_sample(experiments: Sequence[Experiment], text: str) -> Draw:
    """Reads `FIELD=DISTRIBUTION`: `log:1e-3:1`, `uniform:0:1`, `choice:a,b`.

    Raises:
        UserError: there is no such field, or no such distribution.
    """
    name, field, form = _read(experiments, "--sample", text, SAMPLE_FORMS)
    hint = field.hint
    kind, _, limits = form.partition(":")
    if kind == "choice" and limits:
        values = tuple(_value(name, field, v.strip()) for v in limits.split(","))
        return Draw(field=name, kind=kind, values=values)
    numbers = limits.split(":")
    if kind not in ("log", "uniform") or len(numbers) != 2:
        raise UserError(
            f"--sample {text}: expected {fields.shown(name)}= {SAMPLE_FORMS}"
        )
    low, high = _range(text, kind, hint, numbers, flag="--sample")
    return Draw(field=name, kind=kind, low=low, high=high, integer=hint is int)


def grid_settings(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every combination, the last axis fastest.

    >>> grid_settings([Axis(field="a", values=(1, 2)), Axis(field="b", values=(3,))])
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    names = [axis.field for axis in axes]
    combinations = itertools.product(*(axis.values for axis in axes))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def sampled_settings(
    draws: Sequence[Draw], count: int, seed: int
) -> list[dict[str, Any]]:
    """`count` samples; the first ones do not depend on `count`."""
    return [
        {
            d.field: d.sample(np.random.default_rng([seed, i, j]))
            for j, d in enumerate(draws)
        }
        for i in range(count)
    ]


def check_fields(axes: Sequence[Axis], draws: Sequence[Draw]) -> None:
    """Raises a UserError if a field is named twice."""
    names = [part.field for part in (*axes, *draws)]
    for field in names:
        if names.count(field) > 1:
            raise UserError(f"{fields.shown(field)} is swept twice; expected once")


def names_axis(experiments: Sequence[Experiment]) -> Axis:
    """The axis of several experiments, by name."""
    return Axis(field="name", values=tuple(dict.fromkeys(e.name for e in experiments)))


def _read(experiments, flag, text, forms) -> tuple[str, fields.Field, str]:
    name, equals, form = text.partition("=")
    if not equals or not form:
        raise UserError(f"{flag} {text}: expected FIELD=VALUES, VALUES one of {forms}")
    names = names_axis(experiments).values
    if name == "name" and len(names) > 1:
        return name, fields.Field(Literal[*names], "", None), form
    errors = []
    for experiment in experiments:
        present = fields.fields_of(experiment)
        del present["name"]
        try:
            path = find(present, name, form.split(","))
            if typing.get_origin(present[path].hint) is tuple:
                raise UserError(
                    f"{fields.shown(path)} takes several values; expected a field "
                    "of one"
                )
            return path, present[path], form
        except UserError as error:
            errors.append(error)
    raise UserError(f"{flag} {text}: {errors[0]}")


def _range(text, kind, hint, numbers, flag="--grid"):
    if hint not in (int, float):
        raise UserError(f"{flag} {text}: {kind} wants a field that is a number")
    low, high = (fields.read_value(flag, float, [n]) for n in numbers)
    if not low < high or (kind == "log" and low <= 0):
        above = "0 < LOW < HIGH" if kind == "log" else "LOW < HIGH"
        got = " and ".join(map(fields.text_of, (low, high)))
        raise UserError(f"{flag} {text}: expected {above}, got {got}")
    return low, high


def read_bytes(text: str) -> int:
    """Reads `--memory`.

    >>> read_bytes("1.5k")
    1536
    """
    units = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([kmg]?)(i?b)?", text.strip().lower())
    size = int(float(match[1]) * units[match[2]]) if match else 0
    if size < 1:
        raise UserError(f"--memory {text}: expected bytes such as 500M or 4G")
    return size


def _geometric(values: Sequence[Any]) -> bool:
    numbers = all(isinstance(v, int | float) and v > 0 for v in values)
    if not numbers or len(values) < 3:
        return False
    ratios = [b / a for a, b in itertools.pairwise(sorted(values))]
    return min(ratios) > 1.4 and max(ratios) / min(ratios) < 1.3
