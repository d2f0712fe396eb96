"""An experiment next to others in one program equals the same experiment run alone."""

import dataclasses
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from fedjax_rec import (
    SGD,
    BackboneConfig,
    EmbeddingAdapter,
    Execution,
    Experiment,
    FedAdam,
    FedAvg,
    FedFM,
    FedMF,
    MatrixFactorization,
    MeshConfig,
    PFedRec,
    Poisson,
    Protocol,
    StoreConfig,
    SyntheticData,
    build,
)
from fedjax_rec.experiment.fields import with_values
from fedjax_rec.simulation.cells import arrange
from fedjax_rec.simulation.drawn_rounds import make_one_round, many_rounds
from fedjax_rec.simulation.round import federated
from fedjax_rec.simulation.side_by_side import SideBySide
from fedjax_rec.sweep.grouping import point_bytes

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
    algorithm=FedAvg(
        model=MatrixFactorization(dim=4), negatives=1, client_optimizer=SGD(lr=10.0)
    ),
    execution=Execution(max_buckets=1),
    mesh=MeshConfig(devices=1),
    rounds=3,
    eval_every=2,
)


def run_side_by_side(simulation, seeds, settings, **layout):
    """`[P]` histories of experiments with these seeds and scalars."""
    layouts = arrange(seeds, devices=1, **layout)
    programs = SideBySide(simulation, layouts[0].index.shape)
    scalars = [{**simulation.recipe.hparams, **setting} for setting in settings]
    histories = [[] for _ in seeds]
    for layout in layouts:
        for position, event, _ in programs.events(layout, seeds, scalars):
            histories[position].append(event)
    return histories


def run_alone(simulation, experiment):
    """The events of an experiment that shares the programs of `simulation`."""
    alone: Any = build(experiment)
    alone.population._run_rounds = simulation.population._run_rounds
    alone.evaluator._ranks = simulation.evaluator._ranks
    alone.evaluator._squares = simulation.evaluator._squares
    return list(alone.events())


def agree(history, alone):
    """Compares two runs of one experiment, event by event."""
    for ours, theirs in zip(history, alone, strict=True):
        assert list(ours) == list(theirs)  # the same events, and tests at the same ones
        assert (ours["event"], ours["round"]) == (theirs["event"], theirs["round"])
        for name, value in theirs.items():
            if isinstance(value, float) and name != "seconds":
                assert ours[name] == pytest.approx(value, rel=2e-5, abs=1e-6)
        for part in ("val", "test"):
            # Ranks of all users: a tie broken by rounding would show as a whole step.
            expected = theirs.get(part, {})
            assert ours.get(part, {}) == pytest.approx(expected, rel=1e-5, abs=1e-6)


AT_ONCE = {"most": 8, "seeds_at_once": True}
EXPERIMENTS = {
    "fedavg, server adam, a cohort of its own for each seed": (
        dataclasses.replace(
            SMALL,
            algorithm=FedAvg(
                model=MatrixFactorization(dim=4),
                negatives=1,
                client_optimizer=SGD(lr=5.0),
                server_optimizer=FedAdam(lr=0.01),
            ),
            cohort=Poisson(size=12),
            execution=Execution(max_buckets=2),
        ),
        [
            {"server_optimizer.lr": 0.01},
            {"server_optimizer.lr": 0.03, "server_optimizer.momentum": 0.5},
        ],
        AT_ONCE,
    ),
    "pfedrec, tuned parameters evaluated, settings of a seed at once": (
        dataclasses.replace(
            SMALL,
            algorithm=PFedRec(dim=4, negatives=1),
            protocol=Protocol(evaluated="tuned"),
        ),
        [{"client_lr": 0.05}, {"client_lr": 0.1, "item_lr_scale": 20.0}],
        {"most": 2, "seeds_at_once": False},
    ),
    "fedmf, explicit ratings, one after another": (
        dataclasses.replace(SMALL, algorithm=FedMF(feedback="explicit", dim=4)),
        [{"client_lr": 0.01}, {"client_lr": 0.02, "user_l2": 0.01}],
        {"most": 1, "seeds_at_once": False},
    ),
    "fedfm, embedding adapter, lifted": (
        dataclasses.replace(
            SMALL,
            algorithm=FedFM(
                adapter=EmbeddingAdapter(rank=2), dim=4, negatives=1, batch_size=999
            ),
            backbone=BackboneConfig(name="tiny"),
        ),
        [
            {"training.optimizer.lr": 1.0},
            {"training.optimizer.lr": 0.3, "user_lr": 1.0},
        ],
        AT_ONCE,
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_side_by_side_equal_runs_of_their_own(name):
    experiment, settings, layout = EXPERIMENTS[name]
    simulation = build(experiment)
    assert simulation.lifted == ("lifted" in name)
    seeds, settings = [3, 3, 8, 8], settings * 2
    histories = run_side_by_side(simulation, seeds, settings, **layout)
    # Each setting once, each seed once.
    for i in (0, 3):
        values = {f"algorithm.{field}": x for field, x in settings[i].items()}
        alone = with_values(experiment, {**values, "seed": seeds[i]})
        agree(histories[i], run_alone(simulation, alone))
    finals = [history[-1]["val"]["auc"] for history in histories]
    assert len(set(finals)) == 4


@pytest.mark.parametrize("axis", [None, "seeds"])
def test_loops_over_clients_have_a_common_trip_count(axis):
    """A batched predicate would copy the whole carry at every step."""
    simulation = build(dataclasses.replace(SMALL, cohort=Poisson(size=10)))
    algorithm = federated(simulation.recipe, simulation.chunks, batch_axis=axis)
    rounds = many_rounds(make_one_round(algorithm, simulation.sampler.sample), 2)

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
    # Items 40 x 4, users 24 x 4, four bytes each; state, its copy, sum and gradient.
    least = 4 * (4 * 40 * 4 + 2 * 24 * 4)
    assert least < point_bytes(simulation) < 200 * least


def test_one_device_has_to_hold_the_population():
    hosted = dataclasses.replace(SMALL, store=StoreConfig(location="host"))
    with pytest.raises(ValueError, match="if one device holds the whole population"):
        SideBySide(build(hosted), (1, 1, 1))
    with pytest.raises(ValueError, match="3 devices asked for, there are 1"):
        SideBySide(build(SMALL), (3, 1, 1))
