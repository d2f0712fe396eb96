"""Law: a bad message is an absent client, for every rule, codec and wrapper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import SyntheticData
from fedjax_rec.contrib.fedamp import FedAMP
from fedjax_rec.contrib.guided import Guided
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import ClientResult, Model, Params, Recipe
from fedjax_rec.core.messages import MessageTransform, chain
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.partition import PerUser
from fedjax_rec.simulation.messages import TRANSFORM
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import federated
from fedjax_rec.wrappers.clustered import CLUSTER, best_of
from fedjax_rec.wrappers.fetch_sgd import FetchSGD
from tests.aggregators.cohorts import LENGTH, LOCAL, C, built, context
from tests.aggregators.registry import RULES
from tests.codecs.every_codec import CODECS

KEY = jax.random.key(0)
TRAIN = SyntheticData(num_users=C, num_items=20, num_interactions=30).load()
DATA = make_client_data(TRAIN, PerUser().partition(TRAIN), max_buckets=1)
REJECTED = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "large": 1e20}
ACCEPTED = {"tiny": 1e-30, "zero": 0.0, "loud": 1e9}
CASES = [
    (name, place, alone)
    for name in (*REJECTED, *ACCEPTED, "absent")
    for place in range(C)
    for alone in (False, True)
]


def init(key):
    table = jax.random.normal(key, (LENGTH, 2))
    shared = {"item": rows.Table(values=table), "w": jnp.ones(3)}
    return Params(shared=shared, personal={"own": jnp.zeros(2)})


def update(params, frozen, examples, hparams, key):
    """A client that sends what `frozen` holds for its number."""
    sent = jax.tree.map(lambda x: x[params.personal["index"]], frozen)
    item = rows.Rows(ids=sent["ids"], values=sent["values"])
    return ClientResult(
        delta={"item": item, "w": sent["w"]},
        personal={**params.personal, "own": params.personal["own"] + 1},
        weight=sent["weight"] * examples["mask"].any(),  # padding is absent
        metrics={"loss": jnp.float32(0.5)},
    )


def recipe_of(aggregator: Any = None, transform: Any = None) -> Recipe:
    unused: Any = None
    return Recipe(
        model=Model(init=init, loss=unused, score=unused),
        client_update=update,
        aggregator=aggregator or built(RULES["mean"]),
        server_optimizer=lambda hparams: optax.sgd(1.0),
        hparams={"client_lr": 0.25},
        local=LOCAL,
        transform=transform,
        constants={"index": np.arange(C, dtype=np.int32)},
    )


def honest(seed):
    rng = np.random.default_rng(seed)
    return {
        "ids": np.array([[0, 3, 3, LENGTH], *rng.integers(0, LENGTH + 1, (C - 1, 4))]),
        "values": rng.normal(size=(C, 4, 2)).astype(np.float32),
        "w": rng.normal(size=(C, 3)).astype(np.float32),
        "weight": np.array([1, 3, 2, 1, 4], np.float32),
    }


def case(name, place, alone):
    """The messages of a cohort with one bad one."""
    sent = honest(1)
    if name == "absent":
        sent["weight"][place] = 0
    elif name in ("nan", "large"):  # a few numbers among sound ones
        sent["w"][place, 1:] = REJECTED[name]
    elif name == "inf":
        sent["values"][place], sent["ids"][place] = np.inf, 2
        sent["values"][place, 1:] = 1
    else:
        value = {**REJECTED, **ACCEPTED}[name]
        sent["values"][place], sent["w"][place] = value, -value
    if alone:
        sent["weight"] *= np.arange(C) == place
    return sent


SENT = jax.tree.map(lambda *x: np.stack(x), *[case(*c) for c in CASES])


def play(recipe):
    """`(state, personal, metrics)` of all cases: honest, bad, and honest rounds."""
    one_round = federated(recipe, (2,)).round
    everyone = jnp.arange(C, dtype=jnp.int32)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    def run(state, personal, sent):
        cohort = Cohort(ids=everyone, rows=everyone, personal=personal)
        state, cohort, metrics = one_round(
            state, cohort, DATA, sent, recipe.hparams, KEY
        )
        return state, cohort.personal, metrics

    def every_case(tree):
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (len(CASES), *jnp.shape(x))), tree
        )

    state = every_case(federated(recipe, (2,)).init(KEY))
    personal = every_case(initial_personal(recipe, KEY, C))
    played = []
    for sent in (every_case(honest(0)), SENT, every_case(honest(2))):
        state, personal, metrics = run(state, personal, sent)
        played.append(jax.tree.map(np.asarray, (state, personal, metrics)))
    return played


def at(tree, *index):
    return [x[index] for x in jax.tree.leaves(tree)]


def check(recipe):
    before, bad, after = play(recipe)
    for i, (name, place, alone) in enumerate(CASES):
        state, personal, metrics = bad
        assert metrics["rejected_clients"][i] == (name in REJECTED)
        if name not in REJECTED:
            for tree in (state, personal, after[0], after[1]):
                assert all(np.isfinite(x).all() for x in at(tree, i)), name
            assert not any(np.isnan(x).any() for x in at(metrics, i))
            continue
        assert np.isnan(metrics["loss"][i]) == alone
        # Its state is what it was, and all others' what they are without it.
        for x, y in zip(at(personal, i, place), at(before[1], i, place), strict=True):
            np.testing.assert_array_equal(x, y)
        without = CASES.index(("absent", place, alone))
        for trees in (bad, after):
            for x, y in zip(at(trees[0], i), at(trees[0], without), strict=True):
                np.testing.assert_array_equal(x, y)
            for x, y in zip(
                at(trees[1].get(TRANSFORM, ()), i),
                at(trees[1].get(TRANSFORM, ()), without),
                strict=True,
            ):
                np.testing.assert_array_equal(x, y)


# The guard is the same for all; these differ most in how they treat a message.
FAST = {
    "mean", "norm_bound", "geometric_median", "krum", "majority_vote", "q_fedavg",
    "centered_clipping", "attentive", "top_k", "dgc",
}  # fmt: skip


def every(names):
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in names],
    )


@every(RULES)
def test_a_bad_message_is_an_absent_client_for_every_rule(name):
    check(recipe_of(built(RULES[name])))


def facts():
    return context(recipe=recipe_of())


@every(n for n, c in CODECS.items() if getattr(c, "feedback", "own memory") != "none")
def test_a_bad_message_does_not_reach_the_memory_of_a_codec(name):
    check(recipe_of(transform=CODECS[name].build(facts())))


@pytest.mark.parametrize(
    "wrapper",
    [
        FetchSGD(columns=50, momentum=0.9),
        Guided(likeness="update", sketch=32),
        FedAMP(),
    ],
    ids=["fetch_sgd", "guided", "fedamp"],
)
def test_a_bad_message_does_not_reach_the_servers_memory(wrapper):
    local = LOCAL._replace(proximal=isinstance(wrapper, FedAMP))
    check(wrapper.build(context(recipe=recipe_of()._replace(local=local))))


def test_a_message_that_an_attack_spoils_is_not_encoded():
    """The codec's memory would hold the false numbers."""

    def encode(message, state, sender):
        return {**message, "w": jnp.where(sender.id == 3, jnp.nan, message["w"])}, state

    attack = MessageTransform(lambda message: (), encode, counted=False)
    codec = CODECS["top_k"].build(facts())
    played = play(recipe_of(transform=chain(attack, codec)))
    assert (played[0][2]["rejected_clients"] == 1).all()
    for state, personal, _ in played:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
        memory = jax.tree.leaves(personal[TRANSFORM])
        assert all((x[:, 3] == 0).all() for x in memory)
        assert any((x[0, 0] != 0).any() for x in memory)


def test_no_client_chooses_a_model_with_a_loss_that_is_not_a_number():
    unused: Any = None
    model = Model(init=init, loss=lambda p, *_: (p.shared["w"].sum(), {}), score=unused)
    local = LOCAL._replace(draw=lambda examples, key: {"item": jnp.zeros(1, jnp.int32)})
    recipe = recipe_of()._replace(model=model, local=local)
    params = Params(
        shared={
            "item": rows.Table(values=jnp.zeros((LENGTH, 3, 2))),
            "w": jnp.array([[jnp.nan] * 3, [2.0] * 3, [1.0] * 3]),
        },
        personal={
            "own": jnp.zeros(2),
            "index": jnp.int32(1),
            CLUSTER: jnp.array([1.0, 0, 0]),
        },
    )
    train: Any = best_of(recipe, 3)
    result = train(params, honest(0), DATA.examples(jnp.int32(1), 0), {}, KEY)
    assert result.personal[CLUSTER].tolist() == [0, 0, 1]
