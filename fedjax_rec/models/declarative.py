"""Models from declared parameters, one score and one loss.

A subclass says which parameters there are, how an item is scored and which loss is
trained; it reads the fields of its settings as `self.x`. Floating-point fields that
neither `parameters` nor `score` read are traced, so that a sweep over them is one
program.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from etils import epy

from fedjax_rec.core.context import Context
from fedjax_rec.models.declared import (
    Batch,
    Parameter,
    check_declared,
    initial,
    sizes_of,
    view_of,
    zeros,
)

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import contracts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declarative:
    """Settings that declare parameters, a score and a loss.

    Class attributes: `static`, floating-point fields that are not traced, because
    Python reads their value; `common_start`, whether personal parameters start equal on
    every client.
    """

    static: ClassVar[tuple[str, ...]] = ()
    common_start: ClassVar[bool] = False

    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name, from `table` and `dense`."""
        raise NotImplementedError

    def score(self, p: Any) -> Any:
        """Scores of the items of `p`, a `View`; higher ranks first."""
        raise NotImplementedError

    def loss(self, p: Any, batch: Any) -> Any:
        """The loss of a `Batch`, by default the binary cross-entropy of the scores.

        Returns:
            A scalar, or `(scalar, metrics)` with a dict of scalars to be logged.
        """
        return batch.bce(self.score(p))

    @property
    def hparams(self) -> dict[str, Any]:
        """The traced fields: those that `loss` receives as arrays."""
        read: set[str] = set(self.static)
        seen = _recording(self, read)
        declared = seen.parameters()
        check_declared(self, declared)
        jax.eval_shape(lambda: seen.score(zeros(declared)))
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.type in (float, "float") and field.name not in read
        }

    def with_traced(self, values: Mapping[str, Any]) -> Any:
        """A copy with values of the traced fields that may be arrays."""
        made = copy.copy(self)  # arrays do not pass `__post_init__`
        vars(made).update(values)
        return made

    def declared_model(self, context: Context) -> contracts.Model:
        """The model for a catalog; its loss reads `hparams`.

        Raises:
            ValueError: `parameters` declares something else, or nothing shared.
        """
        declared = self.parameters()
        check_declared(self, declared)
        names, sizes = tuple(self.hparams), sizes_of(context)

        def loss(params, frozen, batch, key, hparams):
            # Local training replaces the ids of gathered rows by `None`.
            ids = {name: batch.get(f"{name}_id", batch[name]) for name in sizes}
            pairs = Batch(**ids, label=batch["label"], mask=batch["mask"])
            view = view_of(declared, params, batch, ids)
            settings = self.with_traced({name: hparams[name] for name in names})
            try:
                value = settings.loss(view, pairs)
            except jax.errors.ConcretizationTypeError as error:
                raise TypeError(
                    f"{type(self).__name__}.loss needs the value of an array or of a "
                    "traced field, as `if self.x > 0` does: use jnp.where, or name the "
                    f"field in the class attribute `static`; traced: {', '.join(names)}"
                ) from error
            value, metrics = value if isinstance(value, tuple) else (value, {})
            if jnp.shape(value) != ():
                raise ValueError(
                    f"{type(self).__name__}.loss returns {list(jnp.shape(value))}, "
                    "expected a scalar, such as batch.mean(values)"
                )
            return value, metrics

        def score(params, frozen, query, candidates):
            ids = {"item": candidates, "user": query["user"][None]}
            scores = self.score(view_of(declared, params, ids, ids))
            length = sizes["item"] if candidates is None else candidates.shape[0]
            if jnp.shape(scores) != (length,):
                raise ValueError(
                    f"{type(self).__name__}.score returns {list(jnp.shape(scores))} "
                    f"for {length} items, expected one number for each"
                )
            return scores

        return contracts.Model(
            lambda key: initial(declared, sizes, context.dtype, key),
            loss,
            score,
            common_start=self.common_start,
            single_user=any(p.personal for p in declared.values()),
        )


def _recording(settings: Any, read: set[str]) -> Any:
    """A copy that adds the names of the attributes that are read to a set."""

    class Recording(type(settings)):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    made = copy.copy(settings)
    object.__setattr__(made, "__class__", Recording)
    return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(Declarative):
    """A model of one's own for `FedAvg(model=...)`.

    A subclass is a frozen dataclass with `parameters`, `score` and, if it is not the
    binary cross-entropy, `loss`, see `Declarative`.
    """

    def build(self, context: Context) -> contracts.Model:
        """The model for a catalog."""
        return self.declared_model(context)
