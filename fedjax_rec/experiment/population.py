"""What an experiment's interactions come to: parts, clients and what is to be found.

It is kept in the cache as memory maps. The first process of a run prepares it; what the
others read of it is what their own clients hold.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fedjax_rec
from fedjax_rec.data.clients import ClientData, lay_out, serving_clients
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.experiment.parts import targets_of
from fedjax_rec.experiment.split import make_partition, make_split, training_items
from fedjax_rec.fleet.costs import Holdings, hold
from fedjax_rec.runs.fingerprint import digest
from fedjax_rec.simulation.mesh import agree
from fedjax_rec.storage.cache import cache_root, keep, recall

_LOG = logging.getLogger(__name__)


class Population(NamedTuple):
    """Data, split and partition of an experiment, laid out. All arrays are NumPy's.

    Attributes:
        split: train, validation and test.
        clients: the training data by client, in one size bucket.
        single: every client is one user.
        serving: `[U]` the client that serves each user.
        holdings: how much each client holds.
        pool: item ids that training may see; `None` is all.
        targets: by part.
        digests: of the parts and of the clients, for a run that continues.
    """

    split: Split
    clients: ClientData
    single: bool
    serving: np.ndarray
    holdings: Holdings
    pool: np.ndarray | None
    targets: dict[str, Targets]
    digests: dict[str, str]


def load_population(
    experiment: Any, data: Interactions | None = None, progress: bool = False
) -> Population:
    """Loads, splits and partitions what an experiment names, or recalls it.

    With several processes the first one does, and the others then map what it kept; one
    that cannot see its cache prepares the same for itself, and warns.

    Args:
        experiment: an `Experiment`.
        data: what `experiment.data` loads, where it is loaded already; nothing is kept.
        progress: show bars for what takes over two seconds.

    Raises:
        ValueError: parts of the experiment do not fit together, or processes of one
            run have different data.
        fedjax_rec.storage.errors.FileError: the data are not what they should be.
    """
    if data is not None:
        return lay(experiment, data)
    if not experiment.population.keep:
        return lay(experiment, experiment.data.load(progress))
    root = cache_root(getattr(experiment.data, "cache", None)) / "populations"

    def make() -> Population:
        return lay(experiment, experiment.data.load(progress))

    if jax.process_index() == 0:
        key = key_of(experiment, progress)
        found = keep(root, key, make)
        agree(key)
        return found
    key = agree("")
    if (found := recall(root, key)) is not None:
        return found
    _LOG.warning(
        "process %d does not see what the first one prepared, so it reads all data "
        "itself: let FEDJAX_REC_CACHE name a folder that all hosts reach",
        jax.process_index(),
    )
    if (own := key_of(experiment, progress)) != key:
        raise ValueError(
            f"process {jax.process_index()} has other data or other software than the "
            f"first ({own}, {key})"
        )
    return keep(root, key, make)


def key_of(experiment: Any, progress: bool = False) -> str:
    """Names a population by all that decides it; data files count by their content."""
    told = {
        "data": experiment.data.origin(progress),
        "split": dataclasses.asdict(experiment.split),
        "partition": dataclasses.asdict(experiment.partition),
        "protocol": dataclasses.asdict(experiment.protocol),
        "jax": [jax.__version__, jax.config.values["jax_enable_x64"]],
        "numpy": np.__version__,
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]


@functools.cache
def _code() -> str:
    """A hash of this package's sources: another way to split gives another key."""
    root = Path(fedjax_rec.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def lay(experiment: Any, data: Interactions) -> Population:
    """The population that interactions come to."""
    split = make_split(data, experiment.split)
    train = split.train
    partition = make_partition(train, experiment.partition)
    leaks = experiment.protocol.negative_pool == "not_interacted"
    pool = training_items(split)
    clients = lay_out(
        train,
        partition,
        also_excluded=(split.val, split.test) if leaks else (),
        pool=pool,
        max_buckets=1,
    )
    serving = serving_clients(partition, train.user, data.num_users)
    parts = {
        name: (part.user, part.item, part.rating)
        for name in ("train", "val", "test")
        for part in (getattr(split, name),)
    }
    held = (clients.interactions, clients.exclude, serving)
    return Population(
        split=split,
        clients=clients,
        single=partition.user_of_client is not None,
        serving=serving,
        holdings=hold(train, partition),
        pool=pool,
        targets=targets_of(split, experiment.protocol),
        digests={k: digest(tree) for k, tree in {**parts, "clients": held}.items()},
    )
