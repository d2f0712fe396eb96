"""Rounds of every registered system on one device and on eight; prints what differs.

Run as a process of its own by test_mesh.py, since the number of devices is fixed when
JAX starts.
"""

import dataclasses
import importlib.util
import json
import pathlib
import re
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from mesh_systems import FEW, FEW_RULES, RULES  # noqa: E402

from fedjax_rec import (  # noqa: E402
    BackboneConfig,
    CohortConfig,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    FedMF,
    MeshConfig,
    PopulationConfig,
    SyntheticData,
    build,
    paper_compat,
)
from fedjax_rec.fleet import sampling  # noqa: E402
from fedjax_rec.simulation.hosted import Hosted  # noqa: E402
from fedjax_rec.simulation.mesh import CLIENTS, make_mesh, place  # noqa: E402
from fedjax_rec.simulation.resident import Resident  # noqa: E402
from fedjax_rec.simulation.round import make_algorithm  # noqa: E402

ROUNDS = 3


def laws():
    path = pathlib.Path(__file__).parents[1] / "test_laws.py"
    spec = importlib.util.spec_from_file_location("laws", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["laws"] = module
    spec.loader.exec_module(module)
    return module


def run(kind, recipe, data, frozen, devices, sampler):
    """State, personal state and log after some rounds, and the population."""
    mesh, key = make_mesh(devices), jax.random.key(7)
    axis = CLIENTS if devices > 1 else None
    algorithm = make_algorithm(recipe, (2,) * len(data.widths), devices=axis)
    population = kind(recipe, algorithm, sampler, data, mesh, key, ROUNDS)
    state = place(mesh, jax.tree.map(jnp.copy, algorithm.init(key)))
    frozen = place(mesh, frozen)
    hparams = place(mesh, recipe.hparams)
    state, log = population.advance(state, frozen, hparams, ROUNDS)
    return (state, population.personal, log), population, (frozen, hparams)


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


def collectives(population, state, frozen, hparams):
    """Kinds of collectives in the compiled rounds, with the number of each."""
    personal = population._personal
    placed = (population._placed_slots, population._tables)
    arguments = (population._key, *placed, np.int32(1))
    program = population._run_rounds.lower(
        state, personal, population.data, frozen, hparams, *arguments
    )
    text = program.compile().as_text()
    kinds = re.findall(r"= .* (all-\w+|reduce-scatter|collective-permute)\(", text)
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=60, num_items=80, num_interactions=1500),
    algorithm=FedAvg(dim=4, negatives=1, client_lr=10.0),
    cohort=CohortConfig(sampling="uniform", size=30),
    execution=Execution(max_buckets=2),
    rounds=4,
    eval_every=2,
    seed=5,
)
FM = FedFM(dim=4, negatives=2, rank=2, client_lr=0.5, user_lr=0.5, batch_size=999)
TEXTS = BackboneConfig(name="tiny")


def experiments(all_of_them):
    """Results of whole experiments, on one device and in other places."""
    tuned = paper_compat(num_candidates=20)
    bases = {
        "aggregated": SMALL,
        "tuned": dataclasses.replace(SMALL, protocol=tuned),
        "ratings": dataclasses.replace(
            SMALL, algorithm=FedMF(dim=4, feedback="explicit", client_lr=0.01)
        ),
        "texts": dataclasses.replace(
            SMALL,
            algorithm=FM,
            backbone=TEXTS,
            cohort=CohortConfig(),
            execution=Execution(max_buckets=2, encode="once"),
        ),
    }
    places = {
        "eight": {"mesh": MeshConfig(devices=8)},
        "tables in two parts": {"mesh": MeshConfig(devices=8, items=2)},
        "host": {"population": PopulationConfig(store="host")},
        "disk": {"population": PopulationConfig(store="disk")},
    }
    told = {}
    for name, base in bases.items():
        if not all_of_them and name in ("tuned", "ratings"):
            continue
        base = dataclasses.replace(base, mesh=MeshConfig(devices=1))
        wanted = outcome(base)
        changes = dict(places)
        if name != "aggregated":  # each place once is enough
            del changes["tables in two parts"], changes["disk"]
        if name == "texts":
            changes["backbone in two parts"] = {"mesh": MeshConfig(devices=4, model=2)}
        for where, change in changes.items():
            got = outcome(dataclasses.replace(base, **change))
            told[f"{name}, {where}"] = difference(wanted, got)
    simulation = build(dataclasses.replace(SMALL, **places["tables in two parts"]))
    simulation.advance(1)
    table = simulation.state.shared["item"].values
    told["rows of a table's shard"] = table.addressable_shards[0].data.shape[0]
    base = dataclasses.replace(bases["texts"], mesh=MeshConfig(devices=4, model=2))
    weights = jax.tree.leaves(build(base).frozen)
    largest = max(weights, key=lambda x: x.size)
    part = largest.addressable_shards[0].data.size / largest.size
    told["largest weight's shard"] = part
    return told


def outcome(experiment):
    """Numbers of a finished run: parameters, personal state, metrics."""
    simulation = build(experiment)
    result = simulation.run()
    history = [
        {k: v for k, v in event.items() if isinstance(v, float) and k != "seconds"}
        for event in result["history"]
    ]
    state = jax.device_get((simulation.state, simulation.personal))
    return state, result["metrics"], result["baselines"], history


def main():
    module, told = laws(), {}
    which = sys.argv[1]
    systems = {"few": (*FEW, *FEW_RULES), "all": module.CONFIGS, "rules": RULES}
    for name in systems[which]:
        recipe, data, frozen = module.setup("fedavg" if name in RULES else name, 2)
        recipe = RULES.get(name, lambda recipe: recipe)(recipe)
        data = jax.tree.map(np.asarray, data)
        n = data.num_clients
        start = make_algorithm(recipe, (2,) * 9).init(jax.random.key(7)).shared
        everyone, some = sampling.everyone(n), sampling.uniform(n, max(1, n - 3))
        one, _, _ = run(Resident, recipe, data, frozen, 1, everyone)
        eight, population, rest = run(Resident, recipe, data, frozen, 8, everyone)
        told[name] = {
            "moved": difference(start, one[0].shared),
            "resident": difference(one, eight),
            "collectives": collectives(population, eight[0], *rest),
        }
        if name in ("pfedrec", "fedavg", "fedfm lifted embedding, bpr, shared once"):
            few, _, _ = run(Resident, recipe, data, frozen, 1, some)
            for devices in (1, 8):
                got, _, _ = run(Hosted, recipe, data, frozen, devices, some)
                told[name][f"hosted on {devices}"] = difference(few, got)
    whole = {} if which == "rules" else experiments(which == "all")
    print(json.dumps({"systems": told, "experiments": whole}))


if __name__ == "__main__":
    main()
