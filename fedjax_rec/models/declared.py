"""Declared parameters of a model, and their values as a score and a loss see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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


def sizes_of(context: Context) -> dict[str, int]:
    """The number of rows of a table, by what a row belongs to."""
    return {"item": context.num_items, "user": context.num_users}


def initial(
    declared: dict[str, Parameter], sizes: dict[str, int], dtype: Any, key: Array
) -> contracts.Params:
    """Initial values of all parameters.

    Args:
        declared: the parameters.
        sizes: see `sizes_of`.
        dtype: type of all values.
        key: a key.
    """
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


def view_of(
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


def zeros(declared: dict[str, Parameter]) -> View:
    """Parameters of two items and one user."""
    lengths = {"item": (2,), "user": (1,), None: ()}
    arrays = {n: jnp.zeros((*lengths[p.rows], *p.shape)) for n, p in declared.items()}
    whole = {n: x for n, x in arrays.items() if not declared[n].rows}
    whole |= {n: arrays[n] for n, p in declared.items() if p.whole}
    return View(arrays, whole)


def check_declared(settings: Any, declared: Any) -> None:
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
