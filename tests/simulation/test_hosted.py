"""A population on the host: its cohorts, and its personal state at the start."""

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import Experiment, FedAvg, MatrixFactorization, SyntheticData
from fedjax_rec.experiment.build import make_context, make_recipe
from fedjax_rec.experiment.prepared import prepare
from fedjax_rec.fleet.sampling import uniform
from fedjax_rec.simulation import hosted, personal
from fedjax_rec.simulation.drawn_rounds import draw_cohort

KEY = jax.random.key(3)


def test_every_cohort_is_drawn_once_however_few_rounds_run_at_once(monkeypatch):
    calls, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: calls.append(1) or get(tree))
    sampler = uniform(20, 4)
    programs: Any = SimpleNamespace(sample=sampler.sample)
    draw = hosted._make_draw(programs, 3)
    cohort_of = hosted._windows(draw, sampler.tables, 3, KEY)
    drawn = [cohort_of(number).ids for number in range(8)]
    assert len(calls) == 3
    for number, ids in enumerate(drawn):
        expected = draw_cohort(
            sampler.sample, sampler.tables, KEY, jnp.int32(number)
        ).ids
        np.testing.assert_array_equal(ids, expected)


def test_pieces_have_one_length_and_cover_all(monkeypatch):
    monkeypatch.setattr(personal, "PIECE", 4)
    for count in (3, 4, 10, 12):
        slices = list(personal.pieces(count))
        assert {s.stop - s.start for s in slices} == {min(4, count)}
        covered = set(itertools.chain(*(range(s.start, s.stop) for s in slices)))
        assert covered == set(range(count))


@pytest.mark.parametrize("common_start", [True, False])
def test_the_start_is_traced_once_for_all_pieces(monkeypatch, common_start):
    experiment = Experiment(
        name="x",
        data=SyntheticData(num_users=10, num_items=20, num_interactions=100),
        algorithm=FedAvg(model=MatrixFactorization(dim=3)),
    )
    prepared = prepare(experiment, experiment.data.load())
    recipe = make_recipe(experiment, make_context(experiment, prepared))
    traces, init = [], recipe.model.init

    def counted(key):
        traces.append(key)
        return init(key)

    constants = {"trait": np.arange(10, dtype=np.float32)}
    model = recipe.model._replace(init=counted, common_start=common_start)
    recipe = recipe._replace(model=model, constants=constants)
    expected = personal.initial_personal(recipe, KEY, 10)
    monkeypatch.setattr(personal, "PIECE", 4)
    traces.clear()
    start = personal.initial_on_host(recipe, KEY, 10, None)
    # Once for the shapes. A common start is no program.
    assert len(traces) == (1 + 3 if common_start else 2)
    assert start.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(start[name], values)
