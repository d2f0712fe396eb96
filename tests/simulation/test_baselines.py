"""The draw-count ranker counts the negatives that the clients of a run train on."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import PFedRec
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.partition import IID, PerUser
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.evaluation.chance import above_chance
from fedjax_rec.experiment.prepared import targets_of
from fedjax_rec.simulation.baselines import count_draws
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, federated, train_client

USERS, ITEMS, ROUNDS = 12, 40, 3
ROOT = jax.random.key(11)
TRAIN = synthetic(0, num_users=USERS, num_items=ITEMS, num_interactions=100)
# One batch holds all pairs of a client, so that its delta names all of them.
CONTEXT = Context(
    num_items=ITEMS,
    num_users=USERS,
    num_clients=USERS,
    cohort_size=USERS,
    dtype=np.dtype("float32"),
    examples=np.bincount(TRAIN.user),
)
RECIPE = PFedRec(dim=2, negatives=2, batch_size=4096).build(CONTEXT)


def drawn(data):
    """`(client, round) -> pairs`, at the widest padding, outside any engine."""
    draw, widest = RECIPE.local.draw, len(data.widths) - 1
    assert draw is not None

    @jax.jit
    def one(client, round_):
        key = client_key(ROOT, round_, client)
        return draw(data.examples(client, widest), jax.random.split(key, 3)[0])

    return lambda client, round_: jax.device_get(one(client, jnp.int32(round_)))


def loop(one, users, clients, rounds):
    counts = np.zeros((len(users), ITEMS), int)
    row = {int(user): r for r, user in enumerate(users)}
    for round_ in rounds:
        for client in clients:
            pairs = one(int(client), round_)
            for user, item, label, real in zip(
                pairs["user"], pairs["item"], pairs["label"], pairs["mask"], strict=True
            ):
                if real and label == 0 and int(user) in row:
                    counts[row[int(user)], item] += 1
    return counts


@pytest.fixture(scope="module")
def single():
    data = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=2)
    return data, drawn(data)


def count(data, users, clients, first, rounds):
    fn = jax.jit(
        lambda data, users, clients, first, rounds: count_draws(
            RECIPE,
            data,
            (3,) * len(data.widths),
            users,
            clients,
            clients,
            ROOT,
            first,
            rounds,
        )
    )
    as_ids = (jnp.asarray(x, jnp.int32) for x in (users, clients))
    return np.asarray(fn(data, *as_ids, first, jnp.int32(rounds)))


def test_counts_are_a_loop_over_rounds_and_clients(single):
    data, one = single
    users = np.array([0, 2, 3, 7, 11])
    clients = np.array([11, 3, USERS, 0, 2, 7])  # any order, one absent
    got = count(data, users, clients, 1, ROUNDS)
    expected = loop(one, users, [11, 3, 0, 2, 7], range(1, 1 + ROUNDS))
    np.testing.assert_array_equal(got, expected)
    sizes = np.bincount(TRAIN.user, minlength=USERS)[users]
    # Two negatives a positive a round, all of them outside the user's own items.
    np.testing.assert_array_equal(got.sum(1), 2 * ROUNDS * sizes)
    for row, user in enumerate(users):
        assert not got[row, TRAIN.item[TRAIN.user == user]].any()


def test_several_users_on_a_client_are_counted_apart():
    data = make_client_data(
        TRAIN, IID(num_clients=3, seed=1).partition(TRAIN), max_buckets=1
    )
    users = np.array([1, 4, 5])  # the others' draws on these clients are left out
    got = count(data, users, np.arange(3), 0, 2)
    expected = loop(drawn(data), users, range(3), range(2))
    np.testing.assert_array_equal(got, expected)
    assert (got.sum(1) == 4 * np.bincount(TRAIN.user)[users]).all()


def test_training_touches_exactly_the_drawn_items(single):
    data, one = single
    algorithm = federated(RECIPE, (1,) * len(data.widths))
    shared = algorithm.init(ROOT).shared
    personal = initial_personal(RECIPE, ROOT, USERS)
    widest = len(data.widths) - 1
    train = jax.jit(train_client(RECIPE, data, widest))
    for round_ in range(ROUNDS):
        for client in (0, 5, 11):
            own = jax.tree.map(lambda x, client=client: x[client], personal)
            key = client_key(ROOT, jnp.int32(round_), jnp.int32(client))
            result = train(shared, own, (), RECIPE.hparams, client, key)
            ids = np.asarray(result.delta["item"].ids)
            moved = np.abs(np.asarray(result.delta["item"].values)).sum(1) > 0
            assert rows.is_rows(result.delta["item"])
            pairs = one(client, round_)
            positives = TRAIN.item[TRAIN.user == client]
            real = pairs["item"][pairs["mask"]]
            assert set(ids[ids < ITEMS].tolist()) == set(real.tolist())
            assert set(ids[moved].tolist()) == set(real.tolist())
            positive = pairs["item"][pairs["mask"] & (pairs["label"] == 1)]
            assert sorted(positive) == sorted(positives)
            negative = pairs["item"][pairs["mask"] & (pairs["label"] == 0)]
            assert len(negative) == 2 * len(positives)
            assert not set(negative.tolist()) & set(positives.tolist())


SMALL = fedjax_rec.Experiment(
    name="small",
    data=fedjax_rec.SyntheticData(num_users=60, num_items=80, num_interactions=1500),
    algorithm=PFedRec(dim=2),
    store=fedjax_rec.StoreConfig(cache=False),
)
COLD = dataclasses.replace(
    SMALL,
    split=fedjax_rec.ColdItems(test=0.2),
    protocol=fedjax_rec.Protocol(candidates="cold"),
)


def draws_of(simulation, rounds=20):
    summary = simulation.draw_count(rounds)
    assert summary is not None
    return summary, above_chance(summary, 10)


def test_held_out_items_are_ranked_among_themselves_only():
    full = fedjax_rec.Protocol()
    with pytest.raises(ValueError, match=r"protocol.candidates='cold'"):
        fedjax_rec.build(dataclasses.replace(COLD, protocol=full))
    simulation = fedjax_rec.build(COLD)
    summary, leaks = draws_of(simulation)
    # No held-out item is drawn, so all are level, and ties count half.
    assert summary["auc"] == summary["auc/chance"] == 0.5
    assert not leaks
    # Ranked among all items they are those that were never drawn.
    split = simulation.split
    simulation = dataclasses.replace(
        simulation, protocol=full, targets=targets_of(split, full)
    )
    summary, leaks = draws_of(simulation)
    assert summary["auc"] > 0.8
    assert leaks == ("hr@10", "auc")


def test_only_the_published_pool_is_above_chance():
    for candidates in ("full", "sampled"):
        protocol = fedjax_rec.Protocol(candidates=candidates, num_candidates=20)
        clean = dataclasses.replace(SMALL, protocol=protocol)
        summary, leaks = draws_of(fedjax_rec.build(clean), 5)
        assert not leaks
        assert abs(summary["auc"] - 0.5) < 3 * summary["auc/error"]
    compat = fedjax_rec.paper_compat(num_candidates=20)
    leaking = fedjax_rec.build(dataclasses.replace(SMALL, protocol=compat))
    assert "auc" in draws_of(leaking, 5)[1]


BESIDE = pathlib.Path(__file__).parents[3] / "shared" / "data"
FOLDER = pathlib.Path(os.environ.get("FEDJAX_REC_DATA", BESIDE)) / "ml-100k"


@pytest.mark.slow
@pytest.mark.skipif(
    not (FOLDER / "u.data").exists(),
    reason=f"no MovieLens-100K in {FOLDER}; set FEDJAX_REC_DATA",
)
class TestMovieLens:
    """The figures of docs/decisions/003, through `fedjax_rec.build`."""

    def hit_rates(self, cache, protocol, rounds):
        simulation = fedjax_rec.build(
            fedjax_rec.Experiment(
                name="leak",
                data=fedjax_rec.FileData(dir=str(FOLDER), cache=str(cache)),
                split=fedjax_rec.LeaveOneOut(ties="reverse_file_order"),
                algorithm=PFedRec(dim=2),
                protocol=protocol,
            )
        )
        summaries = [simulation.draw_count(count) for count in rounds]
        assert all(summary and summary["users"] == 943 for summary in summaries)
        return [summary["hr@10"] for summary in summaries if summary]

    def test_the_published_pool_leaks(self, tmp_path):
        early, late = self.hit_rates(tmp_path, fedjax_rec.paper_compat(), (10, 70))
        assert early == pytest.approx(0.58, abs=0.03)
        assert late > 0.99

    def test_the_clean_pool_stays_at_chance(self, tmp_path):
        protocol = fedjax_rec.Protocol(candidates="sampled")
        rates = self.hit_rates(tmp_path, protocol, (1, 10, 70))
        # Chance is .1 exactly: positive and candidates are drawn alike. One HR@10 of
        # 943 users deviates by sqrt(.1 * .9 / 943) = .01, and the three share their
        # candidates, so that their mean deviates by .006 to .01: 2 of the larger for
        # the mean, 3.5 for each. All keys are fixed, so this passes always or never.
        assert np.mean(rates) == pytest.approx(0.10, abs=0.02)
        assert max(np.abs(np.array(rates) - 0.10)) < 0.035
