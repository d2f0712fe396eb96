"""Users to rank items for: the source's validation users and the target's."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.algorithms import text_path
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.context import Context
from fedjax_rec.data.clients import ClientData, make_client_data
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.data.returned import load_data
from fedjax_rec.data.splits import LeaveLast, Split
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets, make_targets
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.models.two_tower import VECTORS
from fedjax_rec.simulation.dealt_users import take_users
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.transfer.config import Target


class Audience(NamedTuple):
    """Users to rank items for, with the data that a ranker may read.

    Attributes:
        targets: the users and their held-out items.
        data: the data of their clients: histories, never held-out items.
        frozen: `embedding` `[I, D]` of the catalog, and `history` `[U, L]`.
        protocol: protocol of the ranking.
    """

    targets: Targets
    data: ClientData
    frozen: dict[str, Array]
    protocol: Protocol


class TargetSplit(NamedTuple):
    """The target's data with held-out items.

    Attributes:
        split: each user's last interaction is the test; earlier ones are its history.
        users: `[E]` the users that are evaluated, ascending.
        eligible: number of users with a history.
        corpus: the target's texts and the backbone.
    """

    split: Split
    users: np.ndarray
    eligible: int
    corpus: Corpus


def load_target(
    experiment: Experiment, target: Target, progress: bool = False
) -> TargetSplit:
    """Reads the target, holds out last items and draws users; encodes no text.

    Raises:
        ValueError: no user has a history, or the texts cannot be made.
        fedjax_rec.storage.errors.FileError: the data cannot be read.
    """
    split = LeaveLast().split(load_data(target.data, progress))
    eligible = np.unique(split.test.user)
    if not len(eligible):
        raise ValueError(
            "no target user has two interactions: a history, and an item to rank"
        )
    config = dataclasses.replace(
        experiment.backbone,
        template=target.template,
        notes=target.notes,
        shuffle_texts=False,
    )
    prefix_cache = experiment.execution.prefix_cache
    corpus = Corpus(config, split.train, prefix_cache, progress)
    corpus.check_texts()
    users = eligible
    if 0 < target.users < len(eligible):
        rng = np.random.default_rng(target.seed)
        users = np.sort(rng.choice(eligible, target.users, replace=False))
    return TargetSplit(split, users, len(eligible), corpus)


def client_data(train: Interactions, users: np.ndarray, window: int) -> ClientData:
    """The latest `window` training interactions of `users`, one client each.

    No interaction of a user is drawn as its negative, nor are those before the window.
    """
    offsets = train.offsets()
    of_users = np.isin(train.user, users)
    latest = offsets[train.user + 1] - np.arange(len(train)) <= window
    part = train.take(of_users & latest)
    older = train.take(of_users & ~latest)
    also = (older,) if len(older) else ()
    return make_client_data(
        part, PerUser().partition(part), also_excluded=also, max_buckets=1
    )


def source_audience(
    simulation: Simulation, window: int, most: int, seed: int
) -> Audience:
    """The source's validation users as few-shot clients, which choose the rate.

    Args:
        simulation: the source.
        window: see `FewShot`.
        most: largest number of users; 0 is all.
        seed: seed of their draw.
    """
    targets = simulation.targets["val"]
    count = targets.user.shape[0]
    if 0 < most < count:
        drawn = np.random.default_rng(seed).choice(count, most, replace=False)
        targets = take_users(targets, np.sort(drawn))
    return Audience(
        targets=targets,
        data=client_data(simulation.split.train, np.asarray(targets.user), window),
        frozen={name: simulation.frozen[name] for name in ("embedding", "history")},
        protocol=simulation.protocol,
    )


def target_audience(
    experiment: Experiment,
    held: TargetSplit,
    shared: dict[str, Tree],
    window: int = 20,
) -> tuple[Audience, dict[str, Tree]]:
    """The target's users and catalog, and parameters lifted to that catalog.

    Args:
        experiment: the source.
        held: see `load_target`.
        shared: versions of the source's shared parameters, by name.
        window: see `FewShot`.

    Returns:
        The audience, and each of `shared` with the table of the target's item vectors
        instead of the parameters that compute them.
    """
    split, algorithm = held.split, experiment.algorithm
    users, items = split.train.num_users, split.train.num_items
    corpus: Any = held.corpus
    context = Context(
        num_items=items,
        num_users=users,
        num_clients=users,
        cohort_size=1,
        dtype=jnp.dtype("float32"),
        examples=np.ones(1, int),
        split=split,
        corpus=corpus,
        lora_base=getattr(experiment.wrapper, "lora_base", False),
    )
    projection = next(iter(shared.values()))["head"]["w"]
    # The target's own axes are not used, and may be fewer.
    axes = min(algorithm.dim, items, projection.shape[0])
    path = text_path.choose(dataclasses.replace(algorithm, dim=axes), context)
    recipe = algorithm.on(path._replace(projection=projection), context)
    assert recipe.model.lift is not None
    lift = jax.jit(recipe.model.lift)
    protocol = target_protocol(experiment)
    evaluated = np.isin(split.test.user, held.users)
    targets = make_targets(
        positives=(split.test.user[evaluated], split.test.item[evaluated]),
        known=[(split.train.user, split.train.item)],
        num_users=users,
        num_items=items,
        protocol=protocol,
    )
    audience = Audience(
        targets=targets,
        data=client_data(split.train, held.users, window),
        frozen={name: path.frozen[name] for name in ("embedding", "history")},
        protocol=protocol,
    )
    return audience, {name: lift(x, path.frozen) for name, x in shared.items()}


def target_protocol(experiment: Experiment) -> Protocol:
    """Full ranking of the target's catalog, at the source's cut-offs."""
    return Protocol(cutoffs=experiment.protocol.cutoffs, selection="last")


def shuffled(audience: Audience, lifted: Tree, seed: int) -> tuple[Audience, Tree]:
    """The audience and parameters with every item's text exchanged for another one's.

    Only two arrays depend on the text of an item, so both are permuted and no text is
    encoded again: it equals `BackboneConfig.shuffle_texts`, which has the seed 0.
    """
    table = lifted[VECTORS]
    order = np.random.default_rng(seed).permutation(table.values.shape[0])
    embedding = audience.frozen["embedding"][order]
    vectors = dataclasses.replace(table, values=table.values[order])
    return (
        audience._replace(frozen={**audience.frozen, "embedding": embedding}),
        {**lifted, VECTORS: vectors},
    )
