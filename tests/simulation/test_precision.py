"""Products of a run's programs, as they are lowered for accelerators."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    BackboneConfig,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    GeometricMedian,
    LoRA,
    MatrixFactorization,
    PFedRec,
    PowerSGD,
    Protocol,
    SyntheticData,
    build,
)
from fedjax_rec.core.precision import at_precision

DATA = SyntheticData(num_users=8, num_items=12, num_interactions=80)
PRODUCT = re.compile(r"stablehlo\.dot_general.*?precision = \[(\w+), (\w+)\]|"
                     r"stablehlo\.(?:dot_general|dot|convolution)\b")  # fmt: skip


def precisions(lowered) -> collections.Counter:
    """Number of products by the precision that they ask for."""
    result: collections.Counter = collections.Counter()
    for line in lowered.as_text().splitlines():
        match = PRODUCT.search(line)
        if match and not re.search(r"tensor<[0-9x]*bf16>", line):
            result[match.group(1) or "none"] += 1
            assert match.group(1) == match.group(2)
    return result


class _Lowered(Exception):
    """Ends a call before its program is compiled."""


def lowered(simulation, platform):
    """The programs of rounds and of the test evaluation."""
    population, evaluator, programs = simulation.population, simulation.evaluator, []

    def record(program):
        def call(*inputs):
            traced = program.trace(*inputs)
            programs.append(traced.lower(lowering_platforms=(platform,)))
            raise _Lowered

        return call

    population._run_rounds = record(population._run_rounds)
    rank = evaluator._ranks[0]
    evaluator._ranks[0] = lambda bucket: record(rank(bucket))
    for run in (lambda: simulation.advance(1), lambda: simulation.evaluate("test")):
        with pytest.raises(_Lowered):
            run()
    return [precisions(program) for program in programs]


def experiment(**parts):
    execution = Execution(max_buckets=1, precision=parts.pop("precision", "highest"))
    length = {"rounds": 1, "eval_every": 1}
    return Experiment(name="p", data=DATA, execution=execution, **length, **parts)


TEXTS = FedFM(dim=4, adapter=LoRA(layers=1, rank=2))
TINY = BackboneConfig(name="tiny")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(
    "parts",
    [
        {"algorithm": PFedRec(dim=4), "codec": PowerSGD(rank=1)},
        {
            "algorithm": FedAvg(model=MatrixFactorization(dim=4)),
            "aggregation": GeometricMedian(),
        },
        {
            "algorithm": TEXTS,
            "backbone": TINY,
            "protocol": Protocol(evaluated="tuned"),
        },
    ],
    ids=["power_sgd", "geometric_median", "lora"],
)
def test_all_products_are_exact_by_default(parts, platform):
    programs = lowered(build(experiment(**parts)), platform)
    assert len(programs) == 2
    assert sum(sum(program.values()) for program in programs) > 0
    assert {name for program in programs for name in program} == {"HIGHEST"}


def test_only_the_backbone_is_lower_if_asked_for():
    backbone = dataclasses.replace(TINY, precision="default")
    parts = {"algorithm": TEXTS, "protocol": Protocol(evaluated="tuned")}
    mixed = lowered(build(experiment(**parts, backbone=backbone)), "tpu")[0]
    exact = lowered(build(experiment(**parts, backbone=TINY)), "tpu")[0]
    assert 0 < mixed["DEFAULT"] < exact["HIGHEST"]
    assert mixed["DEFAULT"] + mixed["HIGHEST"] == exact["HIGHEST"]
    simulation = build(experiment(**parts, backbone=TINY, precision="default"))
    assert simulation.notes["backbone"]["precision"] == "default"
    lowest = lowered(simulation, "tpu")[0]
    # Exact sums stay exact: they are products with ones that replace sums.
    assert lowest["DEFAULT"] > mixed["DEFAULT"]


def test_at_precision_is_read_while_tracing():
    def product(x):
        return x @ x

    x = jnp.ones((2, 2))
    for name in ("highest", "default"):
        jaxpr = str(jax.make_jaxpr(at_precision(name, product))(x))
        assert name.upper() in jaxpr or (name == "default" and "HIGHEST" not in jaxpr)
    np.testing.assert_array_equal(at_precision("default", product)(x), 2.0)
