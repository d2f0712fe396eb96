"""Data, split and partition of an experiment, laid out and cached, with its targets.

They are kept in the cache as memory maps. The first process of a run prepares them;
the others read only the data of their own clients.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_rec.core import keys
from fedjax_rec.data.clients import ClientData, lay_out, serving_clients
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.newcomers import Newcomers, newcomers_of
from fedjax_rec.data.returned import check_interactions, load_data, split_and_partition
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets, make_targets
from fedjax_rec.experiment.held_out import check_candidates
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.fleet.cost_class import Holdings, count_holdings
from fedjax_rec.runs.fingerprint import content_of, digest
from fedjax_rec.simulation.processes import agree
from fedjax_rec.storage.cache import cache_root, keep, recall
from fedjax_rec.storage.sources import identity, package_sources

_LOG = logging.getLogger(__name__)
_DIGEST = "digest "


class PreparedData(NamedTuple):
    """Data, split and partition of an experiment, laid out. All arrays are NumPy's.

    Attributes:
        split: train, validation and test.
        clients: the training data by client, in one size bucket.
        single: every client is one user.
        serving: `[U]` the client that serves each user, `N` without training data.
        newcomers: the evaluated users without training data; `None` for none.
        holdings: amounts of data that each client holds.
        pool: item ids that training may see; `None` for all.
        targets: items to be found, by part.
        digests: digests of the parts and of the clients, checked by `--resume`.
    """

    split: Split
    clients: ClientData
    single: bool
    serving: np.ndarray
    newcomers: Newcomers | None
    holdings: Holdings
    pool: np.ndarray | None
    targets: dict[str, Targets]
    digests: dict[str, str]


def load_prepared(
    experiment: Experiment, data: Interactions | None = None, progress: bool = False
) -> PreparedData:
    """Loads, splits and partitions the data of an experiment, or reads the cache.

    With several processes the first one prepares, and the others then map its cache
    entry; a process that does not see that cache prepares for itself, and warns.

    Args:
        experiment: data, split, partition and protocol.
        data: the interactions, if they are loaded already; no cache is used.
        progress: show bars for work of more than two seconds.

    Raises:
        ValueError: parts of the experiment do not fit together, or processes of one
            run have different data.
        fedjax_rec.storage.errors.FileError: the data cannot be read.
    """

    @functools.cache
    def loaded() -> Interactions:
        return load_data(experiment.data, progress) if data is None else data

    def make() -> PreparedData:
        return prepare(experiment, loaded())

    if data is not None:
        check_interactions(data, "data")
    if data is not None or not experiment.store.cache:
        return make()
    root = cache_root(getattr(experiment.data, "cache", None)) / "populations"
    if jax.process_index() == 0:
        key = key_of(experiment, progress, loaded)
        if key is None:
            _LOG.info("prepared data are not cached: the code of a part has no file")
        prepared = make() if key is None else keep(root, key, make)
        agree(key or _digest_of(prepared))
        return prepared
    key = agree("")
    if key.startswith(_DIGEST):
        prepared = make()
        if _digest_of(prepared) != key:
            raise ValueError(
                f"process {jax.process_index()} has other data than the first process"
            )
        return prepared
    if (cached := recall(root, key)) is not None:
        return cached
    _LOG.warning(
        "process %d does not see the data that the first one prepared, so it reads all "
        "data itself: set FEDJAX_REC_CACHE to a folder that all hosts reach",
        jax.process_index(),
    )
    if (local_key := key_of(experiment, progress, loaded)) != key:
        raise ValueError(
            f"process {jax.process_index()} has other data or other software than the "
            f"first ({local_key}, {key})"
        )
    return keep(root, key, make)


def key_of(
    experiment: Experiment,
    progress: bool = False,
    loaded: Callable[[], Interactions] | None = None,
) -> str | None:
    """Cache key of prepared data, or `None` if they cannot be cached.

    Data with a method `origin` count by its result and by the source code of their
    class, so that a hit loads nothing; others by their content. Splits and partitions
    outside of this package count by their values and their source code.

    Args:
        experiment: data, split, partition and protocol.
        progress: see `load_prepared`.
        loaded: the interactions, for data without `origin`.
    """
    data = experiment.data
    # No metric or selection decides what is prepared.
    protocol = dataclasses.replace(experiment.protocol, metric=None, selection="last")
    parts = [experiment.split, experiment.partition, protocol]
    if hasattr(data, "origin"):
        # It covers the values of the data's settings, but not the code of `load`.
        origin, parts = data.origin(progress), [type(data), *parts]
    else:
        origin = content_of(load_data(data, progress) if loaded is None else loaded())
    identities = [identity(part) for part in parts]
    if None in identities:
        return None
    ingredients = {
        "data": origin,
        "parts": identities,
        "jax": [jax.__version__, jax.config.values["jax_enable_x64"]],
        "numpy": np.__version__,
        "code": package_sources(),
    }
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:20]


def _digest_of(prepared: PreparedData) -> str:
    return _DIGEST + "".join(prepared.digests.values())


def prepare(experiment: Experiment, data: Interactions) -> PreparedData:
    """Splits, partitions and lays out interactions."""
    split, partition = split_and_partition(data, experiment.split, experiment.partition)
    train = split.train
    leaks = experiment.protocol.negative_pool == "not_interacted"
    pool = training_items(split)
    check_candidates(pool is not None, experiment.protocol)
    clients = lay_out(
        train,
        partition,
        also_excluded=(split.val, split.test) if leaks else (),
        pool=pool,
        max_buckets=1,
    )
    newcomers = newcomers_of(split, partition, pool, leaks)
    serving = serving_clients(partition, train.user, data.num_users)
    digested = {
        name: (part.user, part.item, part.rating)
        for name in ("train", "val", "test")
        for part in (getattr(split, name),)
    }
    digested["clients"] = (clients.interactions, clients.exclude, serving)
    if newcomers is not None:
        shown = newcomers.data
        digested["newcomers"] = (newcomers.ids, shown.interactions, shown.exclude)
    return PreparedData(
        split=split,
        clients=clients,
        single=partition.user_of_client is not None,
        serving=serving,
        newcomers=newcomers,
        holdings=count_holdings(train, partition),
        pool=pool,
        targets=targets_of(split, experiment.protocol),
        digests={name: digest(tree) for name, tree in digested.items()},
    )


def training_items(split: Split) -> np.ndarray | None:
    """Items that training may see, if a split holds others out; `None` for all."""
    held_out = [split.info[n] for n in ("val_items", "test_items") if n in split.info]
    if not held_out:
        return None
    return np.setdiff1d(np.arange(split.train.num_items), np.concatenate(held_out))


def targets_of(split: Split, protocol: Protocol) -> dict[str, Targets]:
    """The targets of `val` and `test`, if there are any, in arrays of the same shapes.

    Raises:
        ValueError: see `make_targets`.
    """
    names = [part for part in ("val", "test") if len(getattr(split, part))]
    parts = _same_shapes([_of_part(split, protocol, part) for part in names])
    return dict(zip(names, parts, strict=True))


def _of_part(split: Split, protocol: Protocol, part: str) -> Targets:
    parts = {name: getattr(split, name) for name in ("train", "val", "test")}
    seen = ["train"] + (["val"] if part == "test" else [])
    if (query := split.info.get("query")) is not None:  # shown of held-out users
        parts["query"] = query
        seen.append("query")
    pairs = {name: (rows.user, rows.item) for name, rows in parts.items()}
    if protocol.max_users:
        chosen = _drawn_users(pairs[part][0], split.train.num_users, protocol)
        pairs = {name: (u[chosen[u]], i[chosen[u]]) for name, (u, i) in pairs.items()}
    number, half = (0, 1)[part == "test"], None
    if protocol.disjoint_candidates:
        number, half = 0, number
    return make_targets(
        positives=pairs[part],
        known=[pairs[name] for name in seen],
        touched=list(pairs.values()),
        pool=split.info.get(f"{part}_items") if protocol.candidates == "cold" else None,
        num_users=split.train.num_users,
        num_items=split.train.num_items,
        protocol=protocol,
        key=keys.derive(jax.random.key(0), keys.Purpose.EVALUATION, number),
        half=half,
    )


def _drawn_users(user: np.ndarray, num_users: int, protocol: Protocol) -> np.ndarray:
    """`[U]` bool: users to evaluate, drawn from those with an item to find."""
    order = np.random.default_rng(protocol.candidate_seed).permutation(num_users)
    wanted = np.zeros(num_users, bool)
    wanted[user] = True
    chosen = np.zeros(num_users, bool)
    chosen[order[wanted[order]][: protocol.max_users]] = True
    return chosen


def _same_shapes(parts: list[Targets]) -> list[Targets]:
    """Pads targets so that one compiled evaluation serves validation and test.

    Sampled candidates exclude no items by id, so their exclusions are dropped.
    """
    if not parts:
        return []
    if all(part.candidates is not None for part in parts):
        parts = [
            dataclasses.replace(
                part,
                exclude_items=part.exclude_items[-1:],
                max_exclude=1,
                exclude_offset=np.zeros_like(part.exclude_offset),
                exclude_size=np.zeros_like(part.exclude_size),
            )
            for part in parts
        ]
    flat = max(len(part.exclude_items) for part in parts)
    width = max(part.positives.shape[1] for part in parts)
    most = max(part.max_exclude for part in parts)

    def pad(array: Any, axis: int, length: int, value: int) -> Any:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, length - array.shape[axis])
        return np.pad(array, widths, constant_values=value)

    return [
        dataclasses.replace(
            part,
            positives=pad(part.positives, 1, width, part.num_items),
            exclude_items=pad(part.exclude_items, 0, flat, part.num_items),
            max_exclude=most,
        )
        for part in parts
    ]
