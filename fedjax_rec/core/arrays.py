"""Array aliases, and dataclasses that are pytrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

Array = jax.Array
Tree = Any
"""A pytree of arrays."""
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def struct(cls: type[_T]) -> type[_T]:
    """Makes `cls` a frozen keyword-only dataclass that is a JAX pytree.

    Fields declared with `static()` become part of the tree's structure, so that a
    change of their value retraces; all others are leaves or subtrees.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data, meta)


def static(**kwargs: Any) -> Any:
    """Declares a field of a `struct` that belongs to the tree's structure."""
    return dataclasses.field(metadata={"static": True}, **kwargs)
