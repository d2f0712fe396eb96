"""Points that share a program, and values that keep them apart."""

import dataclasses
from typing import Any

import numpy as np
import optax
import pytest

from fedjax_rec import (
    Adam,
    Experiment,
    FedAdam,
    FedAvg,
    FedMF,
    PFedRec,
    Ratio,
)
from fedjax_rec.core.context import Context
from fedjax_rec.experiment.fields import with_values
from fedjax_rec.sweep.grouping import (
    DiffersError,
    Several,
    common_recipe,
    groups_of,
    scalars_of,
)

CONTEXT = Context(
    num_items=5,
    num_users=4,
    num_clients=4,
    cohort_size=4,
    dtype=np.float32,
    examples=np.ones(4),
)


def experiments(algorithm, field, values):
    base = Experiment(name="base", algorithm=algorithm)
    return [with_values(base, {f"algorithm.{field}": value}) for value in values]


def recipe_of(points):
    return common_recipe(points)(points[0], CONTEXT)


def test_seeds_and_scalars_share_a_group_and_nothing_else_does():
    base = Experiment(name="base", algorithm=PFedRec())
    groups = groups_of(
        [
            base,
            dataclasses.replace(base, seed=1),
            dataclasses.replace(base, algorithm=PFedRec(client_lr=1.0)),
            dataclasses.replace(base, algorithm=PFedRec(dim=8)),
            dataclasses.replace(base, rounds=7),
            dataclasses.replace(base, split=Ratio(seed=1)),
            dataclasses.replace(base, algorithm=FedMF()),
        ]
    )
    assert groups == [[0, 1, 2], [3], [4], [5], [6]]


@pytest.mark.parametrize(
    ("algorithm", "field", "values"),
    [
        (PFedRec(), "client_lr", (0.1, 1.0)),
        (PFedRec(), "item_lr_scale", (0.0, 1.0)),
        (FedAvg(server_optimizer=FedAdam()), "server_optimizer.tau", (0.1, 0.2)),
        (FedAvg(client_optimizer=Adam()), "client_optimizer.lr", (0.1, 0.2)),
        (FedAvg(), "proximal", (0.1, 0.2)),  # both take the branch of FedProx
        (FedMF(feedback="explicit"), "item_l2", (0.1, 0.2)),
    ],
)
def test_scalars_of_a_recipe_are_passed_on(algorithm, field, values):
    points = experiments(algorithm, field, values)
    recipe = recipe_of(points)
    assert recipe.hparams[field] == values[0]
    assert [scalars_of(recipe, point)[field] for point in points] == list(values)


def test_a_scalar_that_is_no_field_keeps_its_value():
    recipe = FedAvg().build(CONTEXT)
    recipe = recipe._replace(hparams={"proximal": 9.0, "margin": 0.25})
    point = Experiment(name="x", algorithm=FedAvg(proximal=0.5))
    assert scalars_of(recipe, point) == {"proximal": 0.5, "margin": 0.25}


@pytest.mark.parametrize(
    ("algorithm", "field", "values", "outcomes"),
    [
        # FedProx adds a term if its weight is not zero.
        (FedAvg(), "proximal", (0.0, 0.1, 0.2), [False, True, True]),
        # The model keeps this one: it is no scalar of the recipe.
        (PFedRec(), "init_scale", (0.5, 1.0), [0.5, 1.0]),
    ],
)
def test_values_that_decide_the_program_split_the_points(
    algorithm, field, values, outcomes
):
    with pytest.raises(DiffersError) as differs:
        recipe_of(experiments(algorithm, field, values))
    assert differs.value.outcomes == outcomes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bakes:
    """An algorithm that calculates with its rates before the program does."""

    client_lr: float = 0.1
    decay: float = 0.5

    def build(self, context):
        recipe = FedAvg().build(context)
        half = self.client_lr / 2
        return recipe._replace(
            hparams={"client_lr": self.client_lr, "decay": self.decay},
            server_optimizer=lambda h: optax.sgd(half),
        )


def test_arithmetic_before_the_program_is_noticed():
    with pytest.raises(DiffersError) as differs:
        recipe_of(experiments(Bakes(), "client_lr", (0.1, 0.2)))
    assert differs.value.outcomes == [0.1, 0.2]
    # A field that is only passed on is no obstacle next to it.
    points = experiments(Bakes(), "decay", (0.1, 0.2))
    assert recipe_of(points).hparams["decay"] == 0.1


def test_several_numbers_agree_or_differ():
    several: Any = Several("x", [1.0, 2.0])
    assert several
    assert several > 0
    assert several == several
    assert not (several < 1)
    with pytest.raises(DiffersError):
        bool(several == 1)
    for calculate in (
        lambda: several * 2,
        lambda: 2 - several,
        lambda: -several,
        lambda: float(several),
        lambda: optax.sgd(several),
    ):
        with pytest.raises(DiffersError):
            calculate()
