"""From an experiment to a simulation that is ready to run."""

import contextlib
import dataclasses
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.precision import at_precision
from fedjax_rec.data.clients import ClientData, in_buckets, with_rating_dtype
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.experiment.combine import (
    check_evaluated,
    check_recipe,
    check_settings,
    make_recipe,
)
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.experiment.held_out import check_candidates, check_newcomers, untimed
from fedjax_rec.experiment.location import choose_location, on_disk
from fedjax_rec.experiment.memory import check_memory
from fedjax_rec.experiment.prepared import PreparedData, load_prepared
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.experiment.shared import facts_of, key_of, shared
from fedjax_rec.fleet.costs import Participants
from fedjax_rec.runs.model import read_model
from fedjax_rec.runs.start import start_from
from fedjax_rec.simulation.chunks import chunk_sizes, default_examples_per_chunk
from fedjax_rec.simulation.mesh import shares
from fedjax_rec.simulation.returned import check_shapes
from fedjax_rec.simulation.simulation import Simulation

_LOG = logging.getLogger(__name__)


def build(
    experiment: Experiment,
    *,
    progress: bool = False,
    data: Interactions | None = None,
    recipe_of: Callable[[Experiment, Context], Recipe] | None = None,
    start: str | Path | None = None,
) -> Simulation:
    """Loads, splits and partitions the data, and binds the system to them.

    Args:
        experiment: the experiment.
        progress: show bars for work of more than two seconds.
        data: the interactions of `experiment.data`, if they are loaded already.
        recipe_of: replaces `make_recipe`.
        start: folder of a run; training starts from its parameters, see `start_from`.

    Returns:
        A simulation; `.run()` trains it and returns the result.

    Raises:
        ValueError: the parts of the experiment do not fit together.
        fedjax_rec.storage.errors.FileError: a file is missing or cannot be read.
    """
    check(experiment)
    stored = None if start is None else read_model(start)
    if recipe_of is None:
        check_settings(experiment)
    mesh = experiment.mesh.build()
    prepared = load_prepared(experiment, data, progress)
    if warning := untimed(prepared.split):
        _LOG.warning("%s", warning)
    context = make_context(experiment, prepared, progress)
    recipe = _recipe(experiment, context, recipe_of)
    protocol = _protocol(experiment.protocol, recipe, prepared)
    why_newcomers = check_newcomers(
        recipe, protocol, prepared.split, prepared.newcomers, context.num_clients
    )
    key = None
    if recipe_of is None:
        key = key_of(experiment, prepared, data, facts_of(recipe, context), progress)
    recipe, system = shared(key, recipe, experiment, protocol, prepared)
    participants = system.participants
    lifted, why_lifted = decide_lift(recipe, context, experiment)
    per_chunk = _examples_per_chunk(experiment, recipe, lifted)

    def laid_out(clients: ClientData, count: int) -> tuple[ClientData, tuple[int, ...]]:
        data = _in_buckets(clients, recipe, context, experiment)
        return data, chunk_sizes(data, per_chunk, count, shares(mesh))

    clients, chunks = laid_out(prepared.clients, context.cohort_size)
    newcomers, newcomer_chunks = prepared.newcomers, ()
    if newcomers is not None:
        shown, newcomer_chunks = laid_out(newcomers.data, len(newcomers.user))
        newcomers = newcomers._replace(data=shown)
    location, folder = choose_location(experiment.store, recipe, clients, mesh), None
    check_memory(recipe, clients, context.cohort_size, location, mesh)
    with contextlib.ExitStack() as stack:
        if location == "disk":
            maps = on_disk(clients, experiment.store.folder)
            clients, folder = stack.enter_context(maps)
        simulation = Simulation(
            recipe=recipe,
            split=prepared.split,
            targets=prepared.targets,
            digests=prepared.digests,
            data=clients,
            client_of_user=prepared.serving,
            multi_user=not prepared.single,
            sampler=participants.sampler,
            programs=system.programs,
            cohort_size=context.cohort_size,
            chunks=chunks,
            newcomers=newcomers,
            newcomer_chunks=newcomer_chunks,
            protocol=protocol,
            metric=system.metric,
            rounds=experiment.rounds,
            eval_every=min(experiment.eval_every, experiment.rounds),
            seed=experiment.seed,
            user_chunk=experiment.execution.user_chunk,
            mesh=mesh,
            hosted=location != "device",
            folder=folder,
            frozen=recipe.frozen,
            split_tables=experiment.mesh.items > 1,
            lifted=lifted,
            notes=_notes(recipe, lifted, participants),
            why=(*recipe.why, *why_newcomers, *why_lifted, *participants.why),
        )
        weakref.finalize(simulation, stack.pop_all().close)
    if stored is not None:
        start_from(simulation, stored)
    return simulation


def check(experiment: Experiment) -> None:
    """Raises a ValueError for settings that no data can fit, before loading any."""
    experiment.cohort.check(experiment.fleet)
    held_out = getattr(experiment.split, "holds_out", "interactions")
    check_candidates(held_out == "items", experiment.protocol)
    wide = experiment.execution.dtype == "float64"
    if wide and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "execution.dtype='float64' needs JAX in 64-bit mode: set JAX_ENABLE_X64=1, "
            "or jax.config.update('jax_enable_x64', True) before building"
        )


def make_context(
    experiment: Experiment, prepared: PreparedData, progress: bool = False
) -> Context:
    """The facts that an experiment's parts are built from."""
    train, num_clients = prepared.split.train, prepared.clients.num_clients
    # Its attributes are cached properties, which a type checker takes for others.
    corpus: Any = Corpus(
        experiment.backbone,
        train,
        experiment.execution.prefix_cache,
        progress,
        experiment.execution.precision,
    )
    return Context(
        num_items=train.num_items,
        num_users=train.num_users,
        num_clients=num_clients,
        cohort_size=experiment.cohort.slots(num_clients),
        dtype=jnp.dtype(experiment.execution.dtype),
        examples=prepared.holdings.examples,
        split=prepared.split,
        clients=prepared.clients,
        pool=prepared.pool,
        corpus=corpus,
        lora_base=getattr(experiment.wrapper, "lora_base", False),
    )


def _recipe(
    experiment: Experiment,
    context: Context,
    recipe_of: Callable[[Experiment, Context], Recipe] | None,
) -> Recipe:
    precision = experiment.execution.precision
    make = at_precision(precision, recipe_of or make_recipe)
    recipe = make(experiment, context)
    check_recipe(recipe)
    if recipe_of is None:
        check_shapes(experiment, recipe, context)
    return recipe._replace(precision=precision)


def _examples_per_chunk(experiment: Experiment, recipe: Recipe, lifted: bool) -> int:
    return experiment.execution.examples_per_chunk or default_examples_per_chunk(
        1 + recipe.local.negatives, texts=recipe.local.through_layers and not lifted
    )


def _notes(recipe: Recipe, lifted: bool, participants: Participants) -> dict[str, Any]:
    notes = dict(recipe.notes)
    if "backbone" in notes:
        more = {"once": lifted, "message_bits": participants.message_bits}
        notes["backbone"] = {**notes["backbone"], **more}
    return {**notes, **participants.notes}


def _protocol(protocol: Protocol, recipe: Recipe, prepared: PreparedData) -> Protocol:
    """The protocol with the attacked item.

    Raises:
        ValueError: the protocol does not fit the system or the data.
    """
    exposed = recipe.notes.get("exposed_item", -1)
    if protocol.exposed_item < 0 <= exposed:
        protocol = dataclasses.replace(protocol, exposed_item=exposed)
    num_items = prepared.split.train.num_items
    if protocol.exposed_item >= num_items:
        raise ValueError(
            f"protocol.exposed_item={protocol.exposed_item}, and there are {num_items} "
            "items"
        )
    if protocol.evaluated == "reconstructed":
        check_evaluated(recipe)
    if prepared.single:
        return protocol
    if recipe.model.single_user:
        raise ValueError(
            "this system keeps a personal part for each user, but the clients of the "
            "partition hold several users. Use partition=PerUser(), or "
            "FedAvg(model=MatrixFactorization(users='table'))"
        )
    if protocol.evaluated != "aggregated":
        raise ValueError(
            f"protocol.evaluated={protocol.evaluated!r} scores each client's own "
            "parameters, which needs one client per user: partition=PerUser()"
        )
    return protocol


def decide_lift(
    recipe: Recipe, context: Context, experiment: Experiment
) -> tuple[bool, tuple[str, ...]]:
    """Whether items are encoded once a round for all clients, and why.

    Raises:
        ValueError: `execution.encode="once"`, and it is not exact.
    """
    encode = experiment.execution.encode
    reasons = list(recipe.local.per_client)
    if recipe.model.lift is None:
        if encode != "once":
            return False, ()
        reasons = reasons or ["this system encodes no texts"]
    if not recipe.aggregator.linear and not reasons:
        reasons.append("the aggregation rule reads each client's delta")
    if recipe.transform is not None:
        reasons.append("the message transform reads each client's delta")
    if experiment.protocol.evaluated == "tuned":
        reasons.append("clients are evaluated with their own tuned parameters")
    if encode == "once" and reasons:
        raise ValueError(f"execution.encode='once' is not exact: {'; '.join(reasons)}")
    if reasons:
        return False, (f"each client encodes its own items: {'; '.join(reasons)}",)
    if encode == "per_client":
        return False, ("each client encodes its own items, as asked for",)
    per_client = (1 + recipe.local.negatives) * context.examples.mean()
    pairs, items = per_client * context.cohort_size, context.num_items
    if encode == "auto" and pairs < items:
        return False, (
            f"each client encodes its own items: a cohort's {pairs:,.0f} pairs are "
            f"fewer than the {items:,} items",
        )
    return True, (
        f"items are encoded once a round for all clients ({items:,} texts for "
        f"{pairs:,.0f} pairs): exact, since each client takes one step of plain SGD on "
        "the shared parts and their mean is linear",
    )


def _in_buckets(
    clients: ClientData, recipe: Recipe, context: Context, experiment: Experiment
) -> ClientData:
    """Client data in size buckets, with ratings in the parameters' type."""
    pairs, batch = 1 + recipe.local.negatives, recipe.local.batch_size

    def padded(width: np.ndarray) -> np.ndarray:
        """Pairs that a client computes: whole batches beyond the first."""
        count = width * pairs
        return np.where(count <= batch, count, -(-count // batch) * batch)

    clients = in_buckets(clients, experiment.execution.max_buckets, padded)
    if context.dtype != jnp.float32:
        return with_rating_dtype(clients, context.dtype)
    return clients
