"""Binds a cohort and the assumed devices to a population."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler
from fedjax_rec.fleet.cohorts import Cohort
from fedjax_rec.fleet.cost_class import (
    CostClasses,
    Holdings,
    assign_cost_classes,
    make_cost_classes,
)
from fedjax_rec.fleet.costs import Fleet, make_fleet, with_costs
from fedjax_rec.fleet.devices import FleetConfig


class Participants(NamedTuple):
    """A cohort's sampler, with facts for reports.

    Attributes:
        sampler: draws cohorts, with the costs of each.
        notes: facts for the result.
        why: sentences for the start of a run.
    """

    sampler: Sampler
    notes: dict[str, Any]
    why: tuple[str, ...]


def make_participants(
    cohort: Cohort,
    config: FleetConfig,
    recipe: Recipe,
    holdings: Holdings,
    num_items: int,
) -> Participants:
    """Binds a cohort to a population.

    Args:
        cohort: the clients of a round.
        config: the assumed devices.
        recipe: the system, for the size of its messages.
        holdings: holdings of each client `[N]`.
        num_items: items that training may see.

    Raises:
        ValueError: the population is too small for these cohorts.
    """
    cost_class, by_class = assign_cost_classes(holdings)
    classes = make_cost_classes(recipe, by_class, num_items)
    local = recipe.local
    flops = local.text_flops * local.encodings / local.epochs
    fleet = make_fleet(config, cost_class, classes, holdings.examples, flops)
    sampler = with_costs(cohort.build(fleet), fleet.costs)
    facts, why = cohort.describe(fleet)
    notes = {"devices": {**_device_notes(fleet, classes, cost_class), **facts}}
    return Participants(sampler, notes, why)


def _device_notes(
    fleet: Fleet, classes: CostClasses, cost_class: np.ndarray
) -> dict[str, Any]:
    """Clients of each device class, and clients that can never train."""
    with_examples = int((classes.pairs[cost_class] > 0).sum())
    names = [device.name for device in fleet.devices]
    return {
        "classes": dict(zip(names, fleet.clients.tolist(), strict=True)),
        "memory_mb_needed": float(classes.memory[cost_class].max() / 1e6),
        "with_examples": with_examples,
        "short_of_memory": with_examples - int(fleet.able.sum()),
    }
