"""Whom the server believes, and which clients lie, as frozen dataclasses."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from fedjax_rec.aggregators import AGGREGATORS
from fedjax_rec.aggregators.guided import Guidance, fm_guided
from fedjax_rec.aggregators.robust.ballots import Voting
from fedjax_rec.aggregators.robust.bulyan import bulyan
from fedjax_rec.aggregators.robust.clipping import centered_clipping
from fedjax_rec.aggregators.robust.colluding import colluding
from fedjax_rec.aggregators.robust.coordinates import (
    coordinate_median,
    trimmed_mean,
)
from fedjax_rec.aggregators.robust.geometric import geometric_median
from fedjax_rec.aggregators.robust.krum import krum, multi_krum
from fedjax_rec.aggregators.robust.majority import majority_vote
from fedjax_rec.aggregators.robust.mixing import mixed
from fedjax_rec.aggregators.robust.norm_bound import norm_bound
from fedjax_rec.attacks import attackers, boost, noise, own, popular, sign_flip
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Aggregator, Recipe
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.weights import WEIGHING, Circumstances, weighing_rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class AggregationConfig:
    """The rule by which the server joins deltas, in place of the algorithm's own.

    Attributes:
        rule: `algorithm` keeps the algorithm's. The means weigh by `examples` or
            `uniform`; `per_row` ones divide a row by those that touched it. `q_fedavg`
            to `attentive` weigh by loss, size, steps, attendance or distance
            (docs/heterogeneity.md).
            `majority_vote` moves every coordinate by `step` where most want it. Other
            robust rules take every row of a table from all clients; `*_of_voters` from
            those that touched it, `*_diluted` the same times their share of the cohort
            (docs/robust.md).
            `fm_guided` weighs by profiles (`profile.source`), `update_guided` by the
            likeness of deltas, its control.
        share: of attackers that a robust rule assumes.
        q: of `q_fedavg`; 0 is FedAvg, the larger the more even the losses.
        lipschitz: of `q_fedavg`; by default `1 / algorithm.client_lr`.
        tilt: of `tilted`; above 0 large losses count more, below 0 less.
        groups: of `agnostic`, by how many examples clients hold: 4 are quartiles.
        group_rate: by which `agnostic` climbs the groups' losses.
        power: of `by_size` (by default .5) or of `by_magnitude` (-1).
        beta: of `by_effective_number`.
        longest: of `by_participation`, rounds after which an absence counts as ended.
        temperature: of `by_trend` (by default 2) or of `attentive` (1).
        step: of `majority_vote`, how far a coordinate moves; the server's learning rate
            multiplies it.
        guidance: how much each sign counts, of the guided rules.
    """

    rule: Literal[
        "algorithm",
        "examples",
        "uniform",
        "per_row",
        "per_row_uniform",
        "sum",
        "q_fedavg",
        "tilted",
        "agnostic",
        "by_size",
        "by_effective_number",
        "by_magnitude",
        "by_participation",
        "by_trend",
        "fednova",
        "attentive",
        "median",
        "median_of_voters",
        "median_diluted",
        "trimmed_mean",
        "trimmed_mean_of_voters",
        "trimmed_mean_diluted",
        "geometric_median",
        "geometric_median_of_voters",
        "geometric_median_diluted",
        "krum",
        "krum_of_voters",
        "krum_diluted",
        "multi_krum",
        "multi_krum_of_voters",
        "multi_krum_diluted",
        "bulyan",
        "bulyan_of_voters",
        "bulyan_diluted",
        "centered_clipping",
        "centered_clipping_of_voters",
        "centered_clipping_diluted",
        "norm_bound",
        "norm_bound_of_voters",
        "norm_bound_diluted",
        "mixed_median",
        "mixed_median_of_voters",
        "mixed_median_diluted",
        "mixed_trimmed_mean",
        "mixed_trimmed_mean_of_voters",
        "mixed_trimmed_mean_diluted",
        "majority_vote",
        "fm_guided",
        "update_guided",
    ] = "algorithm"
    share: float = 0.1
    q: float = 1.0
    lipschitz: float | None = None
    tilt: float = 1.0
    groups: int = 4
    group_rate: float = 0.1
    power: float | None = None
    beta: float = 0.99
    longest: int = 50
    temperature: float | None = None
    step: float = 1e-3
    guidance: Guidance = dataclasses.field(default_factory=Guidance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Clients who send something else than they learned.

    Attributes:
        kind: `sign_flip` sends the delta times `-scale`; `noise` sends Gaussian noise
            of `scale` times the delta's size; `boost` pushes the row of one item.
            `alie` and `ipm` collude (docs/robust.md), against rules with a buffer.
        share: of all clients that attack, exactly so many.
        scale: how hard.
        knows: whose mean and spread colluders know: the `honest` clients', or their
            `own`.
        item: that `boost` pushes; -1 is the first of those nobody trains on, or else
            the least popular.
        toward: where `boost` pushes: along the attacker's `own` vector, as training
            moves the rows of what it likes, or where its rows of `popular` items go.
        popular: how many items those are.
        seed: who attacks.
    """

    kind: Literal["none", "sign_flip", "noise", "boost", "alie", "ipm"] = "none"
    share: float = 0.1
    scale: float = 1.0
    knows: Literal["honest", "own"] = "honest"
    item: int = -1
    toward: Literal["own", "popular"] = "own"
    popular: int = 50
    seed: int = 0


def check_aggregation(aggregation: AggregationConfig, attack: AttackConfig) -> None:
    """Raises a ValueError for shares and sizes that cannot be."""
    if not 0 <= aggregation.share < 0.5:
        raise ValueError(
            f"aggregation.share must be in [0, 0.5), got {aggregation.share}: no rule "
            "stands against a majority"
        )
    if not (aggregation.step > 0 and np.isfinite(aggregation.step)):
        raise ValueError(
            f"aggregation.step must be positive and finite, got {aggregation.step}"
        )
    if not 0 <= attack.share <= 1:
        raise ValueError(f"attack.share must be in [0, 1], got {attack.share}")
    if not (attack.scale > 0 and np.isfinite(attack.scale)):
        raise ValueError(f"attack.scale must be positive, got {attack.scale}")
    if attack.popular < 1:
        raise ValueError(f"attack.popular must be at least 1, got {attack.popular}")
    if aggregation.guidance.temperature <= 0:
        raise ValueError("aggregation.guidance.temperature must be positive")


def make_aggregator(
    config: AggregationConfig, about: Circumstances, width: int
) -> Aggregator | None:
    """The rule; `None` is the algorithm's.

    Args:
        config: which.
        about: clients and algorithm.
        width: of a profile, 0 where clients send none.

    Raises:
        ValueError: guided by profiles, and there are none; or what `weighing_rule`
            refuses.
    """
    rule, share = config.rule, config.share
    if rule == "algorithm":
        return None
    if rule in WEIGHING:
        return weighing_rule(config, about)
    if rule in ("fm_guided", "update_guided"):
        if rule == "fm_guided" and not width:
            raise ValueError(
                "aggregation.rule='fm_guided' reads what clients tell of themselves: "
                "set profile.source to 'text' (or to a control)"
            )
        return fm_guided(
            len(about.examples),
            max(width, 1),
            config.guidance,
            likeness="profile" if rule == "fm_guided" else "update",
        )
    robust: dict[str, Callable[..., Aggregator]] = {
        "median": coordinate_median,
        "trimmed_mean": trimmed_mean,
        "geometric_median": geometric_median,
        "krum": krum,
        "multi_krum": multi_krum,
        "bulyan": bulyan,
        "centered_clipping": centered_clipping,
        "norm_bound": norm_bound,
        "mixed_median": lambda **k: mixed(coordinate_median(**k), share=share),
        "mixed_trimmed_mean": lambda **k: mixed(trimmed_mean(**k), share=share),
    }
    endings: dict[Voting, str] = {
        "dense": "",
        "voters": "_of_voters",
        "diluted": "_diluted",
    }
    for voting, ending in endings.items():
        name = rule.removesuffix(ending)
        if rule.endswith(ending) and name in robust:
            return robust[name](share=share, voting=voting)
    if rule == "majority_vote":
        return majority_vote(step=config.step)
    return AGGREGATORS[rule]()


def with_attack(
    recipe: Recipe, config: AttackConfig, num_clients: int, train: Interactions
) -> Recipe:
    """The recipe, some of whose clients lie."""
    if config.kind == "none":
        return recipe
    members = attackers(num_clients, config.share, config.seed)
    if config.kind in ("alie", "ipm"):
        rule = colluding(
            recipe.aggregator,
            members,
            kind=config.kind,
            scale=config.scale,
            knows=config.knows,
        )
        return recipe._replace(aggregator=rule)
    made: dict[str, Callable[[], Any]] = {
        "sign_flip": lambda: sign_flip(members, scale=config.scale),
        "noise": lambda: noise(members, scale=config.scale),
        "boost": lambda: boost(
            members,
            boosted_item(config, train),
            num_items=train.num_items,
            toward=_toward(recipe, config, train),
            scale=config.scale,
        ),
    }
    return recipe._replace(attack=made[config.kind]())


def _toward(recipe: Recipe, config: AttackConfig, train: Interactions) -> Any:
    if config.toward == "popular":
        return popular(most_popular(train, config.popular))
    start = jax.eval_shape(recipe.model.init, jax.random.key(0))
    table = start.shared.get("item")
    if not rows.is_table(table):
        raise ValueError(
            "attack.kind='boost' pushes a row of an item table, and this model shares "
            f"{', '.join(start.shared) or 'nothing'}"
        )
    width = table.values.shape[1:]
    for path, leaf in jax.tree_util.tree_leaves_with_path(start.personal):
        if leaf.shape == width:
            return own(*(entry.key for entry in path))
    raise ValueError(
        "attack.toward='own' pushes along a client's own vector, and this model's "
        f"clients have none of the width {width} of an item's row: use 'popular'"
    )


def boosted_item(config: AttackConfig, train: Interactions) -> int:
    """The item that `boost` pushes.

    Raises:
        ValueError: there is no such item.
    """
    if config.item >= train.num_items:
        raise ValueError(
            f"attack.item={config.item}, and there are {train.num_items} items"
        )
    if config.item >= 0:
        return config.item
    counts = np.bincount(train.item, minlength=train.num_items)
    return int(counts.argmin())


def most_popular(train: Interactions, count: int) -> list[int]:
    """The ids of the `count` items with the most interactions."""
    counts = np.bincount(train.item, minlength=train.num_items)
    return np.argsort(-counts, kind="stable")[:count].tolist()
