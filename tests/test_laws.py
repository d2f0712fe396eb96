"""The laws every registered algorithm, model, aggregator and codec obeys.

A new entry in a registry is held to them without a new test.
"""

import collections
import dataclasses
import functools
import tempfile
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_rec.aggregators.guided import fm_guided
from fedjax_rec.algorithms.clustered import clustered
from fedjax_rec.algorithms.clustered_by_profile import clustered_by_profile
from fedjax_rec.algorithms.clustered_by_update import clustered_by_update
from fedjax_rec.algorithms.fedamp import fedamp
from fedjax_rec.codecs.serialize import deserialize, serialize, to_bits
from fedjax_rec.experiment.codec import CodecConfig, with_codec

from fedjax_rec.aggregators import AGGREGATORS, fair
from fedjax_rec.algorithms import (
    ALGORITHMS,
    FedAvg,
    FedFM,
    FedMF,
    FedNCF,
    PFedRec,
)
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.codecs import CODECS, num_bits
from fedjax_rec.codecs.wire import is_field
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Params, Senders
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import IID, PerUser
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment import backbone as experiment_backbone
from fedjax_rec.models.factorization import matrix_factorization
from fedjax_rec.models.neural_cf import neural_cf
from fedjax_rec.models.pfedrec import personal_scorer
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, make_algorithm

N, I = 9, 23  # noqa: E741
SMALL: dict[str, Any] = {"dim": 4, "batch_size": 8, "negatives": 2}

CONFIGS = {name: cls(**SMALL) for name, cls in ALGORITHMS.items()} | {
    "fedmf explicit": FedMF(**SMALL, feedback="explicit"),
    "fedavg two epochs, prox, momentum, yogi": FedAvg(
        **SMALL,
        local_epochs=2,
        proximal=0.1,
        client_optimizer="momentum",
        client_lr=0.1,
        server_optimizer="yogi",
        server_lr=0.01,
        aggregation="examples",
    ),
    "fedavg adam, ncf, adagrad": FedAvg(
        **SMALL,
        model="ncf",
        client_optimizer="adam",
        client_lr=0.01,
        server_optimizer="adagrad",
        server_lr=0.1,
        aggregation="uniform",
    ),
    "fedavg ncf, scaffold": FedAvg(
        **SMALL,
        model="ncf",
        control="scaffold",
        aggregation="uniform",
        local_epochs=2,
        client_lr=0.1,
    ),
    "fedavg user table": FedAvg(**SMALL, users="table", server_optimizer="momentum"),
    "fedavg scorer, sum, adam": FedAvg(
        **SMALL,
        model="scorer",
        aggregation="sum",
        server_optimizer="adam",
        server_lr=0.01,
    ),
}

FM: dict[str, Any] = {
    **SMALL,
    "rank": 2,
    "bottleneck": 3,
    "prefix": 2,
    "history": 4,
    "client_lr": 0.2,
    "user_lr": 0.2,
}
# Of every client's pairs one batch: what training through all items' vectors wants.
WHOLE: dict[str, Any] = {**FM, "batch_size": 99}
CONFIGS |= {
    "fedfm": FedFM(**FM),  # suffix LoRA, several steps
    "fedfm lifted full lora, bce": FedFM(**WHOLE, layers=0, loss="bce", user_l2=0.1),
    "fedfm lifted embedding, bpr, shared once": FedFM(
        **WHOLE, adapter="embedding", loss="bpr", shared_steps="once", local_epochs=3
    ),
    "fedfm lifted bottleneck, ids, per row": FedFM(
        **WHOLE, adapter="bottleneck", id_residual=True, aggregation="per_row"
    ),
    "fedfm prefix, momentum": FedFM(
        **FM, adapter="prefix", client_optimizer="momentum", aggregation="uniform"
    ),
    "fedfm fedsa": FedFM(**FM, personal=("lora_b",)),
    "fedfm personal lora": FedFM(**FM, personal=("lora_a", "lora_b")),
    "fedfm fedex": FedFM(**FM, lora_aggregation="fedex"),
    "fedfm flora, mixed ranks": FedFM(
        **FM, lora_aggregation="flora", ranks=(1, 2), aggregation="uniform"
    ),
    "fedfm flexlora, mixed ranks, ids": FedFM(
        **FM,
        lora_aggregation="flexlora",
        ranks=(1, 2),
        id_residual=True,
    ),
    "fedfm scaffold": FedFM(
        **FM, control="scaffold", local_epochs=2, aggregation="uniform"
    ),
    "fedfm hetlora, shared once": FedFM(
        **FM, lora_aggregation="hetlora", ranks=(1, 2), shared_steps="once"
    ),
    "fedfm lifted personal head": FedFM(**WHOLE, personal=("head",)),
    "fedfm lifted history of many users": FedFM(**WHOLE, users="history"),
    "fedfm both, ids, shared once, query": FedFM(
        **FM,
        adapter="embedding",
        hidden=3,
        users="both",
        id_residual=True,
        shared_steps="once",
        local_epochs=2,
        query=0.4,
    ),
}
# What a transform makes of the recipe of the same name in CONFIGS.
TRANSFORMS: dict[str, Any] = {
    "pfedrec, top-k with feedback": lambda recipe: with_codec(
        recipe, CodecConfig(name="top_k")
    ),
    "fedncf, colr": lambda recipe: with_codec(recipe, CodecConfig(name="colr", rank=2)),
    "fedfm, power sgd": lambda recipe: with_codec(
        recipe, CodecConfig(name="power_sgd", rank=1)
    ),
    "fedavg, update guided": lambda recipe: recipe._replace(
        aggregator=fm_guided(N, 1, likeness="update", sketch=64)
    ),
    "fedavg, trend": lambda recipe: recipe._replace(aggregator=fair.by_trend(N)),
    "fedavg, participation": lambda recipe: recipe._replace(
        aggregator=fair.by_participation(N, longest=2)
    ),
    "fedncf, agnostic": lambda recipe: recipe._replace(
        aggregator=fair.agnostic(lambda ids: ids % 3, 3)
    ),
    "fedavg of two clusters": lambda recipe: clustered(recipe, 2),
    "fedavg of two clusters by update": lambda recipe: clustered_by_update(
        recipe, 2, warm_rounds=1, sketch=32
    ),
    "fedavg of two clusters by profile": lambda recipe: clustered_by_profile(
        recipe, 2, np.random.default_rng(2).normal(size=(N, 3))
    ),
    "fedncf, fedamp": lambda recipe: fedamp(recipe, N, sigma=0.5),
}
CONFIGS |= {
    "pfedrec, top-k with feedback": PFedRec(**SMALL),
    "fedncf, colr": FedNCF(**SMALL),
    "fedfm, power sgd": FedFM(**FM),
    "fedavg, update guided": FedAvg(**SMALL, aggregation="examples"),
    "fedavg, trend": FedAvg(**SMALL),
    "fedavg, participation": FedAvg(**SMALL),
    "fedncf, agnostic": FedNCF(**SMALL),
    "fedavg of two clusters": FedAvg(**SMALL),
    "fedavg of two clusters by update": FedAvg(**SMALL),
    "fedavg of two clusters by profile": FedAvg(**SMALL),
    "fedncf, fedamp": FedNCF(**SMALL),
}
# Those whose parts others have as well.
SLOW = {
    "fedfm flora, mixed ranks",
    "fedfm flexlora, mixed ranks, ids",
    "fedfm hetlora, shared once",
    "fedfm personal lora",
    "fedfm lifted personal head",
    "fedavg adam, ncf, adagrad",
    "fedavg scorer, sum, adam",
    "fedfm prefix, momentum",
    "fedfm fedsa",
    "fedfm lifted bottleneck, ids, per row",
    "fedfm lifted history of many users",
    "fedavg of two clusters by profile",
    "fedncf, fedamp",
    "fedavg of two clusters by update",
    "fedavg, trend",
    "fedavg, participation",
    "fedfm lifted full lora, bce",
    "fedfm fedex",
    "per_row_uniform",
    "by_size",
    "by_effective_number",
    "multi_krum",
    "mixed_median",
    "trimmed_mean_of_voters",
    "geometric_median_of_voters",
    "median_diluted",
    "trimmed_mean_diluted",
}


@functools.cache
def interactions():
    rng = np.random.default_rng(0)
    sizes = [1, 2, 3, 3, 5, 8, 9, 12, 1]
    user = np.repeat(np.arange(N), sizes)
    item = np.concatenate([rng.choice(I, s, replace=False) for s in sizes])
    return make_interactions(
        user=user,
        item=item,
        rating=rng.integers(1, 6, len(user)).astype(np.float32),
        users=Entities(ids=[f"u{u}" for u in range(N)]),
        items=Entities(
            ids=[f"i{i}" for i in range(I)],
            titles=[" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(I)],
        ),
    )


WORDS = [f"{a}{b}" for a in ("red", "sea", "sun", "oak") for b in ("ship", "man", "s")]


@functools.cache
def behind_a_backbone(name):
    """What a `FedFM` starts from, over a backbone of two narrow layers."""
    train = interactions()
    split = Split(train=train, val=train, test=train, name="none", info={})

    def load(config, progress):
        del config, progress
        size: dict[str, Any] = {"width": 8, "num_heads": 2, "ffn_width": 8}
        return *tiny(**size, num_layers=2, vocab_size=64), False

    config: Any = CONFIGS[name]
    with mock.patch.object(experiment_backbone, "load_model", load):
        return experiment_backbone.prepare(
            experiment_backbone.BackboneConfig(cache=cache_folder().name),
            config,
            split,
            pool=None,
            largest=12,
            pairs_a_round=1e9,
            tuned=False,
            encode="once" if "lifted" in name else "per_client",
        )


@functools.cache
def cache_folder():
    return tempfile.TemporaryDirectory()


def setup(name, max_buckets):
    config: Any = CONFIGS[name]
    train = interactions()
    sizes: dict[str, Any] = {"num_items": I, "num_users": N}
    frozen = ()
    if isinstance(config, FedFM):
        prepared = behind_a_backbone(name)
        sizes |= {"texts": prepared.texts, "lifted": prepared.lifted}
        frozen = prepared.frozen
    recipe = TRANSFORMS.get(name, lambda recipe: recipe)(config.build(**sizes))
    part = PerUser().partition(train)
    if not recipe.single_user:
        part = IID(num_clients=4, seed=5).partition(train)
    data = make_client_data(train, part, max_buckets=max_buckets)
    return recipe, data, frozen


class Run:
    """One round as a program, with a count of its traces by the cohort's size."""

    def __init__(self, name, max_buckets, chunk):
        self.recipe, self.data, self.frozen = setup(name, max_buckets)
        self.traces: dict[int, int] = collections.Counter()
        algorithm = make_algorithm(self.recipe, (chunk,) * len(self.data.widths))
        self.key = jax.random.key(7)
        self.start = algorithm.init(self.key)
        n = self.data.num_clients
        self.personal = initial_personal(self.recipe, self.key, n)

        def counted(*args):
            self.traces[len(args[1].ids)] += 1
            return algorithm.round(*args)

        self.eager, self.jitted = algorithm.round, jax.jit(counted)

    def __call__(self, ids, rounds=2, jit=True, key=None, start=None):
        fn = self.jitted if jit else self.eager
        key = self.key if key is None else key
        state, personal = start or (self.start, self.personal)
        ids = jnp.asarray(ids, jnp.int32)
        told = {}
        for _ in range(rounds):
            cohort = Cohort(ids=ids, rows=ids, personal=personal)
            rest = (self.data, self.frozen, self.recipe.hparams, key)
            state, cohort, told = fn(state, cohort, *rest)
            personal = cohort.personal
        return state, personal, told


@functools.cache
def base(name):
    return Run(name, max_buckets=2, chunk=2)


def close(a, b, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), **tolerance
        ),
        a,
        b,
    )


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in names]


everybody = pytest.mark.parametrize("name", marked(CONFIGS))


def added(weight, total, delta):
    """`total + weight delta`, of a dense leaf or of some rows of a table."""
    if not rows.is_rows(delta):
        return total + weight * np.asarray(delta)
    real = np.asarray(delta.ids) < len(total.values)
    values = total.values.copy()
    sent = weight * np.asarray(delta.values)
    np.add.at(values, np.asarray(delta.ids)[real], sent[real])
    return dataclasses.replace(total, values=values)


@pytest.mark.parametrize(
    "name",
    # Products of factors are compared in tests/aggregators/lora.
    marked(
        n
        for n, c in CONFIGS.items()
        if getattr(c, "lora_aggregation", "plain") == "plain" and n not in TRANSFORMS
    ),
)
def test_a_round_is_a_python_loop_over_clients(name):
    """The engine against clients trained one by one and aggregated in NumPy."""
    run = base(name)
    recipe, data = run.recipe, run.data
    n = data.num_clients
    state, personal, _ = run(np.arange(n), rounds=1)
    sums = jax.tree.map(np.zeros_like, run.start.shared)
    weight_sum, touched = 0.0, {}
    widest = len(data.widths) - 1

    @jax.jit
    def update(client, personal):
        key = client_key(run.key, jnp.int32(0), client)
        params = Params(shared=run.start.shared, personal=personal)
        examples = data.examples(client, widest)
        return recipe.client_update(params, run.frozen, examples, recipe.hparams, key)

    for client in range(n):
        result = update(jnp.int32(client), at(run.personal, client))
        close(at(personal, client), result.personal, atol=1e-6, rtol=1e-5)
        aggregation = getattr(CONFIGS[name], "aggregation", None)
        by_examples = aggregation in ("examples", "per_row")
        weight = float(result.weight) if by_examples else 1.0
        weight_sum += weight
        for part, delta in result.delta.items():
            if not rows.is_rows(delta):
                add = functools.partial(added, weight)
                sums[part] = jax.tree.map(add, sums[part], delta, is_leaf=rows.is_table)
                continue
            table = sums[part].values
            np.add.at(
                table,
                np.minimum(delta.ids, len(table) - 1),
                weight * np.asarray(delta.values * (delta.ids < len(table))[:, None]),
            )
            seen = touched.setdefault(part, np.zeros(len(table)))
            ids = np.unique(delta.ids)
            seen[ids[ids < len(table)]] += weight
    if aggregation == "sum" or getattr(CONFIGS[name], "feedback", "") == "explicit":
        mean = sums
    else:
        mean = jax.tree.map(lambda x: x / weight_sum, sums)
        for part, seen in touched.items():
            if aggregation == "per_row":
                mean[part] = rows.Table(
                    values=sums[part].values / np.maximum(seen, 1e-30)[:, None],
                    space=sums[part].space,
                )
    server = recipe.server_optimizer(recipe.hparams)
    moves, _ = server.update(
        jax.tree.map(lambda x: -jnp.asarray(x), mean), run.start.optimizer
    )
    expected = optax.apply_updates(run.start.shared, moves)
    close(state.shared, expected, atol=2e-5, rtol=1e-4)


@everybody
def test_chunks_order_buckets_and_absent_clients_change_nothing(name):
    run = base(name)
    n = run.data.num_clients
    expected = run(np.arange(n))
    other = Run(name, max_buckets=1, chunk=3)
    order = np.random.default_rng(1).permutation(n)
    got = other(np.concatenate([order[:2], [n], order[2:], [n + 3]]))
    close(got[0].shared, expected[0].shared, atol=2e-5, rtol=1e-3)
    close(got[1], expected[1], atol=2e-5, rtol=1e-3)
    close(got[2], expected[2], atol=1e-4, rtol=1e-3)


@everybody
def test_one_trace_same_bits_and_structure(name):
    run = base(name)
    ids = np.arange(run.data.num_clients)
    first = run(ids, rounds=3)
    same(first, run(ids, rounds=3))
    assert jax.tree.structure(first[0]) == jax.tree.structure(run.start)
    for before, after in zip(
        jax.tree.leaves((run.start, run.personal)),
        jax.tree.leaves((first[0], first[1])),
        strict=True,
    ):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    # Stopping after a round and going on is the unbroken run, bit for bit.
    once = run(ids, rounds=1)
    same(first, run(ids, rounds=2, start=once[:2]))
    if run.recipe.negatives:
        other = run(ids, rounds=3, key=jax.random.key(8))
        assert not np.array_equal(
            jax.tree.leaves(other[0].shared)[0], jax.tree.leaves(first[0].shared)[0]
        )
    # Those who were not invited keep what they had, and the round learned something.
    few = run(np.where(ids < 2, ids, len(ids)), rounds=1)
    same(
        jax.tree.map(lambda x: x[2:], few[1]),
        jax.tree.map(lambda x: x[2:], run.personal),
    )
    moved = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
        first[0].shared,
        run.start.shared,
    )
    if getattr(CONFIGS[name], "loss", "bce") != "bce" and "head" in moved:
        # Losses that compare a user's items do not see what adds to all of them.
        assert moved["head"].pop("b") < 1e-6
        if "embedding_adapter" in moved:
            assert moved["embedding_adapter"]["up"].pop("b", 0) < 1e-6
    if getattr(CONFIGS[name], "lora_aggregation", "") == "flora":
        assert max(jax.tree.leaves(moved.pop("lora_b"))) == 0  # it restarts from zero
    assert min(jax.tree.leaves(moved)) > 0
    assert run.traces == {len(ids): 1}  # by all the laws together


@pytest.mark.parametrize("name", ["pfedrec", "fedavg user table"])
def test_jit_equals_eager(name):
    run = base(name)
    ids = np.arange(run.data.num_clients)
    close(run(ids, 1), run(ids, 1, jit=False), atol=1e-6, rtol=1e-5)


def deltas(seed, clients, with_repeats=True):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 7 if with_repeats else 6, (clients, 5))
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids), values=jnp.asarray(rng.normal(size=(clients, 5, 2)))
        ),
        "w": jnp.asarray(rng.normal(size=(clients, 3))),
    }


SHARED = {"item": rows.Table(values=jnp.zeros((6, 2))), "w": jnp.zeros(3)}


def aggregate(aggregator, groups):
    acc = aggregator.init(SHARED, 10)
    for delta, weights, slots in groups:
        senders = Senders(slots=slots, ids=slots, loss=slots * 0.1)
        acc = aggregator.update(acc, delta, weights, senders)
    return aggregator.finish(acc, aggregator.start(SHARED), SHARED)[0]


@pytest.mark.parametrize("name", marked(AGGREGATORS))
def test_aggregators_fold_in_any_grouping_and_ignore_weight_zero(name):
    aggregator = AGGREGATORS[name]()
    delta, weights = deltas(0, 6), jnp.asarray([1.0, 0.0, 3.0, 2.0, 0.0, 1.0])
    slots = jnp.arange(6)
    whole = aggregate(aggregator, [(delta, weights, slots)])

    def pick(at):
        at = np.asarray(at)
        return jax.tree.map(lambda x: x[at], delta), weights[at], slots[at]

    parts = [pick([4, 2]), pick([0]), pick([5, 3, 1])]
    close(whole, aggregate(aggregator, parts), atol=1e-6)
    close(whole, aggregate(aggregator, [pick([0, 2, 3, 5])]), atol=1e-6)
    nobody = aggregate(aggregator, [(delta, jnp.zeros(6), slots)])
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(nobody))
    jitted = jax.jit(lambda d, w: aggregate(aggregator, [(d, w, slots)]))
    close(jitted(delta, weights), whole, atol=1e-6)


def one_delta(seed, padding=2):
    """What a client sends: 4 of 23 rows, each once, and a dense leaf."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.choice(I, 4, replace=False), np.full(padding, I)])
    values = np.concatenate([rng.normal(size=(4, 3)), np.full((padding, 3), np.nan)])
    w = rng.normal(size=(5, 2))
    order = rng.permutation(4 + padding)
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids[order], jnp.int32),
            values=jnp.asarray(values[order], jnp.float32),
            num_rows=I,
        ),
        "w": jnp.asarray(w, jnp.float32),
    }


def dense_delta(delta):
    table = rows.scatter_add(jnp.zeros((I, 3)), delta["item"])
    return {"item": table, "w": delta["w"]}


CODED: dict[str, Any] = {"item": rows.Table(values=jnp.zeros((I, 3)))}
CODED["w"] = jnp.zeros((5, 2))


@functools.cache
def coded(name):
    """`(encode, decode, states)`, the states after no and after two messages."""
    codec = CODECS[name]()
    encode = jax.jit(codec.encode)
    states = [codec.init(CODED)]
    for seed in (1, 2):
        states.append(encode(one_delta(seed), states[-1], jax.random.key(seed))[1])
    return codec, encode, (states[0], states[2])


codecs = pytest.mark.parametrize("name", CODECS)


@codecs
def test_codecs_send_as_many_bits_as_they_count(name):
    codec, encode, states = coded(name)
    for seed in range(4):
        message, _ = encode(one_delta(seed), states[seed % 2], jax.random.key(seed))
        assert len(to_bits(message)) == int(num_bits(message))
        read = deserialize(serialize(message), message)
        # Bytes say it all: counts that the receiver has not are not read.
        blind = jax.tree.map(
            lambda f: (
                dataclasses.replace(f, count=jnp.int32(-7), bits=jnp.uint32(0))
                if is_field(f) and f.code != "ids"
                else f
            ),
            read,
            is_leaf=is_field,
        )
        same(codec.decode(message), codec.decode(blind))


@codecs
def test_codecs_keep_structure_and_a_row_stays_that_row(name):
    codec, encode, states = coded(name)
    delta = one_delta(5)
    message, state = encode(delta, states[1], jax.random.key(0))
    decoded = codec.decode(message)
    assert jax.tree.structure(state) == jax.tree.structure(states[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[0]), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert decoded["w"].shape == (5, 2)
    assert decoded["w"].dtype == decoded["item"].values.dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((decoded, state)))
    ids = np.asarray(decoded["item"].ids)
    real = ids[ids < I]
    assert set(real) <= set(np.asarray(delta["item"].ids))
    assert len(set(real)) == len(real)


@codecs
def test_padding_changes_nothing_that_codecs_send(name):
    codec, encode, states = coded(name)
    few, many = one_delta(3), one_delta(3, padding=9)
    # The same rows in another order, and more padding between them.
    a, first = encode(few, states[1], jax.random.key(0))
    b, second = encode(many, states[1], jax.random.key(0))
    assert int(num_bits(a)) == int(num_bits(b))
    close(dense_delta(codec.decode(a)), dense_delta(codec.decode(b)), atol=1e-6)
    close(first, second, atol=1e-6)


@codecs
def test_codecs_are_pure_under_jit_and_vmap(name):
    codec, encode, states = coded(name)
    keys = jax.random.split(jax.random.key(3), 3)
    batch = [one_delta(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batch)

    def through(delta, state, key):
        message, state = codec.encode(delta, state, key)
        return num_bits(message), codec.decode(message), state

    together = jax.jit(jax.vmap(through, (0, None, 0)))(stacked, states[1], keys)
    for i, delta in enumerate(batch):
        message, state = encode(delta, states[1], keys[i])
        alone = num_bits(message), codec.decode(message), state
        close(at(together, i), alone, atol=1e-5)
        same(encode(delta, states[1], keys[i])[0], message)
        if i == 0:
            close(through(delta, states[1], keys[i]), alone, atol=1e-5)


@pytest.mark.parametrize("factory", [matrix_factorization, neural_cf, personal_scorer])
def test_models_mask_padding_and_score_items_by_their_own_row(factory):
    model = factory(I, dim=4)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "item": jnp.asarray(rng.integers(0, I, 6)),
        "user": jnp.zeros(6, jnp.int32),
        "label": jnp.asarray([1.0, 0, 0, 1, 0, 1]),
        "mask": jnp.asarray([True, True, False, True, False, True]),
    }
    grad = jax.jit(
        jax.value_and_grad(lambda p, b: model.loss(p, (), b, jax.random.key(0))[0])
    )
    kept = {k: v[np.asarray(batch["mask"])] for k, v in batch.items()}
    close(grad(params, batch), grad(params, kept), atol=1e-6)
    nothing = {**batch, "mask": jnp.zeros(6, bool)}
    value, gradient = grad(params, nothing)
    assert float(value) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient))
    query = {"user": jnp.int32(0)}
    every = model.score(params, (), query, None)
    assert every.shape == (I,)
    at = jnp.asarray([3, 3, 0, I - 1])
    close(model.score(params, (), query, at), every[at], atol=1e-6)
    table = params.shared["item"]
    changed = rows.Table(values=table.values.at[5].set(9.0), space=table.space)
    other = model.score(
        Params(shared={**params.shared, "item": changed}, personal=params.personal),
        (),
        query,
        None,
    )
    assert np.flatnonzero(np.asarray(other != every)).tolist() == [5]
