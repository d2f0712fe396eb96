"""Evaluation against clients trained and scored one by one on full tables."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    EmbeddingAdapter,
    FedAvg,
    FedFM,
    FedMF,
    FedNCF,
    Joint,
    MatrixFactorization,
    PFedRec,
    Protocol,
)
from fedjax_rec.algorithms.text_path import TextPath
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.rounds import ServerState
from fedjax_rec.data.clients import make_client_data, serving_clients
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import Partition, PerUser
from fedjax_rec.evaluation.targets import make_targets
from fedjax_rec.models.item_tower import cached_tower
from fedjax_rec.simulation.dealt_users import take_users
from fedjax_rec.simulation.evaluation import by_bucket
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, federated, train_client
from fedjax_rec.simulation.scoring import make_evaluate, make_squares, score_tuned

ITEMS = 50
SIZES = [3, 12, 0, 1, 10, 2, 11]  # user 2 is cold: in no training data
USERS = len(SIZES)
ROOT = jax.random.key(3)
SMALL = {"dim": 3, "negatives": 2}
# The rows a client sends: of 36 pairs in batches of 16, PFedRec merges the repeats of
# an item into its first place, FedNCF takes the whole of a table shorter than the
# pairs, and the one batch of FedAvg sends repeats as they come. FedFM also has dense
# leaves.
TEXTS: Any = {"training": Joint(optimizer=SGD(lr=0.5)), "user_lr": 0.5}
CONFIGS = {
    "pfedrec": (PFedRec(**SMALL, batch_size=16, item_lr_scale=2.0), ITEMS),
    "fedncf": (
        FedNCF(
            **SMALL,
            hidden=(4,),
            client_optimizer=SGD(lr=0.1),
            averaging="plain",
            batch_size=16,
            local_epochs=1,
            init_scale=1.0,
        ),
        20,
    ),
    "fedavg": (
        FedAvg(
            negatives=2,
            model=MatrixFactorization(dim=3, users="table"),
            client_optimizer=SGD(lr=20.0),
        ),
        ITEMS,
    ),
    "fedfm": (FedFM(**SMALL, **TEXTS, id_residual=True, batch_size=16), ITEMS),
}


def recipe_of(config, num_items, num_users=USERS):
    context = Context(
        num_items=num_items,
        num_users=num_users,
        num_clients=num_users,
        cohort_size=num_users,
        dtype=np.dtype("float32"),
        examples=np.ones(num_users),
    )
    if not isinstance(config, FedFM):
        return config.build(context)
    draw = np.random.default_rng(2).normal
    embedding, head = (
        jnp.asarray(draw(size=s), jnp.float32) for s in ((50, 4), (4, 3))
    )
    path = TextPath(
        name="embedding",
        tower=cached_tower(),
        net=EmbeddingAdapter(rank=2).build(),
        projection=head,
        center=embedding.mean(0),
        frozen={"embedding": embedding},
        fixed=(),
        why="",
        facts={},
    )
    return config.on(path, context)


def interactions(sizes, num_items):
    rng = np.random.default_rng(0)
    item = [rng.choice(num_items, s, replace=False) for s in sizes]
    return make_interactions(
        user=np.repeat(np.arange(len(sizes)), sizes),
        item=np.concatenate(item),
        users=Entities(ids=[f"u{u}" for u in range(len(sizes))]),
        items=Entities(ids=[f"i{i}" for i in range(num_items)]),
    )


class World:
    """A recipe over the users above, and its clients trained one at a time."""

    def __init__(self, name):
        config, self.num_items = CONFIGS[name]
        self.recipe = recipe_of(config, self.num_items)
        self.frozen = self.recipe.frozen
        self.train = interactions(SIZES, self.num_items)
        # One bucket: all are padded to the widest client.
        self.data = make_client_data(
            self.train, PerUser().partition(self.train), max_buckets=1
        )
        self.state = federated(self.recipe, (1,)).init(ROOT)
        self.personal = initial_personal(self.recipe, ROOT, USERS)
        local = train_client(self.recipe, self.data, 0)

        @jax.jit
        def tuned(client, candidates):
            own = jax.tree.map(lambda x: x[client], self.personal)
            key = client_key(ROOT, self.state.round, client)
            shared = self.state.shared
            received = Params(shared=shared, personal=own)
            result = local(shared, own, self.frozen, self.recipe.hparams, client, key)
            scores = (
                score_tuned(self.recipe, received, result, self.frozen, client, at)
                for at in (None, candidates)
            )
            return result, *scores

        self.tuned = functools.cache(lambda c: tuned(c, self.candidates()))
        self.score = jax.jit(
            lambda params, client: self.recipe.model.score(
                params, self.frozen, {"user": client}, None
            )
        )

    def candidates(self):
        """Every item backwards, and some twice."""
        return jnp.asarray([*range(self.num_items - 1, -1, -1), 4, 4, 0])

    def brute_force(self, client):
        """`[I]` scores of a client that has a full copy of every shared leaf."""
        result = self.tuned(client)[0]
        shared = {}
        for name, leaf in self.state.shared.items():
            change = result.delta[name]
            if not rows.is_table(leaf):
                shared[name] = jax.tree.map(np.add, leaf, change)
                continue
            values, ids = np.array(leaf.values), np.asarray(change.ids)
            for i, step in zip(ids, np.asarray(change.values), strict=True):
                if i < len(values):
                    values[i] += step
            shared[name] = rows.Table(values=jnp.asarray(values), space=leaf.space)
        params = Params(shared=shared, personal=result.personal)
        return np.asarray(self.score(params, client))


world = functools.cache(World)


@pytest.mark.parametrize("name", CONFIGS)
def test_tuned_scores_are_those_of_a_full_copy(name):
    w = world(name)
    own = jax.tree.map(lambda x: x[1], w.personal)
    start = Params(shared=w.state.shared, personal=own)
    before = w.score(start, 1)
    ids = np.asarray(w.tuned(0)[0].delta["item"].ids)
    assert (ids == w.num_items).any()  # padding: after real rows, or among them
    wide = np.asarray(w.tuned(1)[0].delta["item"].ids)
    repeats = (np.bincount(wide)[: w.num_items] > 1).any()
    assert repeats == (name == "fedavg")
    for client in (0, 1, 2, 4):
        _, full, candidates = w.tuned(client)
        expected = w.brute_force(client)
        np.testing.assert_allclose(full, expected, rtol=1e-4, atol=1e-5)
        at = np.asarray(w.candidates())
        np.testing.assert_allclose(candidates, expected[at], rtol=1e-4, atol=1e-5)
    # Training moved the scores by far more than the tolerance, and more than evenly.
    moved = w.brute_force(1) - np.asarray(before)
    assert np.std(moved) > 1e-3


@pytest.mark.parametrize("dim", [3, 16])
@pytest.mark.parametrize("candidates", ["full", "sampled"])
@pytest.mark.parametrize("name", ["pfedrec", "fedncf", "fedavg"])
def test_equal_items_score_equal_after_tuning(name, candidates, dim):
    """Items that are equal, and stay so at rate 0, get a constant scorer's AUC: 0."""
    config = CONFIGS[name][0]
    if name == "fedavg":
        model = dataclasses.replace(config.model, dim=dim)
        config = dataclasses.replace(config, model=model)
    else:
        config = dataclasses.replace(config, dim=dim)
    recipe = recipe_of(config, ITEMS)
    recipe = recipe._replace(hparams=dict.fromkeys(recipe.hparams, 0.0))
    w = world("pfedrec")
    state = federated(recipe, (1,)).init(ROOT)
    item = state.shared["item"]
    same = rows.Table(values=jnp.broadcast_to(item.values[:1], item.values.shape))
    state = dataclasses.replace(state, shared={**state.shared, "item": same})
    personal = initial_personal(recipe, ROOT, USERS)
    protocol = Protocol(
        evaluated="tuned", candidates=candidates, num_candidates=20, cutoffs=(5,),
        selection="auc",
    )  # fmt: skip
    targets = targets_of(w, protocol)
    evaluate = jax.jit(make_evaluate(recipe, protocol, chunks=(3,)), static_argnums=0)
    at = np.asarray(targets.user)
    rest = (w.data, (), recipe.hparams, ROOT, ROOT)
    got = evaluate(0, state, personal, targets, at, at, *rest)
    assert not np.asarray(got["auc"]).any()
    assert not np.asarray(got["hr@5"]).any()


def targets_of(w, protocol, users=None):
    """Two positives for each user, outside train."""
    users = list(range(USERS)) if users is None else users
    rng = np.random.default_rng(1)
    free = [np.setdiff1d(range(ITEMS), w.train.item[w.train.user == u]) for u in users]
    return make_targets(
        positives=(
            np.repeat(users, 2),
            np.concatenate([rng.choice(f, 2, replace=False) for f in free]),
        ),
        known=[(w.train.user, w.train.item)],
        touched=[(w.train.user, w.train.item)],
        num_users=USERS,
        num_items=ITEMS,
        protocol=protocol,
    )


def numpy_metrics(scores, positives, known):
    """HR@5, NDCG@5 and AUC of one user among all items but the known."""
    negative = np.setdiff1d(np.arange(len(scores)), np.union1d(positives, known))
    best = sorted(scores[positives], reverse=True)
    ranks = [(scores[negative] >= s).sum() + j + 1 for j, s in enumerate(best)]
    gain = sum(1 / np.log2(r + 1) for r in ranks if r <= 5)
    return {
        "hr@5": float(ranks[0] <= 5),
        "ndcg@5": gain / sum(1 / np.log2(j + 2) for j in range(len(best))),
        "auc": np.mean([(scores[negative] < s).mean() for s in best]),
    }


def expect(w, got, parts, scores_of):
    """Compares `got` with NumPy, user by user in the order of the parts."""
    users = np.concatenate([part.user for part in parts]).tolist()
    wanted = np.concatenate([part.positives for part in parts])
    seen = []
    for at, (user, positives) in enumerate(zip(users, wanted, strict=True)):
        known = w.train.item[w.train.user == user]
        for name, value in numpy_metrics(scores_of(user), positives, known).items():
            assert float(got[name][at]) == pytest.approx(value, abs=1e-5), (name, user)
        seen.append(float(got["auc"][at]))
    assert len(set(seen)) > len(seen) / 2  # users do differ


def test_tuned_evaluation_in_buckets_is_a_loop_over_users():
    w = world("pfedrec")
    data = make_client_data(w.train, PerUser().partition(w.train), max_buckets=2)
    protocol = Protocol(evaluated="tuned", cutoffs=(5,), selection="auc")
    targets = targets_of(w, protocol)
    groups = by_bucket(np.asarray(targets.user), data, np.arange(USERS))
    assert data.widths == (3, 12)
    # The cold user trains on nothing, in the smallest bucket.
    assert [(g, at.tolist()) for g, at in groups] == [(0, [0, 2, 3, 5]), (1, [1, 4, 6])]
    run = make_evaluate(w.recipe, protocol, chunks=(3, 2))
    evaluate = jax.jit(run, static_argnums=0)
    for bucket, at in groups:
        part = take_users(targets, at)
        rest = (data, (), w.recipe.hparams, ROOT, jax.random.key(0))
        got = evaluate(bucket, w.state, w.personal, part, at, at, *rest)
        expect(w, got, [part], w.brute_force)


@pytest.mark.parametrize("length", [None, 40])
@pytest.mark.parametrize("candidates", ["full", "sampled"])
def test_by_bucket_keeps_every_user_once_with_their_own_rows(candidates, length):
    w = world("pfedrec")
    protocol = Protocol(candidates=candidates, num_candidates=6)
    # The widest client has no user to evaluate: its bucket is left out.
    targets = targets_of(w, protocol, users=[0, 2, 3, 4, 5])
    data = make_client_data(w.train, PerUser().partition(w.train), max_buckets=6)
    assert data.widths == (1, 2, 3, 10, 11, 12)
    every = targets.user.tolist()
    groups = by_bucket(np.asarray(every), data, np.arange(USERS))
    parts = [take_users(targets, at, length) for _, at in groups]
    assert [g for g, _ in groups] == [0, 1, 2, 3]
    assert [p.user.tolist() for p in parts] == [[2, 3], [5], [0], [4]]
    padded = take_users(targets, np.array([1, -1, 0]), length)
    assert padded.mask.tolist() == [True, False, True]
    if length is not None:
        assert {len(part.exclude_items) for part in parts} == {length}
        with pytest.raises(ValueError, match="10 exclusions do not fit in 9"):
            take_users(targets, np.array([3]), 10)  # user 4, who holds 10 items
    for part in parts:
        for at, user in enumerate(part.user.tolist()):
            position = every.index(user)
            np.testing.assert_array_equal(
                part.positives[at], targets.positives[position]
            )
            first, size = int(part.exclude_offset[at]), int(part.exclude_size[at])
            excluded = np.asarray(part.exclude_items[first : first + size])
            assert sorted(w.train.item[w.train.user == user]) == excluded.tolist()
            assert size <= part.max_exclude
            if candidates == "sampled":
                assert part.candidates is not None
                assert targets.candidates is not None
                np.testing.assert_array_equal(
                    part.candidates[at], targets.candidates[position]
                )


def test_serving_clients_by_hand():
    part = Partition(
        client=np.array([1, 1, 0, 0, 2, 2, 2], np.int32),
        num_clients=4,
        name="by hand",
        user_of_client=None,
    )
    # User 0 lies on client 1 twice and on 0 once, user 1 on 0 once and on 2 three
    # times, user 2 nowhere.
    users = np.array([0, 0, 0, 1, 1, 1, 1])
    assert serving_clients(part, users, 3).tolist() == [1, 2, 4]
    single = Partition(
        client=np.array([1, 0], np.int32),
        num_clients=2,
        name="one each",
        user_of_client=np.array([2, 0], np.int32),
    )
    assert serving_clients(single, np.array([0, 2]), 3).tolist() == [1, 2, 0]


def test_aggregated_evaluation_reads_the_serving_clients_row():
    w = world("pfedrec")
    # Three clients deal with seven users; scorers differ by client.
    part = Partition(
        client=(w.train.user % 3).astype(np.int32),
        num_clients=3,
        name="by hand",
        user_of_client=None,
    )
    serving = serving_clients(part, w.train.user, USERS)
    assert serving.tolist() == [0, 1, 3, 0, 1, 2, 0]  # user 2 is cold: no client
    rng = np.random.default_rng(5)
    scorer = {"w": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}
    personal = {"scorer": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scorer)}
    protocol = Protocol(cutoffs=(5,), selection="auc")
    targets = targets_of(w, protocol, users=[0, 1, 3, 4, 5, 6])
    evaluate = jax.jit(
        make_evaluate(w.recipe, protocol, user_chunk=4), static_argnums=0
    )
    clients = jnp.asarray(serving)[targets.user]
    rest = (w.data, (), {}, ROOT, ROOT)
    got = evaluate(0, w.state, personal, targets, clients, clients, *rest)
    table = np.asarray(w.state.shared["item"].values, np.float64)

    def scores_of(user):
        return table @ scorer["w"][serving[user]] + scorer["b"][serving[user]]

    expect(w, got, [targets], scores_of)


def test_rmse_by_hand():
    recipe = recipe_of(FedMF(dim=2, feedback="explicit"), 3, 2)
    items = np.array([[1.0, 2.0], [0.0, 3.0], [-1.0, 1.0]], np.float32)
    shared = {"item": rows.Table(values=jnp.asarray(items))}
    vectors = np.array([[1.0, 1.0], [2.0, 0.0]], np.float32)
    # p.q of (client, item): (0, 0) 3, (1, 0) 2, (0, 1) 3, (1, 2) -2, (0, 2) 0.
    client, item = np.array([0, 1, 0, 1, 0]), np.array([0, 0, 1, 2, 2])
    rating = np.array([4.0, 2.0, 1.0, 1.0, 0.5], np.float32)
    expected = np.sqrt((1 + 0 + 4 + 9 + 0.25) / 5)
    squares = jax.jit(make_squares(recipe, chunk=2))  # the last chunk holds one
    state = ServerState(shared=shared, optimizer=(), round=jnp.int32(0))
    # Users are numbered otherwise than their clients: the client's vector counts.
    arrays = (jnp.asarray(x) for x in (client, 1 - client, item, rating))
    got = squares(state, {"user": jnp.asarray(vectors)}, *arrays, ())
    assert float(np.sqrt(got.mean())) == pytest.approx(expected, rel=1e-6)
