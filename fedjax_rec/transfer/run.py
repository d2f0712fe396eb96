"""Transfer: trained on one catalog, scored on another from its users' histories.

What travels is what reads texts: the adapter, the map to the vectors' space (`head`),
what all users share (`common`) and the attention over a history. Zero-shot trains on
nothing of the target; few-shot lets every target user's client take some local steps
on its own history. Both work on *lifted* parameters: the target's texts run through
the backbone once, and all users are scored against the table of their vectors.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Tree
from fedjax_rec.data.splits import LeaveLast, Split
from fedjax_rec.evaluation import baselines
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.evaluation.targets import make_targets
from fedjax_rec.experiment.backbone import BackboneConfig, load_texts, prepare
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.simulation.evaluation import take_users
from fedjax_rec.simulation.simulation import Event, Simulation
from fedjax_rec.transfer.config import FewShot, Target
from fedjax_rec.transfer.ranking import (
    PerUser,
    Place,
    client_data,
    rank,
    rank_tuned,
    rank_zero_shot,
    shuffled,
)


def check_source(simulation: Simulation, few_shot: FewShot) -> None:
    """Raises a ValueError where nothing of the source could choose a rate."""
    if len(few_shot.lr) > 1 and few_shot.steps and "val" not in simulation.targets:
        raise ValueError(
            f"few_shot.lr={few_shot.lr}: the source's validation chooses among several "
            "rates, and its split has none. Give one rate, or split with validation"
        )


class TargetSplit(NamedTuple):
    """The target's data, held out.

    Attributes:
        split: each user's last interaction is the test; what comes before, its history.
        users: `[E]` the users that are evaluated, ascending.
        eligible: how many there are to choose from.
    """

    split: Split
    users: np.ndarray
    eligible: int


def load_target(
    experiment: Experiment, target: Target, progress: bool = False
) -> TargetSplit:
    """Reads the target, holds out last items and draws users; encodes nothing.

    Raises:
        ValueError: there is nobody to evaluate, or the texts cannot be made.
        fedjax_rec.storage.errors.FileError: the data are not what they should be.
    """
    split = LeaveLast().split(target.data.load(progress))
    eligible = np.unique(split.test.user)
    if not len(eligible):
        raise ValueError(
            "no target user has two interactions: a history, and an item to find"
        )
    load_texts(_backbone(experiment.backbone, target), split.train)
    users = eligible
    if 0 < target.users < len(eligible):
        rng = np.random.default_rng(target.seed)
        users = np.sort(rng.choice(eligible, target.users, replace=False))
    return TargetSplit(split, users, len(eligible))


class Source(NamedTuple):
    """A source experiment that was run.

    Attributes:
        result: of `Simulation.run`.
        untrained: `shared` before the first round.
        trained: `shared` of the round that the source's validation selected.
        untrained_val: the source's validation metrics before the first round, or empty.
    """

    result: dict[str, Any]
    untrained: Tree
    trained: Tree
    untrained_val: dict[str, float]


def train_source(
    simulation: Simulation, listen: Callable[[Event], None] | None = None
) -> Source:
    """Runs the source to its end, and keeps the parameters that validation selected."""
    kept = {"untrained": jax.tree.map(jnp.copy, simulation.state.shared)}
    before = simulation.evaluate("val") if "val" in simulation.targets else {}

    def heard(event: Event) -> None:
        if event["event"] == "evaluation" and "test" in event:
            # Copied: the next round is written into the same memory.
            kept["trained"] = jax.tree.map(jnp.copy, simulation.state.shared)
        if listen is not None:
            listen(event)

    result = simulation.run(heard)
    return Source(result, kept["untrained"], kept["trained"], before)


class Moved(NamedTuple):
    """What a transfer comes to.

    Attributes:
        rankers: name to means over the target's users, see `rank_all`.
        differences: zero-shot less each other ranker.
        few_shot: `lr`, and `validation`: by what it was chosen, empty if it was given.
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
    start: Callable[[str, int], None] = lambda what, users: None,
    advance: Callable[[int], None] = lambda count: None,
    progress: bool = False,
) -> Moved:
    """Chooses the rate of the local steps, encodes the target, and ranks.

    Args:
        experiment: the source's.
        target: the target's.
        few_shot: the local steps.
        simulation: of the source.
        source: of `train_source`.
        held: of `load_target`.
        listen: told each ranker's name and means as they are there.
        start: told what begins, and how many users it ranks.
        advance: told how many users were ranked.
        progress: bars on stderr while texts are encoded.
    """
    clock = [time.perf_counter()]
    rate, validation = few_shot.lr[0], {}
    if len(few_shot.lr) > 1 and few_shot.steps:
        place = source_place(simulation, few_shot.window, target.users, target.seed)
        lift = simulation.recipe.model.lift
        assert lift is not None
        lifted = jax.jit(lift)(source.trained, simulation.frozen)
        tries = len(few_shot.lr) * len(few_shot.steps)
        start("choosing the rate", tries * place.targets.user.shape[0])
        rate, validation = choose_rate(experiment, place, lifted, few_shot, advance)
    clock.append(time.perf_counter())
    start("encoding the target", 0)
    place, (trained, untrained) = target_place(
        experiment, target, held, source.trained, source.untrained,
        window=few_shot.window, progress=progress,
    )  # fmt: skip
    clock.append(time.perf_counter())
    start("ranking", (5 + 2 * len(few_shot.steps)) * len(held.users))
    found = rank_all(
        experiment, target, few_shot, place, held.split.train.item,
        {"trained": trained, "untrained": untrained}, rate, listen, advance,
    )  # fmt: skip
    clock.append(time.perf_counter())
    cutoffs = experiment.protocol.cutoffs
    return Moved(
        rankers={name: means(per_user) for name, per_user in found.items()},
        differences=differences(found, f"ndcg@{10 if 10 in cutoffs else cutoffs[0]}"),
        few_shot={"lr": rate, "rates": few_shot.lr, "validation": validation},
        seconds=dict(
            zip(("choose", "encode", "rank"), np.diff(clock).tolist(), strict=True)
        ),
    )


def source_place(simulation: Simulation, window: int, most: int, seed: int) -> Place:
    """The source's validation users, as few-shot clients: what may choose a rate.

    Args:
        simulation: of the source.
        window: as in `FewShot`.
        most: at most so many users; 0 is all.
        seed: of their draw.
    """
    targets = simulation.targets["val"]
    count = targets.user.shape[0]
    if 0 < most < count:
        at = np.random.default_rng(seed).choice(count, most, replace=False)
        targets = take_users(targets, np.sort(at))
    return Place(
        targets=targets,
        data=client_data(simulation.split.train, np.asarray(targets.user), window),
        frozen={name: simulation.frozen[name] for name in ("embedding", "history")},
        protocol=simulation.protocol,
    )


def target_place(
    experiment: Experiment,
    target: Target,
    held: TargetSplit,
    *shared: Tree,
    window: int = 20,
    progress: bool = False,
) -> tuple[Place, list[Tree]]:
    """The target's users and catalog, and parameters lifted to that catalog.

    Args:
        experiment: the source's.
        target: the target's.
        held: of `load_target`.
        *shared: the source's shared parameters, any number of versions of them.
        window: as in `FewShot`.
        progress: bars on stderr while texts are encoded.

    Returns:
        The place, and each of `shared` with the table of the target's item vectors in
        place of what they are computed from.
    """
    split, algorithm = held.split, experiment.algorithm
    assert isinstance(algorithm, FedFM)
    projection = shared[0]["head"]["w"]
    # The target's own axes are not used, and need not be as many.
    axes = min(algorithm.dim, split.train.num_items, projection.shape[0])
    prepared = prepare(
        _backbone(experiment.backbone, target),
        dataclasses.replace(algorithm, dim=axes),
        split,
        pool=None,
        largest=1,
        pairs_a_round=0,
        tuned=False,
        prefix_cache=experiment.execution.prefix_cache,
        progress=progress,
    )
    recipe = algorithm.build(
        num_items=split.train.num_items,
        num_users=split.train.num_users,
        texts=prepared.texts._replace(projection=projection),
    )
    assert recipe.model.lift is not None
    lift = jax.jit(recipe.model.lift)
    lifted = [lift(one, prepared.frozen) for one in shared]
    protocol = target_protocol(experiment)
    chosen = np.isin(split.test.user, held.users)
    targets = make_targets(
        positives=(split.test.user[chosen], split.test.item[chosen]),
        known=[(split.train.user, split.train.item)],
        num_users=split.train.num_users,
        num_items=split.train.num_items,
        protocol=protocol,
    )
    place = Place(
        targets=targets,
        data=client_data(split.train, held.users, window),
        frozen={name: prepared.frozen[name] for name in ("embedding", "history")},
        protocol=protocol,
    )
    return place, lifted


def target_protocol(experiment: Experiment) -> Protocol:
    """Full ranking of the target's catalog, at the source's cut-offs."""
    return Protocol(cutoffs=experiment.protocol.cutoffs, selection="last")


def choose_rate(
    experiment: Experiment,
    place: Place,
    lifted: Tree,
    few_shot: FewShot,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[float, dict[str, dict[str, float]]]:
    """The rate of the local steps, by the source's validation users.

    Args:
        experiment: the source's.
        place: of `source_place`.
        lifted: the trained parameters, lifted to the source's catalog.
        few_shot: holds the rates to choose from.
        advance: told how many users were ranked.

    Returns:
        The rate, and the validation metric of each rate after each number of steps.
    """
    metric = selection_metric(experiment)
    found: dict[str, dict[str, float]] = {}
    for rate in few_shot.lr:
        found[f"{rate:g}"] = {}
        for steps in few_shot.steps:
            per_user = rank_tuned(
                experiment.algorithm, place, lifted, steps=steps, lr=rate,
                tune=few_shot.tune, seed=experiment.seed, advance=advance,
            )  # fmt: skip
            found[f"{rate:g}"][str(steps)] = float(np.mean(per_user[metric]))
    means = [sum(found[f"{rate:g}"].values()) for rate in few_shot.lr]
    return few_shot.lr[int(np.argmax(means))], found


def selection_metric(experiment: Experiment) -> str:
    """The metric by which the source's validation selects."""
    selection, cutoffs = experiment.protocol.selection, experiment.protocol.cutoffs
    if selection != "last":
        return selection
    return f"ndcg@{10 if 10 in cutoffs else cutoffs[0]}"


def rank_all(
    experiment: Experiment,
    target: Target,
    few_shot: FewShot,
    place: Place,
    popular: np.ndarray,
    lifted: dict[str, Tree],
    rate: float,
    listen: Callable[[str, dict[str, float]], None] = lambda name, metrics: None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, PerUser]:
    """Every ranker on the target's users.

    Args:
        experiment: the source's.
        target: the target's.
        few_shot: the numbers of steps.
        place: of `target_place`.
        popular: `[n]` items of the target's training part.
        lifted: `trained` and `untrained` parameters, lifted to the target's catalog.
        rate: of the local steps.
        listen: told each ranker's name and means as they are there.
        advance: told how many users were ranked.

    Returns:
        `random`, `popularity`, `shuffled`, `untrained`, `zero_shot`, `few_shot_N` and
        `untrained_N`, N local steps without training: each metric name to `[E]`.
    """
    algorithm, num_items = experiment.algorithm, place.targets.num_items
    key = keys.derive(jax.random.key(experiment.seed), keys.Purpose.BASELINE)
    counts = baselines.popularity(jnp.asarray(popular, jnp.int32), num_items)
    chance = baselines.by_user(
        lambda user: baselines.random_scores(key, user, num_items)
    )
    mixed_place, mixed = shuffled(place, lifted["trained"], target.shuffle_seed)
    found: dict[str, PerUser] = {}

    def keep(name: str, per_user: PerUser) -> None:
        found[name] = per_user
        listen(name, means(per_user))

    keep("random", rank(place, chance, advance))
    keep("popularity", rank(place, baselines.by_user(lambda user: counts), advance))
    keep("shuffled", rank_zero_shot(algorithm, mixed_place, mixed, advance))
    for name, which in (("untrained", "untrained"), ("zero_shot", "trained")):
        keep(name, rank_zero_shot(algorithm, place, lifted[which], advance))
    for name, which in (("few_shot", "trained"), ("untrained", "untrained")):
        for steps in few_shot.steps:
            per_user = rank_tuned(
                algorithm, place, lifted[which], steps=steps, lr=rate,
                tune=few_shot.tune, seed=experiment.seed, advance=advance,
            )  # fmt: skip
            keep(f"{name}_{steps}", per_user)
    return found


def means(per_user: PerUser) -> dict[str, float]:
    """Means and dispersion over the users."""
    some = {name: jnp.asarray(column) for name, column in per_user.items()}
    count = len(next(iter(per_user.values())))
    return summarise(some, jnp.ones(count, bool))


def differences(
    found: dict[str, PerUser], metric: str, of: str = "zero_shot"
) -> dict[str, dict[str, float]]:
    """`of` less every other ranker, user by user: mean and its standard error."""
    rows = {}
    for name, per_user in found.items():
        if name != of:
            gap = found[of][metric] - per_user[metric]
            error = float(np.std(gap) / np.sqrt(len(gap)))
            rows[name] = {"mean": float(np.mean(gap)), "standard_error": error}
    return rows


def _backbone(config: BackboneConfig, target: Target) -> BackboneConfig:
    return dataclasses.replace(
        config, template=target.template, notes=target.notes, shuffle_texts=False
    )
