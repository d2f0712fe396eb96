"""Settings of rules and attacks: cheap to import, immutable, and described."""

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.aggregators.cohorts import SHARED, built
from tests.aggregators.registry import RULES

ROOT = Path(__file__).parents[2]
MODULES = (
    "aggregators.losses",
    "aggregators.means",
    "aggregators.weights",
    "aggregators.robust.neighbours",
    "aggregators.robust.clipping",
    "aggregators.robust.colluding",
    "aggregators.robust.krum",
    "aggregators.robust.medians",
    "attacks.false_deltas",
    "contrib.weights",
    "contrib.guided",
)


def test_settings_load_neither_jax_nor_numpy():
    code = (
        "import importlib, sys\n"
        f"for name in {MODULES}:\n"
        "    module = importlib.import_module('fedjax_rec.' + name)\n"
        "    print(name, [x for x in ('jax', 'numpy') if x in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines() == [f"{name} []" for name in MODULES]


@pytest.mark.parametrize("name", RULES)
def test_settings_are_immutable_values_with_described_fields(name):
    settings = RULES[name]
    assert dataclasses.replace(settings) == settings
    assert hash(dataclasses.replace(settings)) == hash(settings)
    # Fields are resolved for the command line, without a type checker.
    hints = typing.get_type_hints(type(settings))
    text = type(settings).__doc__ or ""
    for field in dataclasses.fields(settings):
        assert field.kw_only
        assert field.name in hints
        assert f"        {field.name}: " in text
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, field.name, None)


@pytest.mark.parametrize("name", RULES)
def test_accumulators_have_one_type_so_that_one_all_reduce_joins_them(name):
    rule = built(RULES[name])
    acc = jax.eval_shape(lambda: rule.init(SHARED, 7))
    assert {leaf.dtype for leaf in jax.tree.leaves(acc)} == {jnp.dtype("float32")}
