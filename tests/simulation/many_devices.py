"""Runs systems in several places, and prints how results differ, as JSON.

Run as a process of its own by test_mesh.py, since the number of devices is fixed when
JAX starts.
"""

import dataclasses
import json
import re
import sys
import traceback
from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402
from mesh_systems import (  # noqa: E402
    FEW,
    MORE,
    PLACES,
    ROUNDS_ONLY,
    SIDE_BY_SIDE,
    SMALL,
)

from fedjax_rec import FedAdam, MeshConfig, build  # noqa: E402
from fedjax_rec.simulation.cells import arrange  # noqa: E402
from fedjax_rec.simulation.resident import Resident  # noqa: E402
from fedjax_rec.simulation.side_by_side import SideBySide  # noqa: E402


def run(experiment, evaluate):
    """Results of a simulation to compare, and facts about it."""
    simulation, facts = build(experiment), {}
    start = jax.device_get(simulation.state.shared)
    population = simulation.population
    if isinstance(population, Resident) and simulation.mesh.size > 1:
        facts["collectives"] = compile_and_count(simulation)
        facts["rows of a shard"] = rows_of_a_shard(simulation.state.shared)
        facts["largest part of a weight"] = largest_part(simulation.frozen)
    results: list[Any] = [simulation.advance(experiment.rounds)]
    if evaluate:
        results.append(simulation.evaluate("val"))
    if not simulation.recipe.local.negatives:
        results.append(simulation.rmse("val"))
    shared = jax.device_get(simulation.state.shared)
    facts["moved"] = difference(start, shared)
    return (shared, jax.device_get(simulation.personal), results), facts


def compile_and_count(simulation):
    """Compiles the rounds, and counts the collectives of the program by kind."""
    population = simulation.population
    arguments = (simulation.state, population._personal, population.data)
    arguments += (simulation.frozen, simulation._hparams, population._key)
    arguments += (population._placed_slots, population._tables, np.int32(1))
    compiled = population._run_rounds.lower(*arguments).compile()
    population._run_rounds = compiled
    pattern = r"= .* (all-\w+|reduce-scatter|collective-permute)\("
    kinds = re.findall(pattern, compiled.as_text())
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def rows_of_a_shard(shared):
    leaf = jax.tree.leaves(shared)[0]
    return leaf.addressable_shards[0].data.shape[0] / leaf.shape[0]


def largest_part(frozen):
    largest = max(jax.tree.leaves(frozen), key=lambda x: x.size, default=None)
    if largest is None:
        return 1.0
    return largest.addressable_shards[0].data.size / largest.size


def difference(a, b):
    """The largest of `|a - b| / max(1, |a|)`; equal infinities do not differ."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.size:
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            x, y = np.where(same, 0, x), np.where(same, 0, y)
            off = float((abs(x - y) / np.maximum(1, abs(x))).max())
            worst = max(worst, np.inf if np.isnan(off) else off)
    return worst


def side_by_side(devices):
    """Events of three experiments, by position."""
    simulation, seeds = build(SIDE_BY_SIDE), [0, 0, 1]
    scalars = [
        {**simulation.recipe.hparams, "client_lr": x} for x in (0.01, 0.02, 0.02)
    ]
    layouts = arrange(seeds, devices=devices, most=2, seeds_at_once=False)
    programs = SideBySide(simulation, layouts[0].index.shape)
    events = {}
    for layout in layouts:
        for position, event, _ in programs.events(layout, seeds, scalars):
            del event["seconds"], event["event"]
            events.setdefault(position, []).append(event)
    return events


def adam_on_split_tables():
    """Facts about a table in two parts, and its moments of the server's Adam."""
    algorithm = dataclasses.replace(SMALL.algorithm, server_optimizer=FedAdam(lr=0.01))
    mesh = MeshConfig(devices=4, items=2)
    simulation: Any = build(dataclasses.replace(SMALL, algorithm=algorithm, mesh=mesh))
    moments = jax.tree.leaves(simulation.state.optimizer)
    moments = sorted({rows_of_a_shard(x) for x in moments if x.ndim})
    simulation.advance(1)
    simulation.advance(2)
    personal = jax.tree.leaves(simulation.snapshot().arrays["personal"])
    return {
        "moments": moments,
        "programs": simulation.population._run_rounds._cache_size(),
        "personal": sorted({type(x).__name__ for x in personal}),
    }


def main():
    results = {}
    if sys.argv[1] == "few":
        results["adam"] = adam_on_split_tables()
        one, two = side_by_side(1), side_by_side(2)
        results["side by side"] = [sorted(one), sorted(two), difference(one, two)]
    for name, (experiment, places) in {"few": FEW, "more": MORE}[sys.argv[1]].items():
        try:
            results[name] = compare(experiment, places, name not in ROUNDS_ONLY)
        except Exception:  # the others are still compared
            results[name] = {"error": traceback.format_exc()}
    print(json.dumps(results))


def compare(experiment, places, evaluate):
    """Differences between one device and `places`."""
    expected, facts = run(experiment, evaluate)
    result: dict[str, Any] = {"moved": facts["moved"], "places": {}}
    for place in places:
        elsewhere = dataclasses.replace(experiment, **PLACES[place])
        got, facts = run(elsewhere, evaluate)
        facts["difference"] = difference(expected, got)
        result["places"][place] = facts
    return result


if __name__ == "__main__":
    main()
