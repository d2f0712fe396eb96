"""The derivation of keys."""

import enum

import jax

from fedjax_rec.core.arrays import Array


class Purpose(enum.IntEnum):
    """The purpose of a key. Two purposes never share random bits.

    The numbers are part of the results: never renumber, only append.
    """

    INIT = 0
    COHORT = 1
    CLIENT = 2
    DATA = 3
    SPLIT = 4
    PARTITION = 5
    EVALUATION = 6
    BASELINE = 7
    CODEC = 8
    ATTACK = 9


def derive(root: Array, purpose: Purpose, *indices: int | Array) -> Array:
    """`fold_in(fold_in(fold_in(root, purpose), round), client_id)`.

    So results depend neither on the cohort's order, nor on chunk size, mesh or resume.

    Args:
        root: typed key of the experiment.
        purpose: purpose of the key.
        *indices: for example the round, then the client's id.

    Returns:
        A typed key.
    """
    key = jax.random.fold_in(root, int(purpose))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
