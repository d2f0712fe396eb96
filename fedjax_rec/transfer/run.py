"""Transfer: trained on one catalog, scored on another from its users' histories.

The parameters that read texts transfer: the adapter, the map to the vectors' space
(`head`), the parameters common to all users (`common`) and the attention over a
history. Zero-shot trains on no target data; few-shot lets every target user's client
take some local steps on its own history. Both use *lifted* parameters: the target's
texts run through the backbone once, and all users are scored against the table of their
vectors.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Tree
from fedjax_rec.evaluation.evaluate import by_user, popularity, random_scores
from fedjax_rec.evaluation.protocol import main_cutoff
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.simulation.simulation import Event, Simulation
from fedjax_rec.transfer.audiences import (
    Audience,
    TargetSplit,
    shuffled,
    source_audience,
    target_audience,
)
from fedjax_rec.transfer.config import FewShot, Target
from fedjax_rec.transfer.ranking import PerUser, Ranker


def check_source(simulation: Simulation, few_shot: FewShot) -> None:
    """Checks that the source can be trained, and the rate of local steps be chosen.

    Raises:
        ValueError: there are several models, or no validation users for the choice.
    """
    if simulation.recipe.model.stack is not None:
        raise ValueError(
            "the source trains several models, one of which each client has: target "
            "users have none. Leave out the wrapper"
        )
    if len(few_shot.lr) > 1 and few_shot.steps and "val" not in simulation.targets:
        raise ValueError(
            f"few_shot.lr={few_shot.lr}: the source's validation chooses among several "
            "rates, and its split has none. Give one rate, or split with validation"
        )


class Source(NamedTuple):
    """A source experiment that was run.

    Attributes:
        result: see `Simulation.run`.
        untrained: `shared` before the first round.
        trained: `shared` of the round selected by the source's validation.
        untrained_val: the source's validation metrics before the first round, or empty.
    """

    result: dict[str, Any]
    untrained: Tree
    trained: Tree
    untrained_val: dict[str, float]


def train_source(
    simulation: Simulation, listen: Callable[[Event], None] | None = None
) -> Source:
    """Runs the source to its end, and keeps the parameters selected by validation."""
    untrained = jax.tree.map(jnp.copy, simulation.state.shared)
    before = simulation.evaluate("val") if "val" in simulation.targets else {}
    trained = untrained

    def keep(event: Event) -> None:
        nonlocal trained
        if event["event"] == "evaluation" and "test" in event:
            # Copied: the next round is written into the same memory.
            trained = jax.tree.map(jnp.copy, simulation.state.shared)
        if listen is not None:
            listen(event)

    result = simulation.run(keep)
    return Source(result, untrained, trained, before)


class Moved(NamedTuple):
    """The result of a transfer.

    Attributes:
        rankers: name to means over the target's users, see `rank_all`.
        differences: zero-shot less each other ranker.
        few_shot: `lr`, `rates`, and `validation`: the metrics that chose the rate,
            empty if it was given.
        seconds: `encode`, `choose` and `rank`.
    """

    rankers: dict[str, dict[str, float]]
    differences: dict[str, dict[str, float]]
    few_shot: dict[str, Any]
    seconds: dict[str, float]


def transfer(
    experiment: Experiment,
    target: Target,
    few_shot: FewShot,
    simulation: Simulation,
    source: Source,
    held: TargetSplit,
    *,
    listen: Callable[[str, dict[str, float]], None] = lambda name, metrics: None,
    start: Callable[[str, int], None] = lambda stage, users: None,
    advance: Callable[[int], None] = lambda count: None,
) -> Moved:
    """Chooses the rate of the local steps, encodes the target, and ranks.

    Args:
        experiment: the source.
        target: the target.
        few_shot: the local steps.
        simulation: the source's simulation.
        source: see `train_source`.
        held: see `load_target`.
        listen: called with each ranker's name and means.
        start: called at the start of a stage with its name and number of rankings.
        advance: called with the number of users ranked since the last call.
    """
    options = {"tune": few_shot.tune, "seed": experiment.seed, "advance": advance}
    ranker = Ranker(algorithm=experiment.algorithm, **options)
    window, lift = few_shot.window, simulation.recipe.model.lift
    rate, validation = few_shot.lr[0], {}
    clock = [time.perf_counter()]
    if len(few_shot.lr) > 1 and few_shot.steps:
        assert lift is not None
        audience = source_audience(simulation, window, target.users, target.seed)
        lifted = jax.jit(lift)(source.trained, simulation.frozen)
        tries = len(few_shot.lr) * len(few_shot.steps)
        start("choosing the rate", tries * audience.targets.user.shape[0])
        metric = selection_metric(experiment)
        rate, validation = choose_rate(ranker, audience, lifted, few_shot, metric)
    clock.append(time.perf_counter())
    start("encoding the target", 0)
    versions = {"trained": source.trained, "untrained": source.untrained}
    audience, versions = target_audience(experiment, held, versions, window)
    clock.append(time.perf_counter())
    start("ranking", (5 + 2 * len(few_shot.steps)) * len(held.users))
    popular, shuffle_seed = held.split.train.item, target.shuffle_seed
    rankings = rank_all(
        ranker, audience, versions, few_shot.steps, rate, popular, shuffle_seed, listen
    )
    clock.append(time.perf_counter())
    names = ("choose", "encode", "rank")
    metric = f"ndcg@{main_cutoff(experiment.protocol.cutoffs)}"
    return Moved(
        rankers={name: means(per_user) for name, per_user in rankings.items()},
        differences=differences(rankings, metric),
        few_shot={"lr": rate, "rates": few_shot.lr, "validation": validation},
        seconds=dict(zip(names, np.diff(clock).tolist(), strict=True)),
    )


def choose_rate(
    ranker: Ranker, audience: Audience, lifted: Tree, few_shot: FewShot, metric: str
) -> tuple[float, dict[str, dict[str, float]]]:
    """The rate of the local steps with the best mean on the source's validation.

    Args:
        ranker: ranks with the source's algorithm.
        audience: see `source_audience`.
        lifted: the trained parameters, lifted to the source's catalog.
        few_shot: the rates to choose from.
        metric: the metric of the choice.

    Returns:
        The rate, and the validation metric of each rate after each number of steps.
    """
    values: dict[str, dict[str, float]] = {}
    for rate in few_shot.lr:
        values[f"{rate:g}"] = {}
        for steps in few_shot.steps:
            per_user = ranker.tuned(audience, lifted, steps, rate)
            values[f"{rate:g}"][str(steps)] = float(np.mean(per_user[metric]))
    totals = [sum(values[f"{rate:g}"].values()) for rate in few_shot.lr]
    return few_shot.lr[int(np.argmax(totals))], values


def selection_metric(experiment: Experiment) -> str:
    """The metric by which the source's validation selects."""
    protocol = experiment.protocol
    if protocol.selection not in ("last", "auto"):
        return protocol.selection
    return f"ndcg@{main_cutoff(protocol.cutoffs)}"


def rank_all(
    ranker: Ranker,
    audience: Audience,
    lifted: dict[str, Tree],
    few_shot_steps: tuple[int, ...],
    rate: float,
    popular: np.ndarray,
    shuffle_seed: int,
    listen: Callable[[str, dict[str, float]], None] = lambda name, metrics: None,
) -> dict[str, PerUser]:
    """Every ranker on the target's users.

    Args:
        ranker: ranks with the source's algorithm.
        audience: see `target_audience`.
        lifted: `trained` and `untrained` parameters, lifted to the target's catalog.
        few_shot_steps: numbers of local steps.
        rate: rate of the local steps.
        popular: `[n]` items of the target's training part.
        shuffle_seed: seed of the exchanged texts.
        listen: called with each ranker's name and means.

    Returns:
        `random`, `popularity`, `shuffled`, `untrained`, `zero_shot`, `few_shot_N` and
        `untrained_N`, N local steps without training: each metric name to `[E]`.
    """
    num_items = audience.targets.num_items
    key = keys.derive(jax.random.key(ranker.seed), keys.Purpose.BASELINE)
    counts = popularity(jnp.asarray(popular, jnp.int32), num_items)
    chance = by_user(lambda user: random_scores(key, user, num_items))
    rankings: dict[str, PerUser] = {}

    def keep(name: str, per_user: PerUser) -> None:
        rankings[name] = per_user
        listen(name, means(per_user))

    keep("random", ranker.baseline(audience, chance))
    keep("popularity", ranker.baseline(audience, by_user(lambda user: counts)))
    mixed = shuffled(audience, lifted["trained"], shuffle_seed)
    keep("shuffled", ranker.zero_shot(*mixed))
    for name, version in (("untrained", "untrained"), ("zero_shot", "trained")):
        keep(name, ranker.zero_shot(audience, lifted[version]))
    for name, version in (("few_shot", "trained"), ("untrained", "untrained")):
        for steps in few_shot_steps:
            per_user = ranker.tuned(audience, lifted[version], steps, rate)
            keep(f"{name}_{steps}", per_user)
    return rankings


def means(per_user: PerUser) -> dict[str, float]:
    """Means and dispersion over the users."""
    columns = {name: jnp.asarray(column) for name, column in per_user.items()}
    count = len(next(iter(per_user.values())))
    return summarise(columns, jnp.ones(count, bool))


def differences(
    rankings: dict[str, PerUser], metric: str, of: str = "zero_shot"
) -> dict[str, dict[str, float]]:
    """`of` less every other ranker, user by user: mean and its standard error."""
    rows = {}
    for name, per_user in rankings.items():
        if name != of:
            gap = rankings[of][metric] - per_user[metric]
            error = float(np.std(gap) / np.sqrt(len(gap)))
            rows[name] = {"mean": float(np.mean(gap)), "standard_error": error}
    return rows
