"""Compiled programs of a system, which several simulations of it share."""

from collections.abc import Callable, Hashable
from typing import Any

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler

MOST = 64
"""Programs that are kept; the one that was used longest ago goes first."""


class Programs:
    """Programs by their settings, each made once.

    A program closes over the functions of one system and over the settings it is made
    with; arrays and scalars are arguments. So simulations with the same functions may
    share them, whatever their seeds, values of `hparams` and frozen arrays.

    Attributes:
        recipe: the system, without its arrays.
        sample: draws the cohort of a round, see `Sampler`.

    Args:
        recipe: the system.
        sampler: draws cohorts.
    """

    def __init__(self, recipe: Recipe, sampler: Sampler):
        self.recipe, self.sample = without_arrays(recipe), sampler.sample
        self._made: dict[Hashable, Any] = {}

    def get(self, make: Callable[..., Callable], *settings: Hashable) -> Callable:
        """`make(programs, *settings)`, which is called once for equal settings."""
        key = (make, *settings)
        try:
            hash(key)
        except TypeError:  # such as a metric with a list among its fields
            return make(self, *settings)
        program = self._made.pop(key, None) or make(self, *settings)
        self._made[key] = program
        if len(self._made) > MOST:
            del self._made[next(iter(self._made))]
        return program

    def serve(self, recipe: Recipe, sampler: Sampler) -> bool:
        """Whether a system and a sampler have these very functions."""
        fields = zip(self.recipe, without_arrays(recipe), strict=True)
        same = all(ours is theirs for ours, theirs in fields)
        return same and sampler.sample is self.sample

    def functions_for(self, recipe: Recipe) -> Recipe:
        """The arrays and notes of a recipe, with the functions of these programs."""
        arrays = {name: getattr(recipe, name) for name in _ARRAYS}
        return self.recipe._replace(**arrays)


_ARRAYS = ("hparams", "constants", "frozen", "notes", "why")


def without_arrays(recipe: Recipe) -> Recipe:
    """A recipe's functions and the properties that programs depend on."""
    return recipe._replace(**dict.fromkeys(_ARRAYS))
