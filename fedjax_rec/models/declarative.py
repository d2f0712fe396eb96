"""Models from declared parameters, one score and one loss.

A subclass says which parameters there are, how an item is scored and which loss is
trained; it reads the fields of its settings as `self.x`. Floating-point fields that
neither `parameters` nor `score` read are traced, so that a sweep over them is one
program.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from etils import epy

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import contracts, rows
    from fedjax_rec.models import losses

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.context import Context

Draw = Callable[[Any, tuple[int, ...]], Any]


class Parameter(NamedTuple):
    """A declared group of parameters, see `table` and `dense`.

    Attributes:
        shape: of a table without its rows.
        scale: standard deviation of the normal initial values.
        draw: `(key, shape) -> values` instead.
        personal: stays on the client.
        rows: one row for each `item` or `user`; `None` for a dense parameter.
        whole: a client holds and sends all rows.
    """

    shape: tuple[int, ...]
    scale: float
    draw: Draw | None
    personal: bool
    rows: Literal["item", "user"] | None = None
    whole: bool = False


def table(
    *shape: int,
    scale: float = 0.1,
    personal: bool = False,
    rows: Literal["item", "user"] = "item",
    whole: bool = False,
    draw: Draw | None = None,
) -> Parameter:
    """Declares a table with one row of a shape per item (or user).

    Args:
        *shape: shape of a row; nothing for one number per item.
        scale: standard deviation of the normal initial values; 0 for zeros.
        personal: the table stays on the client, which needs `N` times its memory.
        rows: what a row belongs to. A shared table of users is for clients that hold
            several of them.
        whole: clients train and send every row, so that a loss may read the whole
            table; otherwise only the rows of a batch.
        draw: `(key, shape) -> values`, other initial values.

    >>> table(16, personal=True).rows
    'item'
    """
    return Parameter(shape, scale, draw, personal, rows, whole)


def dense(
    *shape: int,
    scale: float = 0.0,
    personal: bool = False,
    draw: Draw | None = None,
) -> Parameter:
    """Declares an array, or a number for an empty shape.

    Args:
        *shape: its shape.
        scale: standard deviation of the normal initial values; 0 for zeros.
        personal: the array stays on the client.
        draw: `(key, shape) -> values`, other initial values.

    >>> dense(8, 2).shape
    (8, 2)
    """
    return Parameter(shape, scale, draw, personal)


class Batch(NamedTuple):
    """A batch of `B` pairs.

    Attributes:
        item: `[B]` item ids.
        user: `[B]` user ids.
        label: `[B]` 1 for an item of the user and 0 for a drawn one, or the rating.
        mask: `[B]` bool, false for padding.
    """

    item: Array
    user: Array
    label: Array
    mask: Array

    def mean(self, values: Array) -> Array:
        """The mean of `[B]` values without padding; 0 for an empty batch."""
        return losses.masked_mean(values, self.mask)

    def bce(self, scores: Array) -> Array:
        """Mean binary cross-entropy of `[B]` scores, as logits."""
        return losses.binary_cross_entropy(scores, self.label, self.mask)

    def squared_error(self, scores: Array) -> Array:
        """Mean squared error of `[B]` scores."""
        return losses.squared_error(scores, self.label, self.mask)


class View:
    """Parameters by name: of a table the rows of the scored items.

    `p.name` has a leading axis of items; that of a table of users, of pairs in a batch
    and of length 1 in a ranking. `p.all("name")` is a whole table, or a dense array.
    """

    def __init__(self, values: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
        self._values, self._whole = values, whole

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(
                f"no parameter {name!r}; declared: {', '.join(self._values)}"
            ) from None

    def all(self, name: str) -> Any:
        """The whole of a parameter.

        Raises:
            ValueError: a client holds only some of its rows.
        """
        if name in self._whole:
            return self._whole[name]
        getattr(self, name)
        raise ValueError(
            f"a client holds only the rows of {name!r} that it touches; declare "
            "table(..., whole=True) to read all"
        )


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
        _check(self, declared)
        jax.eval_shape(lambda: seen.score(_zeros(declared)))
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
        _check(self, declared)
        names, sizes = tuple(self.hparams), _sizes(context)

        def loss(params, frozen, batch, key, hparams):
            # Local training replaces the ids of gathered rows by `None`.
            ids = {name: batch.get(f"{name}_id", batch[name]) for name in sizes}
            pairs = Batch(**ids, label=batch["label"], mask=batch["mask"])
            view = _view(declared, params, batch, ids)
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
            scores = self.score(_view(declared, params, ids, ids))
            length = sizes["item"] if candidates is None else candidates.shape[0]
            if jnp.shape(scores) != (length,):
                raise ValueError(
                    f"{type(self).__name__}.score returns {list(jnp.shape(scores))} "
                    f"for {length} items, expected one number for each"
                )
            return scores

        return contracts.Model(
            lambda key: _initial(declared, sizes, context.dtype, key),
            loss,
            score,
            common_start=self.common_start,
            single_user=any(p.personal for p in declared.values()),
        )


def _sizes(context: Context) -> dict[str, int]:
    return {"item": context.num_items, "user": context.num_users}


def _initial(
    declared: dict[str, Parameter], sizes: dict[str, int], dtype: Any, key: Array
) -> contracts.Params:
    keys = jax.random.split(key, len(declared))
    shared, personal = {}, {}
    for one, (name, p) in zip(keys, declared.items(), strict=True):
        shape = (sizes[p.rows], *p.shape) if p.rows else p.shape
        if p.draw is not None:
            values = jnp.asarray(p.draw(one, shape), dtype)
        else:
            values = p.scale * jax.random.normal(one, shape, dtype)
        if p.rows and not p.whole:
            values = rows.Table(values=values, space=p.rows)
        (personal if p.personal else shared)[name] = values
    return contracts.Params(shared=shared, personal=personal)


def _view(
    declared: dict[str, Parameter],
    params: contracts.Params,
    numbers: Mapping[str, Any],
    ids: Mapping[str, Any],
) -> View:
    """The rows of a batch or of a ranking.

    Args:
        declared: the parameters.
        params: their values.
        numbers: row numbers of the tables by space, `None` for all in order.
        ids: the same for whole tables.
    """
    groups, values, whole = {**params.shared, **params.personal}, {}, {}
    for name, p in declared.items():
        values[name] = groups[name]
        if p.rows and not p.whole:
            values[name] = rows.lookup(groups[name], numbers[p.rows])
            continue
        whole[name] = groups[name]
        if p.rows and ids[p.rows] is not None:
            values[name] = groups[name][ids[p.rows]]
    return View(values, whole)


def _zeros(declared: dict[str, Parameter]) -> View:
    """Parameters of two items and one user."""
    lengths = {"item": (2,), "user": (1,), None: ()}
    arrays = {n: jnp.zeros((*lengths[p.rows], *p.shape)) for n, p in declared.items()}
    whole = {n: x for n, x in arrays.items() if not declared[n].rows}
    whole |= {n: arrays[n] for n, p in declared.items() if p.whole}
    return View(arrays, whole)


def _recording(settings: Any, read: set[str]) -> Any:
    """A copy that adds the names of the attributes that are read to a set."""

    class Recording(type(settings)):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    made = copy.copy(settings)
    object.__setattr__(made, "__class__", Recording)
    return made


def _check(settings: Any, declared: Any) -> None:
    """Raises a ValueError for what `parameters` must not return."""
    where = f"{type(settings).__name__}.parameters()"
    if not isinstance(declared, dict) or not all(
        isinstance(p, Parameter) for p in declared.values()
    ):
        raise ValueError(
            f"{where} returns {declared!r}; expected a dict of table(...) and "
            "dense(...) by name"
        )
    if all(p.personal for p in declared.values()):
        raise ValueError(
            f"{where} declares nothing that clients share; leave out personal=True for "
            "the parameters that the server aggregates"
        )
    for name, p in declared.items():
        if p.rows == "user" and p.personal:
            raise ValueError(
                f"{where}: {name!r} is a personal table of users. A personal vector is "
                f"dense({', '.join(map(str, p.shape))}, personal=True)"
            )
        if name == "all" or not name.isidentifier():
            raise ValueError(f"{where}: choose another name than {name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(Declarative):
    """A model of one's own for `FedAvg(model=...)`.

    A subclass is a frozen dataclass with `parameters`, `score` and, if it is not the
    binary cross-entropy, `loss`, see `Declarative`.
    """

    def build(self, context: Context) -> contracts.Model:
        """The model for a catalog."""
        return self.declared_model(context)
