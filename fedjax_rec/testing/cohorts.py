"""Laws of cohorts: the clients of a round."""

from typing import Any

import jax
import numpy as np

from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.fleet.cost_class import CostClasses
from fedjax_rec.fleet.costs import make_fleet
from fedjax_rec.fleet.devices import FleetConfig
from fedjax_rec.testing.compare import check_same, require

CLIENTS = 400


class Drawn:
    """The sampler of some settings for 400 clients, and three rounds of it."""

    def __init__(self, settings: Any) -> None:
        classes = CostClasses(*(np.ones(1) for _ in range(4)))
        examples = np.arange(1, CLIENTS + 1)
        of_class = np.zeros(CLIENTS, np.int32)
        fleet = make_fleet(FleetConfig(), of_class, classes, examples)
        self.slots = settings.slots(CLIENTS)
        self.sampler: Sampler = settings.build(fleet)
        self.rounds: list[Participation] = [self.draw(number) for number in range(3)]

    def draw(self, number: int) -> Participation:
        """The clients of a round."""
        return self.sampler(jax.random.key(number), number)


def builds(drawn: Drawn) -> None:
    """`build(fleet)` returns a Sampler that draws as many slots as `slots` says"""
    require(
        isinstance(drawn.sampler, Sampler),
        f"it returned a {type(drawn.sampler).__name__}; expected a "
        "fedjax_rec.core.rounds.Sampler",
    )
    for number, each in enumerate(drawn.rounds):
        require(
            each.ids.shape == (drawn.slots,),
            f"slots({CLIENTS}) is {drawn.slots}, and round {number} has ids of shape "
            f"{each.ids.shape}",
        )


def clients_are_drawn_once(drawn: Drawn) -> None:
    """Ids ascend from 0, each client at most once, and absent slots hold N"""
    for number, each in enumerate(drawn.rounds):
        for name in ("ids", "invited"):
            ids = np.asarray(getattr(each, name))
            require(
                ids.min() >= 0 and ids.max() <= CLIENTS,
                f"{name} of round {number} lie in {ids.min()} to {ids.max()}; expected "
                f"0 to {CLIENTS - 1}, or {CLIENTS} for an absent client",
            )
            present = ids[ids < CLIENTS]
            require(
                len(set(present.tolist())) == len(present),
                f"{name} of round {number} hold a client more than once",
            )
        ids = np.asarray(each.ids)
        require((np.diff(ids) >= 0).all(), f"ids of round {number} do not ascend")


def arrived_were_invited(drawn: Drawn) -> None:
    """The clients of a round are among the invited ones"""
    for number, each in enumerate(drawn.rounds):
        missing = set(np.asarray(each.ids).tolist()) - {CLIENTS}
        missing -= set(np.asarray(each.invited).tolist())
        require(
            not missing,
            f"clients {sorted(missing)[:5]} of round {number} are not in `invited`",
        )


def the_key_decides(drawn: Drawn) -> None:
    """The same key and round give the same clients"""
    check_same(drawn.draw(1), drawn.rounds[1], "round 1 drawn twice")


def draws_under_jit(drawn: Drawn) -> None:
    """Sampling is pure: it gives the same clients under jax.jit"""
    jitted = jax.jit(drawn.sampler.sample)(drawn.sampler.tables, jax.random.key(1), 1)
    check_same(jitted, drawn.rounds[1], "round 1 under jax.jit, and without")


LAWS = (
    builds,
    clients_are_drawn_once,
    arrived_were_invited,
    the_key_decides,
    draws_under_jit,
)
