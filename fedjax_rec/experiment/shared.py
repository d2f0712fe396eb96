"""Systems that were built before, so that building one again compiles nothing.

JAX compiles a program once for each function object. A system is a set of new function
objects, so that a second build of an experiment would compile everything again. Here
the functions of the latest systems are kept, with everything that they depend on as
their key; arrays and scalars are arguments of the programs, and always those of the
latest build.
"""

import collections
import dataclasses
import json
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.prepared import PreparedData
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.fleet.costs import Participants, make_participants
from fedjax_rec.runs.plain import is_plain, plain
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.storage.sources import code_identity

MOST = 4
"""Systems that are kept; the one that was used longest ago goes first."""
_ARGUMENTS = ("name", "seed", "rounds", "eval_every")
"""Fields of an experiment that no function of its system depends on."""
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)


class Key(NamedTuple):
    """Everything that the functions of a system depend on.

    Attributes:
        text: values, code and data.
        parts: the parts of the experiment, of the same classes as long as it is kept.
        data: the interactions, if they were passed and not read from a source.
    """

    text: str
    parts: tuple[Any, ...]
    data: Callable[[], Interactions | None]

    def matches(self, other: "Key | None") -> bool:
        """Whether two keys with equal texts are of the same classes and data."""
        if other is None or self.parts != other.parts:
            return False
        return self.data() is other.data()


class _System(NamedTuple):
    key: Key | None
    programs: Programs
    participants: Participants


_SYSTEMS: collections.OrderedDict[str, _System] = collections.OrderedDict()


def key_of(
    experiment: Experiment,
    prepared: PreparedData,
    data: Interactions | None,
    facts: dict[str, Any],
    progress: bool = False,
) -> Key | None:
    """The key of an experiment's system.

    Args:
        experiment: the experiment.
        prepared: its data.
        data: the interactions, if they were passed.
        facts: other facts that the system was built from, as in JSON.
        progress: show bars for work of more than two seconds.

    Returns:
        The key, or `None` if one part has no complete one: its code was typed into a
        shell or a notebook, or a field holds a value that JSON lacks.
    """
    fields = [f.name for f in dataclasses.fields(experiment)]
    parts = tuple(getattr(experiment, n) for n in fields if n not in _ARGUMENTS)
    code = code_identity(parts)
    if code is None or not is_plain(parts):
        return None
    ingredients = {
        "parts": plain(parts),
        "code": code,
        "origin": experiment.data.origin(progress) if data is None else id(data),
        "digests": prepared.digests,
        "facts": plain(facts),
        "jax": {name: jax.config.values[name] for name in _JAX_SETTINGS},
    }
    known = (lambda: None) if data is None else weakref.ref(data)
    return Key(json.dumps(ingredients, sort_keys=True), parts, known)


def facts_of(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Facts about a system, its backbone and its texts that come from files."""
    corpus: Any = context.corpus
    return {"notes": recipe.notes, "why": recipe.why, "corpus": corpus.loaded()}


def shared(
    key: Key | None, recipe: Recipe, experiment: Experiment, prepared: PreparedData
) -> tuple[Recipe, Participants, Programs]:
    """A recipe with the functions of an equal system, if one was built before.

    Args:
        key: see `key_of`; `None` shares nothing.
        recipe: the recipe.
        experiment: the experiment, for its cohorts and devices.
        prepared: its data.

    Returns:
        The recipe, the participants and the programs of the system.
    """
    system = None if key is None else _SYSTEMS.get(key.text)
    if key is None or system is None or not key.matches(system.key):
        participants = _participants(experiment, recipe, prepared)
        system = _System(key, Programs(recipe, participants.sampler), participants)
    if key is not None:
        _SYSTEMS[key.text] = system
        _SYSTEMS.move_to_end(key.text)
        while len(_SYSTEMS) > MOST:
            _SYSTEMS.popitem(last=False)
    recipe = system.programs.functions_for(recipe)
    return recipe, system.participants, system.programs


def _participants(
    experiment: Experiment, recipe: Recipe, prepared: PreparedData
) -> Participants:
    num_items = prepared.split.train.num_items
    if prepared.pool is not None:
        num_items = len(prepared.pool)
    return make_participants(
        experiment.cohort, experiment.fleet, recipe, prepared.holdings, num_items
    )
