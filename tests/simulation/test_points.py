"""A point of a sweep equals the same experiment run alone."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_rec.simulation.lanes import lay_out
from fedjax_rec.simulation.points import Points, point_bytes

from fedjax_rec import (
    BackboneConfig,
    CohortConfig,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    FedMF,
    MeshConfig,
    PFedRec,
    Protocol,
    SyntheticData,
    build,
)
from fedjax_rec.simulation.personal import make_one_round, many_rounds
from fedjax_rec.simulation.round import make_algorithm

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=40, num_items=60, num_interactions=800),
    algorithm=FedAvg(dim=4, negatives=1, client_lr=10.0),
    execution=Execution(max_buckets=2),
    mesh=MeshConfig(devices=1),
    rounds=3,
    eval_every=2,
)


def at(experiment, seed, **fields):
    algorithm = dataclasses.replace(experiment.algorithm, **fields)
    return dataclasses.replace(experiment, seed=seed, algorithm=algorithm)


def sweep(simulation, seeds, settings, **layout):
    """`[P]` histories of points with these seeds and scalars."""
    blocks = lay_out(seeds, devices=1, **layout)
    programs = Points(simulation, blocks[0].points.shape)
    scalars = [{**simulation.recipe.hparams, **setting} for setting in settings]
    histories = [[] for _ in seeds]
    for block in blocks:
        for point, event in programs.events(block, seeds, scalars):
            histories[point].append(event)
    return histories


def agree(simulation, history, alone):
    """Events, selection and metrics of two runs of one experiment."""
    result = simulation.outcome(history, {})
    assert result["selected"] == alone["selected"]
    kinds = [(e["event"], e["round"], "test" in e) for e in history]
    expected = [
        (e["event"], e["round"], "test" in e)
        for e in alone["history"]
        if e["event"] != "baselines"
    ]
    assert kinds == expected
    for ours, theirs in zip(history, alone["history"], strict=False):
        for name, value in theirs.items():
            if isinstance(value, float) and name != "seconds":
                assert ours[name] == pytest.approx(value, rel=2e-5, abs=1e-6)
    for part, metrics in alone["metrics"].items():
        # Ranks of all users: a tie broken by rounding would show as a whole step.
        assert result["metrics"][part] == pytest.approx(metrics, rel=1e-5, abs=1e-6)


EXPERIMENTS = {
    "fedavg, server adam, a cohort of its own for each seed": (
        dataclasses.replace(
            SMALL,
            algorithm=FedAvg(
                dim=4, negatives=1, client_lr=5.0, server_optimizer="adam",
                server_lr=0.01,
            ),
            cohort=CohortConfig(sampling="poisson", size=20),
        ),
        [{"server_lr": 0.01}, {"server_lr": 0.03, "server_momentum": 0.5}],
    ),
    "pfedrec, tuned parameters evaluated": (
        dataclasses.replace(
            SMALL,
            algorithm=PFedRec(dim=4, negatives=1),
            protocol=Protocol(evaluated="tuned"),
        ),
        [{"client_lr": 0.05}, {"client_lr": 0.1, "item_lr_scale": 20.0}],
    ),
    "fedmf, explicit ratings": (
        dataclasses.replace(SMALL, algorithm=FedMF(feedback="explicit", dim=4)),
        [{"client_lr": 0.01}, {"client_lr": 0.02, "user_l2": 0.01}],
    ),
    "fedfm, embedding adapter, lifted": (
        dataclasses.replace(
            SMALL,
            algorithm=FedFM(
                adapter="embedding", rank=2, dim=4, negatives=1, batch_size=999
            ),
            backbone=BackboneConfig(name="tiny"),
        ),
        [{"client_lr": 1.0}, {"client_lr": 0.3, "user_lr": 1.0}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_points_equal_runs_of_their_own(name):
    experiment, settings = EXPERIMENTS[name]
    simulation = build(experiment)
    assert simulation.recipe.lifted == ("lifted" in name)
    seeds, points = [3, 3, 8, 8], settings * 2
    histories = sweep(simulation, seeds, points, most=8, seeds_at_once=True)
    # Each setting once, each seed once.
    for point in (0, 3):
        own = build(at(experiment, seeds[point], **points[point]))
        agree(simulation, histories[point], own.run())
    finals = [history[-1]["val"]["auc"] for history in histories]
    assert len(set(finals)) == 4


def test_blocks_in_turn_equal_blocks_at_once():
    simulation = build(SMALL)
    seeds, settings = [0, 0, 0, 1], [{"client_lr": x} for x in (1.0, 5.0, 20.0, 5.0)]
    one = sweep(simulation, seeds, settings, most=8, seeds_at_once=True)
    other = sweep(simulation, seeds, settings, most=1, seeds_at_once=False)
    for a, b in zip(one, other, strict=True):
        losses = [[e["loss"] for e in h if e["event"] == "round"] for h in (a, b)]
        np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, "seeds"])
def test_loops_over_clients_have_a_common_trip_count(axis):
    """A batched predicate would copy the whole carry at every step."""
    cohort = CohortConfig(sampling="poisson", size=10)
    simulation = build(dataclasses.replace(SMALL, cohort=cohort))
    algorithm = make_algorithm(simulation.recipe, simulation.chunks, points=axis)
    rounds = many_rounds(make_one_round(algorithm, simulation.sampler), 2)

    def run(key):
        state, data = simulation.state, simulation.population.data
        own = (state, simulation.personal, data, ())
        tables = jax.device_put(simulation.sampler.tables)
        return rounds(*own, simulation.recipe.hparams, key, None, tables, jnp.int32(2))

    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    program = jax.make_jaxpr(jax.vmap(run, axis_name="seeds"))(keys)
    shapes = set(predicates(program.jaxpr))
    assert shapes == ({(), (3,)} if axis is None else {()})


def predicates(jaxpr):
    """Shapes of the predicates of all `while` loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            yield equation.params["cond_jaxpr"].jaxpr.outvars[0].aval.shape
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from predicates(inner)


def test_bytes_of_a_point_count_its_parameters():
    simulation = build(SMALL)
    # Items 60 x 4, users 40 x 4, four bytes each; state, its copy, sum and gradient.
    least = 4 * (4 * 60 * 4 + 2 * 40 * 4)
    assert least < point_bytes(simulation) < 200 * least


def test_two_devices_equal_one():
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import jax; jax.config.update("jax_num_cpu_devices", 2)
from test_points import SMALL, build, lay_out, Points
simulation, seeds = build(SMALL), [0, 0, 1]
scalars = [{{**simulation.recipe.hparams, "client_lr": x}} for x in (1.0, 5.0, 5.0)]
found = []
for devices in (1, 2):
    blocks = lay_out(seeds, devices=devices, most=2, seeds_at_once=False)
    programs = Points(simulation, blocks[0].points.shape)
    losses = {{}}
    for block in blocks:
        for point, event in programs.events(block, seeds, scalars):
            value = event["loss"] if event["event"] == "round" else event["val"]["auc"]
            losses.setdefault(point, []).append(value)
    found.append(losses)
assert sorted(found[0]) == sorted(found[1]) == [0, 1, 2]
for point, values in found[0].items():
    assert max(abs(a - b) for a, b in zip(values, found[1][point])) < 1e-5, point
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
