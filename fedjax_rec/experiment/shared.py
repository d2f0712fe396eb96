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
from typing import Any, NamedTuple

import jax

from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Measure, bind
from fedjax_rec.experiment.prepared import PreparedData
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.fleet.costs import Participants, make_participants
from fedjax_rec.runs.fingerprint import content_of
from fedjax_rec.runs.plain import is_plain, plain
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.storage.sources import code_identity

MOST = 4
"""Systems that are kept; the one that was used longest ago goes first."""
_ARGUMENTS = ("name", "data", "seed", "rounds", "eval_every")
"""Fields of an experiment that no function of its system reads."""
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)


class Key(NamedTuple):
    """Everything that the functions of a system depend on.

    Attributes:
        text: values, code and data.
        parts: the parts of the experiment, but for its data; they are equal to those of
            another key only if they are of the same classes.
    """

    text: str
    parts: tuple[Any, ...]


class System(NamedTuple):
    """Functions of an experiment.

    Attributes:
        parts: see `Key`.
        programs: its programs.
        participants: draws its cohorts.
        metric: the function of its protocol's metric.
    """

    parts: tuple[Any, ...]
    programs: Programs
    participants: Participants
    metric: Measure | None


_SYSTEMS: collections.OrderedDict[str, System] = collections.OrderedDict()


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
        prepared: its data. They count by `origin`, if the data have such a method, or
            by their content.
        data: the interactions, if they were passed.
        facts: other facts that the system was built from, as in JSON.
        progress: show bars for work of more than two seconds.

    Returns:
        The key, or `None` if a part has no complete one: its code was typed into a
        shell or a notebook, or a field holds a value that JSON lacks.
    """
    fields = [f.name for f in dataclasses.fields(experiment)]
    parts = tuple(getattr(experiment, n) for n in fields if n not in _ARGUMENTS)
    source, split = experiment.data, prepared.split
    read = data is None and hasattr(source, "origin")
    code = code_identity([*parts, type(source)] if read else parts)
    if code is None or not is_plain(parts):
        return None
    pieces = () if read else (split.train, split.val, split.test)
    ingredients = {
        "parts": plain(parts),
        "code": code,
        "data": source.origin(progress) if read else [*map(content_of, pieces)],
        "digests": prepared.digests,
        "facts": plain(facts),
        "jax": {name: jax.config.values[name] for name in _JAX_SETTINGS},
    }
    return Key(json.dumps(ingredients, sort_keys=True), parts)


def facts_of(recipe: Recipe, context: Context) -> dict[str, Any]:
    """Facts about a system, its backbone and its texts that come from files."""
    corpus: Any = context.corpus
    return {"notes": recipe.notes, "why": recipe.why, "corpus": corpus.loaded()}


def shared(
    key: Key | None,
    recipe: Recipe,
    experiment: Experiment,
    protocol: Protocol,
    prepared: PreparedData,
) -> tuple[Recipe, System]:
    """The system of an experiment: an equal one, if one was built before.

    Args:
        key: see `key_of`; `None` shares nothing.
        recipe: the recipe.
        experiment: the experiment, for its cohorts and devices.
        protocol: its protocol, for the metric.
        prepared: its data.

    Returns:
        The recipe with the functions of the system, and the system.
    """
    system = None if key is None else _SYSTEMS.get(key.text)
    if key is None or system is None or key.parts != system.parts:
        participants = _participants(experiment, recipe, prepared)
        system = System(
            parts=() if key is None else key.parts,
            programs=Programs(recipe, participants.sampler),
            participants=participants,
            metric=bind(protocol, prepared.split.train, prepared.targets["test"]),
        )
    if key is not None:
        _SYSTEMS[key.text] = system
        _SYSTEMS.move_to_end(key.text)
        while len(_SYSTEMS) > MOST:
            _SYSTEMS.popitem(last=False)
    return system.programs.functions_for(recipe), system


def _participants(
    experiment: Experiment, recipe: Recipe, prepared: PreparedData
) -> Participants:
    num_items = prepared.split.train.num_items
    if prepared.pool is not None:
        num_items = len(prepared.pool)
    return make_participants(
        experiment.cohort, experiment.fleet, recipe, prepared.holdings, num_items
    )
