"""A whole experiment as frozen dataclasses, and `build(experiment) -> Simulation`."""

import dataclasses
import os
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.algorithms import FedAvg, FedFM, FedMF, FedNCF, PFedRec
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import in_buckets, with_rating_dtype
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.settings import CsvData, FileData, SyntheticData
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.experiment.aggregation import (
    AggregationConfig,
    AttackConfig,
    boosted_item,
    check_aggregation,
    make_aggregator,
    with_attack,
)
from fedjax_rec.experiment.backbone import BackboneConfig, prepare
from fedjax_rec.experiment.codec import CodecConfig, check_codec, with_codec
from fedjax_rec.experiment.cohort import (
    CohortConfig,
    check_cohort,
    cohort_size,
    group_bits,
    make_participants,
)
from fedjax_rec.experiment.mesh import (
    MeshConfig,
    PopulationConfig,
    choose_store,
    on_disk,
)
from fedjax_rec.experiment.population import Population, load_population
from fedjax_rec.experiment.profiles import ProfileConfig, make_profiles
from fedjax_rec.experiment.split import PartitionConfig, SplitConfig
from fedjax_rec.experiment.weights import Circumstances, check_weights
from fedjax_rec.simulation.mesh import shares
from fedjax_rec.simulation.round import chunk_sizes
from fedjax_rec.simulation.simulation import Simulation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How the program runs; none of it changes results beyond rounding.

    Attributes:
        examples_per_chunk: padded examples that one `vmap` holds; 0 chooses.
        max_buckets: most size buckets; each is compiled, about 3 s on 2 CPU cores, and
            spares padding: on ML-100K 4 leave 62 % of it, 6 leave 36 %, 8 leave 26 %.
        user_chunk: users scored at once.
        encode: items' texts `once` a round for all clients, `per_client`, or `auto`:
            once where that is exact and less work.
        prefix_cache: run layers before the adapted ones once, not every time.
        dtype: of the parameters; float64 needs `JAX_ENABLE_X64=1`.
    """

    examples_per_chunk: int = 0
    max_buckets: int = 6
    user_chunk: int = 64
    encode: Literal["auto", "once", "per_client"] = "auto"
    prefix_cache: bool = True
    dtype: Literal["float32", "float64"] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a result.

    Attributes:
        name: names the run folder.
        data: where the interactions come from.
        split: train, validation, test.
        partition: who holds what.
        algorithm: the federated system, with its hyperparameters.
        backbone: the frozen foundation model, for algorithms that have one.
        codec: how messages to the server shrink.
        aggregation: the rule by which the server joins them, if not the algorithm's.
        attack: clients who lie.
        profile: what clients tell of themselves, for rules that read it.
        cohort: who takes part.
        protocol: how it is evaluated.
        execution: how it is run.
        mesh: the devices it runs on.
        population: where clients' data and personal state lie.
        rounds: how many rounds to train.
        eval_every: rounds between evaluations.
        seed: of initial values, negatives, orders and cohorts.
    """

    name: str
    data: SyntheticData | FileData | CsvData = dataclasses.field(
        default_factory=SyntheticData
    )
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    partition: PartitionConfig = dataclasses.field(default_factory=PartitionConfig)
    algorithm: FedAvg | FedFM | FedMF | FedNCF | PFedRec = dataclasses.field(
        default_factory=PFedRec
    )
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    codec: CodecConfig = dataclasses.field(default_factory=CodecConfig)
    aggregation: AggregationConfig = dataclasses.field(
        default_factory=AggregationConfig
    )
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)
    cohort: CohortConfig = dataclasses.field(default_factory=CohortConfig)
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    execution: Execution = Execution()
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    population: PopulationConfig = dataclasses.field(default_factory=PopulationConfig)
    rounds: int = 100
    eval_every: int = 10
    seed: int = 0


def build(
    experiment: Experiment,
    *,
    progress: bool = False,
    data: Interactions | None = None,
    make_recipe: Callable[..., Recipe] | None = None,
) -> Simulation:
    """Loads, splits and partitions the data, and binds the algorithm to them.

    Args:
        experiment: what to run.
        progress: show bars for what takes over two seconds.
        data: what `experiment.data` loads, where it is loaded already.
        make_recipe: called in place of `experiment.algorithm.build`.

    Returns:
        A simulation; `.run()` trains it and returns the result.

    Raises:
        ValueError: the parts of the experiment do not fit together.
        fedjax_rec.storage.errors.FileError: the data are not what they should be.
    """
    check(experiment)
    mesh = experiment.mesh.make()
    people = load_population(experiment, data, progress)
    split, held = people.split, people.holdings
    train, num_clients = split.train, people.clients.num_clients
    execution, protocol = experiment.execution, experiment.protocol
    if experiment.attack.kind == "boost" and protocol.watch < 0:
        item = boosted_item(experiment.attack, train)
        protocol = dataclasses.replace(protocol, watch=item)
    if protocol.watch >= train.num_items:
        raise ValueError(
            f"protocol.watch={protocol.watch}, and there are {train.num_items} items"
        )
    dtype = jnp.dtype(execution.dtype)
    slots = cohort_size(experiment.cohort, num_clients)
    sizes: dict = {
        "num_items": train.num_items,
        "num_users": train.num_users,
        "dtype": dtype,
    }
    prepared = None
    if isinstance(experiment.algorithm, FedFM):
        per_client = (1 + experiment.algorithm.negatives) * held.examples.mean()
        prepared = prepare(
            experiment.backbone,
            experiment.algorithm,
            split,
            pool=people.pool,
            largest=int(held.examples.max()),
            pairs_a_round=per_client * slots,
            tuned=protocol.evaluated == "tuned",
            encode=_encode(experiment),
            prefix_cache=execution.prefix_cache,
            progress=progress,
        )
        sizes |= {"texts": prepared.texts, "lifted": prepared.lifted}
    profiles = make_profiles(
        experiment.profile, experiment.backbone, train, people.clients, progress
    )
    if getattr(experiment.algorithm, "personalized", "none") != "none":
        sizes["num_clients"] = num_clients
    if _by_profile(experiment.algorithm):
        sizes["profiles"], profiles = profiles, None  # read now, and not sent
    recipe = (make_recipe or experiment.algorithm.build)(**sizes)
    recipe = _transformed(recipe, experiment, people, profiles)
    # A rule may refuse so small a cohort: now, not after compiling.
    jax.eval_shape(
        lambda key: recipe.aggregator.init(recipe.model.init(key).shared, slots),
        jax.random.key(0),
    )
    room = train.num_items if people.pool is None else len(people.pool)
    participants = make_participants(
        experiment.cohort,
        recipe,
        held,
        room=room,
        algorithm=experiment.algorithm,
        backbone=None if prepared is None else prepared.facts,
    )
    notes = dict(participants.notes)
    if isinstance(experiment.algorithm, FedFM) and prepared is not None:
        sent = group_bits(recipe, held, room)
        notes["backbone"] = {**prepared.facts, "message_bits": sent}
    if not people.single:
        if recipe.single_user:
            raise ValueError(
                f"{type(experiment.algorithm).__name__} keeps a personal part for each "
                f"user, but the clients of partition {experiment.partition.kind!r} "
                "hold several users. Use partition.kind='per_user', or FedAvg with "
                "users='table'"
            )
        if protocol.evaluated != "aggregated":
            raise ValueError(
                f"protocol.evaluated={protocol.evaluated!r} scores each client's own "
                "parameters, which "
                "needs one client per user: partition.kind='per_user'"
            )
    pairs = 1 + recipe.negatives
    batch = getattr(experiment.algorithm, "batch_size", 1)
    clients = in_buckets(
        people.clients,
        execution.max_buckets,
        lambda width: _padded_pairs(width * pairs, batch),
    )
    if dtype != jnp.float32:
        clients = with_rating_dtype(clients, dtype)
    # What a client holds of a pair: some vectors, or a text's whole way through layers.
    per_pair = prepared is not None and prepared.path != "embedding"
    per_chunk = execution.examples_per_chunk or default_examples_per_chunk(
        pairs, texts=per_pair and not recipe.lifted
    )
    store = choose_store(experiment.population, recipe, clients, mesh)
    folder = None
    if store == "disk":
        clients, folder = on_disk(clients, experiment.population.folder)
    return Simulation(
        recipe=recipe,
        split=split,
        targets=people.targets,
        digests=people.digests,
        data=clients,
        client_of_user=people.serving,
        shares_clients=not people.single,
        sampler=participants.sampler,
        cohort_size=slots,
        chunks=chunk_sizes(clients, per_chunk, slots, shares(mesh)),
        protocol=protocol,
        rounds=experiment.rounds,
        eval_every=min(experiment.eval_every, experiment.rounds),
        seed=experiment.seed,
        user_chunk=execution.user_chunk,
        mesh=mesh,
        hosted=store != "device",
        folder=folder,
        split_tables=experiment.mesh.items > 1,
        frozen=() if prepared is None else prepared.frozen,
        notes=notes,
        why=(() if prepared is None else prepared.why) + participants.why,
    )


def check(experiment: Experiment) -> None:
    """Raises a ValueError for what no run could use, before anything is loaded."""
    algorithm = experiment.algorithm
    positive = {
        "rounds": experiment.rounds,
        "eval_every": experiment.eval_every,
        "partition.num_clients": experiment.partition.num_clients,
        "execution.max_buckets": experiment.execution.max_buckets,
        "execution.user_chunk": experiment.execution.user_chunk,
        **{
            f"algorithm.{name}": getattr(algorithm, name)
            for name in ("dim", "batch_size", "local_epochs", "negatives")
        },
    }
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        if isinstance(value, int | float) and not (np.isfinite(value) and value >= 0):
            raise ValueError(
                f"algorithm.{field.name} must be finite and not negative, got {value}"
            )
    check_cohort(experiment.cohort)
    check_codec(experiment.codec)
    check_aggregation(experiment.aggregation, experiment.attack)
    check_weights(experiment.aggregation, algorithm)
    several = getattr(algorithm, "clusters", 1) > 1
    several |= getattr(algorithm, "personalized", "none") != "none"
    if experiment.codec.name != "none" and several:
        raise ValueError(
            "algorithm.clusters above 1 and algorithm.personalized send one of several "
            "models, and codecs know one: leave codec.name at 'none'"
        )
    if _by_profile(algorithm) and experiment.profile.source == "none":
        raise ValueError(
            "algorithm.clustered_by='profile' groups clients by what they tell of "
            "themselves: set profile.source to 'text' (or to a control)"
        )
    rebuilds = getattr(algorithm, "shared_steps", "every") == "once"
    rebuilds &= not getattr(algorithm, "ranks", ())
    if experiment.protocol.evaluated == "reconstructed" and not rebuilds:
        raise ValueError(
            "protocol.evaluated='reconstructed' is for algorithms that rebuild what is "
            "personal from what is shared: FedFM with algorithm.shared_steps='once' "
            "and one rank for all"
        )
    if experiment.execution.examples_per_chunk < 0:
        raise ValueError("execution.examples_per_chunk must not be negative")
    if experiment.seed < 0 or experiment.seed >= 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {experiment.seed}")
    if experiment.execution.dtype == "float64" and not jax.config.read(
        "jax_enable_x64"
    ):
        raise ValueError(
            "execution.dtype='float64' needs JAX in 64-bit mode: set JAX_ENABLE_X64=1, "
            "or jax.config.update('jax_enable_x64', True) before building"
        )


def _transformed(
    recipe: Recipe,
    experiment: Experiment,
    people: Population,
    profiles: np.ndarray | None,
) -> Recipe:
    """The recipe with the experiment's codec, rule, attackers and profiles."""
    train, num_clients = people.split.train, people.clients.num_clients
    width = 0 if profiles is None else profiles.shape[1]
    about = Circumstances(people.holdings.examples, experiment.algorithm)
    rule = make_aggregator(experiment.aggregation, about, width)
    own = _own_aggregation(experiment.algorithm)
    if rule is not None and own:
        raise ValueError(
            f"aggregation.rule={experiment.aggregation.rule!r} would take the place of "
            f"what {' and '.join(own)} bring: leave it at 'algorithm'"
        )
    if rule is not None:
        recipe = recipe._replace(aggregator=rule)
    if experiment.codec.name == "count_sketch" and rule is not None:
        raise ValueError(
            "codec.name='count_sketch' brings its own aggregation, FetchSGD: leave "
            "aggregation.rule at 'algorithm'"
        )
    recipe = with_codec(recipe._replace(profiles=profiles), experiment.codec)
    return with_attack(recipe, experiment.attack, num_clients, train)


def _own_aggregation(algorithm) -> list[str]:
    """Settings of an algorithm for which no other rule can do."""
    without = {
        "lora_aggregation": "plain",
        "control": "none",
        "clusters": 1,
        "personalized": "none",
    }
    return [
        f"algorithm.{name}={value!r}"
        for name, plain in without.items()
        if (value := getattr(algorithm, name, plain)) != plain
    ]


def _by_profile(algorithm) -> bool:
    clusters = getattr(algorithm, "clusters", 1)
    return clusters > 1 and algorithm.clustered_by == "profile"


def _encode(experiment: Experiment) -> Literal["auto", "once", "per_client"]:
    """Whether items may be encoded once a round for all clients.

    Raises:
        ValueError: it is asked for, and what clients send has to be their own.
    """
    encode = experiment.execution.encode
    own = {
        "codec.name": experiment.codec.name != "none",
        "aggregation.rule": experiment.aggregation.rule
        not in ("algorithm", "examples", "uniform", "sum", "by_participation"),
        "attack.kind": experiment.attack.kind != "none",
    }
    needs = [name for name, needed in own.items() if needed]
    if needs and encode == "once":
        raise ValueError(
            f"execution.encode='once' joins the clients' gradients before they are "
            f"sent, but {', '.join(needs)} looks at each client's message: leave it at "
            "'auto' or 'per_client'"
        )
    return "per_client" if needs else encode


def default_examples_per_chunk(pairs: int, texts: bool = False) -> int:
    """Padded examples of one `vmap`, by what the default device can fill.

    Measured (benchmarks/RESULTS.md): on a CPU a chunk should stay in cache; an
    accelerator wants all the parallelism that fits. A text of 32 tokens in all layers
    of MiniLM keeps about 4 MB in float32 for the backward pass.

    Args:
        pairs: of an example.
        texts: whether each pair is a text that runs through layers of a backbone.
    """
    on_cpu = jax.default_backend() == "cpu"
    budget = 10_000 if on_cpu else 2_000_000
    if texts:
        budget = 16 * (os.cpu_count() or 1) if on_cpu else 4096
    return max(1, budget // pairs)


def _padded_pairs(pairs: np.ndarray, batch: int) -> np.ndarray:
    """Pairs a client really computes: whole batches beyond the first."""
    return np.where(pairs <= batch, pairs, -(-pairs // batch) * batch)
