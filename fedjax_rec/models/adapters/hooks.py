"""Hooks that change nothing, for what an adapter leaves alone."""

from fedjax_rec.core.arrays import Array, Tree


def same_linear(params: Tree, path: str, x: Array, y: Array) -> Array:
    """The output of the linear map at `path` as it is."""
    del params, path, x
    return y


def same_block(params: Tree, path: str, y: Array) -> Array:
    """What the sublayer at `path` adds, as it is."""
    del params, path
    return y


def no_prefix(params: Tree) -> None:
    """Nothing further to attend to."""
    del params
