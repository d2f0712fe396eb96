"""Laws of metrics: functions of one user's ranking."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.evaluation.own_metric import check
from fedjax_rec.evaluation.ranking import Ranking
from fedjax_rec.testing import world
from fedjax_rec.testing.compare import check_close, check_finite, require
from fedjax_rec.testing.law import LawBroken


class Measured:
    """The function of some settings for 80 items, and rankings of three users."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        train = world.population()
        self.measure = settings.build(train)
        self.num_items = train.num_items
        self.rankings = [self.ranking(user) for user in range(3)]

    def ranking(self, user: int) -> Ranking:
        """Scores of a user without ties; some items are no candidates."""
        rng = np.random.default_rng(user)
        known = rng.random(self.num_items) < 0.2
        return Ranking(
            user=jnp.int32(user),
            items=jnp.arange(self.num_items, dtype=jnp.int32),
            scores=jnp.asarray(rng.permutation(self.num_items), jnp.float32),
            candidates=jnp.asarray(~known),
            positives=jnp.asarray(~known & (rng.random(self.num_items) < 0.2)),
        )


def builds(measured: Measured) -> None:
    """Names are valid, and `build(train)` returns a function of a Ranking"""
    try:
        check(measured.settings, ())
    except (TypeError, ValueError) as error:
        raise LawBroken(str(error)) from error
    require(
        callable(measured.measure),
        f"build(train) returned a {type(measured.measure).__name__}",
    )


def results_are_as_named(measured: Measured) -> None:
    """A result is a finite scalar for each of `names`"""
    names = sorted(measured.settings.names)
    for user, ranking in enumerate(measured.rankings):
        values = measured.measure(ranking)
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        require(found == names, f"it returned {found}; `names` are {names}")
        for name, value in values.items():
            require(
                jnp.shape(value) == (),
                f"{name} has shape {jnp.shape(value)}; expected a scalar for one user",
            )
        check_finite(values, f"the result of user {user}")


def no_positives_are_no_error(measured: Measured) -> None:
    """A user without candidates or positives has a finite result"""
    for name in ("positives", "candidates"):
        nothing = {"positives": jnp.zeros(measured.num_items, bool)}
        nothing[name] = jnp.zeros(measured.num_items, bool)
        ranking = dataclasses.replace(measured.rankings[0], **nothing)
        check_finite(measured.measure(ranking), f"the result without {name}")


def the_order_of_candidates_changes_nothing(measured: Measured) -> None:
    """The order of the arrays changes nothing; scores rank"""
    order = np.random.default_rng(9).permutation(measured.num_items)
    ranking = measured.rankings[0]
    arrays = ("items", "scores", "candidates", "positives")
    moved = {name: getattr(ranking, name)[order] for name in arrays}
    check_close(
        dict(measured.measure(dataclasses.replace(ranking, **moved))),
        dict(measured.measure(ranking)),
        "the result with the arrays in another order, and as they were",
        atol=1e-5,
    )


def known_items_change_nothing(measured: Measured) -> None:
    """Items that are no candidates change nothing, whatever their scores"""
    ranking = measured.rankings[0]
    scores = jnp.where(ranking.candidates, ranking.scores, 1e6)
    check_close(
        dict(measured.measure(dataclasses.replace(ranking, scores=scores))),
        dict(measured.measure(ranking)),
        "the result if all items outside of `candidates` score 1e6, and as they were",
        atol=1e-5,
    )


def pure_under_jit_and_vmap(measured: Measured) -> None:
    """Users have the same result alone, and together under jit and vmap"""
    fields = ("user", "items", "scores", "candidates", "positives")
    stacked = {
        name: jnp.stack([getattr(ranking, name) for ranking in measured.rankings])
        for name in fields
    }
    together = jax.jit(jax.vmap(lambda x: dict(measured.measure(Ranking(**x)))))
    values = together(stacked)
    for user, ranking in enumerate(measured.rankings):
        check_close(
            {name: value[user] for name, value in values.items()},
            dict(measured.measure(ranking)),
            f"the result of user {user} among three under jit and vmap, and alone",
            atol=1e-5,
            rtol=1e-5,
        )


LAWS = (
    builds,
    results_are_as_named,
    no_positives_are_no_error,
    the_order_of_candidates_changes_nothing,
    known_items_change_nothing,
    pure_under_jit_and_vmap,
)
