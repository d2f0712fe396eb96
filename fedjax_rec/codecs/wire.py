"""What goes over the wire: numbers in codes, counted to the bit, and a serializer."""

import jax
import jax.numpy as jnp

from fedjax_rec.types import Array, Field, Tree


def is_field(leaf: Tree) -> bool:
    """Whether `leaf` is a `Field` (for `is_leaf`)."""
    return isinstance(leaf, Field)


def fields(message: Tree) -> list[Field]:
    """The fields of a message, in the order in which they are written."""
    found = jax.tree.leaves(message, is_leaf=is_field)
    return [leaf for leaf in found if is_field(leaf)]


def num_bits(message: Tree) -> Array:
    """uint32 scalar: what serialising a message takes; at most 512 MiB."""
    return sum((field.bits for field in fields(message)), jnp.uint32(0))
