"""A second build of an experiment compiles nothing, and another system shares none."""

import collections
import dataclasses
import gc
import importlib.util
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.experiment import shared
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.simulation import programs as programs_of_systems
from fedjax_rec.simulation.programs import Programs
from tests.compilations import counted

BASE = fr.Experiment(
    name="first",
    data=fr.SyntheticData(num_users=12, num_items=20, num_interactions=160),
    algorithm=fr.FedAvg(model=fr.MatrixFactorization(dim=2), batch_size=8),
    execution=fr.Execution(max_buckets=1),
    rounds=2,
    eval_every=2,
)


def with_fields(experiment: Any, **values: Any) -> Any:
    """A copy with other fields, by their dotted names (`__` for a dot)."""
    for name, value in values.items():
        owner, _, inner = name.partition("__")
        if inner:
            value = with_fields(getattr(experiment, owner), **{inner: value})
        experiment = dataclasses.replace(experiment, **{owner: value})
    return experiment


def equal_parameters(one: fr.Simulation, other: fr.Simulation) -> None:
    """Asserts that two simulations hold the same bits."""
    parameters = (one.state.shared, one.personal), (other.state.shared, other.personal)
    jax.tree.map(np.testing.assert_array_equal, *parameters)


def outcome(sim: fr.Simulation) -> Any:
    """Result, personal and shared parameters after a run, without seconds."""
    result = sim.run()
    history = [
        {name: x for name, x in event.items() if name != "seconds"}
        for event in result["history"]
    ]
    arrays = jax.tree.map(np.asarray, (sim.state.shared, sim.personal))
    return history, result["baselines"], arrays


SYSTEMS = {
    "fedavg": {},
    "tuned": {"protocol__evaluated": "tuned", "store__location": "device"},
    "sampled": {
        "protocol__candidates": "sampled",
        "protocol__num_candidates": 5,
        "codec": fr.TopK(),
    },
    "host": {"store__location": "host", "cohort": fr.Uniform(size=6)},
    "stack": {"wrapper": fr.IFCA()},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_second_build_compiles_nothing_and_gives_the_same_bits(name):
    changes = SYSTEMS[name]
    first = fr.build(with_fields(BASE, **changes))
    expected = outcome(first)
    lists = first.recommend(["u0", "u1"])
    with counted() as building:
        again = fr.build(with_fields(BASE, **changes))
    with counted() as running:
        got = outcome(again)
        got_lists = again.recommend(["u0", "u1"])
    assert (running.traced, running.compiled) == ([], [])
    assert building.compiled == []
    assert got_lists == lists
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_another_name_seed_and_number_of_rounds_compile_nothing():
    fr.train(BASE)
    other = with_fields(BASE, name="second", seed=5, rounds=4)
    with counted() as counts:
        sim = fr.train(other).simulation
    assert counts.compiled == []
    alone = fr.build(other, recipe_of=make_recipe)  # shares nothing
    assert alone.programs is not sim.programs
    alone.step(4)
    equal_parameters(alone, sim)


def key(experiment: fr.Experiment, digests: Any = None) -> Any:
    prepared: Any = SimpleNamespace(digests=digests or {}, split=None)
    return shared.key_of(experiment, prepared, None, {})


OTHERS = [
    {"algorithm__local_epochs": 3},
    {"algorithm__client_optimizer__lr": 0.25},
    {"algorithm__client_optimizer": fr.Adam(lr=0.5)},
    {"aggregation": fr.NormBound()},
    {"codec": fr.QSGD()},
    {"cohort": fr.Uniform(size=4)},
    {"data__seed": 3},
    {"split": fr.Ratio()},
    {"execution__user_chunk": 3},
    {"protocol__ties": "random"},
    {"mesh__devices": 1},
    {"store__location": "host"},
]


def test_all_parts_are_in_the_key_and_arguments_are_not():
    base = key(BASE)
    same = key(with_fields(BASE, name="x", seed=1, rounds=9, eval_every=3))
    assert same.text == base.text
    assert same.parts == base.parts
    keys = [base, *(key(with_fields(BASE, **change)) for change in OTHERS)]
    keys.append(key(BASE, digests={"train": "other"}))
    assert len({k.text for k in keys}) == len(keys)


def test_a_changed_field_gives_the_parameters_of_its_own_system():
    fr.build(BASE).step(1)
    other = with_fields(BASE, algorithm__local_epochs=3)
    got, alone = fr.build(other), fr.build(other, recipe_of=make_recipe)
    got.advance(1)
    alone.advance(1)
    equal_parameters(got, alone)


def test_passed_interactions_are_known_by_their_content():
    data, equal = BASE.data.load(), BASE.data.load()
    first, again = (fr.build(BASE, data=each) for each in (data, equal))
    assert again.programs is first.programs
    data.rating[:] = 2
    assert fr.build(BASE, data=data).programs is not first.programs
    titles = dataclasses.replace(equal.items, titles=["x"] * equal.num_items)
    renamed = dataclasses.replace(equal, items=titles)
    assert fr.build(BASE, data=renamed).programs is not first.programs


OWN = """
import dataclasses

import jax.numpy as jnp

from fedjax_rec.aggregators import fold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capped:
    most: float = 5.0

    def build(self, context):
        def weigh(deltas, weights, senders, lengths):
            return jnp.minimum(weights, self.most)

        return fold.mean(weigh)
"""


def own_rule(path: Path, text: str) -> Any:
    """An object of the class of a user's file, newly loaded."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("own_rule_of_a_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Capped()


def test_own_classes_are_known_by_class_and_code(tmp_path):
    rule = own_rule(tmp_path / "rule.py", OWN)
    first = key(with_fields(BASE, aggregation=rule))
    again = key(with_fields(BASE, aggregation=type(rule)()))
    assert again.text == first.text
    assert again.parts == first.parts
    reloaded = own_rule(tmp_path / "rule.py", OWN)
    assert key(with_fields(BASE, aggregation=reloaded)).parts != first.parts
    changed = own_rule(tmp_path / "rule.py", OWN.replace("minimum", "maximum"))
    assert key(with_fields(BASE, aggregation=changed)).text != first.text


def test_code_without_a_file_and_values_that_json_lacks_have_no_key():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(OWN, "<cell>", "exec"), namespace)
    typed = namespace["Capped"]
    assert key(with_fields(BASE, aggregation=typed())) is None
    odd = with_fields(BASE, algorithm__model__dim=2, aggregation=fr.NormBound())
    object.__setattr__(odd.aggregation, "more", object())
    assert key(odd) is None


def test_replaced_functions_of_the_package_are_in_the_key(monkeypatch):
    before = key(BASE)
    monkeypatch.setattr("fedjax_rec.core.trees.take", lambda tree, _: tree)
    assert key(BASE).text != before.text


def make_constant(_: Programs, number: int) -> Any:
    return lambda: number


def test_few_systems_and_programs_are_kept(monkeypatch):
    monkeypatch.setattr(shared, "MOST", 2)
    monkeypatch.setattr(shared, "_SYSTEMS", collections.OrderedDict())
    sims = [fr.build(with_fields(BASE, algorithm__model__dim=d)) for d in (2, 3, 2, 4)]
    assert len(shared._SYSTEMS) == 2
    assert sims[2].programs is sims[0].programs  # used last, so that 3 went
    again = fr.build(with_fields(BASE, algorithm__model__dim=3))
    assert again.programs is not sims[1].programs
    programs = Programs(sims[0].recipe, sims[0].sampler)
    monkeypatch.setattr(programs_of_systems, "MOST", 2)
    for number in range(5):
        programs.get(make_constant, number)
    assert list(programs._made) == [(make_constant, 3), (make_constant, 4)]


def test_another_recipe_in_the_same_simulation_has_other_programs():
    sim = fr.build(BASE)
    other = fr.build(with_fields(BASE, algorithm__local_epochs=3))
    replaced = dataclasses.replace(sim, recipe=other.recipe)
    assert replaced.programs is not sim.programs
    assert dataclasses.replace(sim, seed=1).programs is sim.programs


def test_systems_hold_no_arrays_of_a_simulation():
    sim = fr.build(BASE)
    programs = sim.programs
    assert isinstance(programs, Programs)
    for name in ("hparams", "constants", "frozen", "notes"):
        assert getattr(programs.recipe, name) is None
    data = weakref.ref(sim.population)
    sim.run()
    del sim
    gc.collect()
    assert data() is None
