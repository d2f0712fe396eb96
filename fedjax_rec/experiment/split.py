"""How interactions become parts and clients, as frozen dataclasses."""

import dataclasses
from typing import Any, Literal

import numpy as np

from fedjax_rec.data import partition as partitioning
from fedjax_rec.data import splits
from fedjax_rec.data.interactions import Interactions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How interactions become train, validation and test.

    Attributes:
        kind: `leave_one_out` by time, `leave_last` (the last `last` are test, and
            there is no validation), `ratio` of each user, `global_time` with one cut
            for all, `cold_items`, `cold_users`.
        ties: of equal timestamps, which counts as later: `file_order` the later line,
            `reverse_file_order` the earlier one (published PFedRec code).
        val: fraction for validation (not `leave_one_out`).
        test: fraction for the test (not `leave_one_out`).
        last: test interactions of a user, for `leave_last`.
        seed: of random splits.
    """

    kind: Literal[
        "leave_one_out",
        "leave_last",
        "ratio",
        "global_time",
        "cold_items",
        "cold_users",
    ] = "leave_one_out"
    ties: Literal["file_order", "reverse_file_order"] = "file_order"
    val: float = 0.1
    test: float = 0.1
    last: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """How training interactions become clients.

    Attributes:
        kind: `per_user` is one client per user; the others mix users.
        num_clients: how many clients, for all but `per_user` and `by_attribute`.
        label: item attribute (or `rating`) behind `dirichlet`, `shards` and `drift`;
            empty takes the genre.
        alpha: Dirichlet concentration; small is skewed.
        exponent: of the power law of `quantity_skew`.
        shards_per_client: for `shards`.
        attribute: user attribute of `by_attribute`.
        seed: of the partition.
    """

    kind: Literal[
        "per_user",
        "iid",
        "dirichlet",
        "quantity_skew",
        "shards",
        "by_attribute",
        "drift",
    ] = "per_user"
    num_clients: int = 100
    label: str = ""
    alpha: float = 0.5
    exponent: float = 1.5
    shards_per_client: int = 2
    attribute: str = "region"
    seed: int = 0


def training_items(split: splits.Split) -> np.ndarray | None:
    """Items that training may see, where a split holds others out; `None` is all."""
    held = [split.info[n] for n in ("val_items", "test_items") if n in split.info]
    if not held:
        return None
    return np.setdiff1d(np.arange(split.train.num_items), np.concatenate(held))


def make_split(data: Interactions, config: SplitConfig) -> splits.Split:
    """The split a config names."""
    shares: dict[str, Any] = {"val": config.val, "test": config.test}
    if config.kind == "leave_one_out":
        return splits.LeaveOneOut(ties=config.ties).split(data)
    if config.kind == "leave_last":
        return splits.LeaveLast(count=config.last).split(data)
    if config.kind == "ratio":
        return splits.Ratio(**shares).split(data)
    if config.kind == "global_time":
        return splits.GlobalTime(**shares).split(data)
    cold = splits.ColdItems if config.kind == "cold_items" else splits.ColdUsers
    return cold(**shares, seed=config.seed).split(data)


def make_partition(
    train: Interactions, config: PartitionConfig
) -> partitioning.Partition:
    """The partition a config names."""
    if config.kind == "per_user":
        return partitioning.PerUser().partition(train)
    if config.kind == "by_attribute":
        return partitioning.ByAttribute(attribute=config.attribute).partition(train)
    dealt: dict[str, Any] = {"num_clients": config.num_clients, "seed": config.seed}
    if config.kind == "iid":
        return partitioning.IID(**dealt).partition(train)
    if config.kind == "quantity_skew":
        made = partitioning.QuantitySkew(exponent=config.exponent, **dealt)
        return made.partition(train)
    dealt["label"] = config.label
    if config.kind == "shards":
        made = partitioning.Shards(shards_per_client=config.shards_per_client, **dealt)
        return made.partition(train)
    skewed = (
        partitioning.Dirichlet if config.kind == "dirichlet" else partitioning.Drift
    )
    return skewed(alpha=config.alpha, **dealt).partition(train)
