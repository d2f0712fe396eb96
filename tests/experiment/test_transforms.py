"""Codecs, rules, attackers and profiles as an experiment names them."""

import dataclasses
from typing import Any, get_args, get_type_hints
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_rec.experiment.aggregation import boosted_item, most_popular
from fedjax_rec.experiment.codec import Name
from fedjax_rec.experiment.profiles import make_profiles

import fedjax_rec
from fedjax_rec import (
    AggregationConfig,
    AttackConfig,
    CodecConfig,
    CohortConfig,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    PartitionConfig,
    PFedRec,
    ProfileConfig,
    Protocol,
    SyntheticData,
    build,
)
from fedjax_rec.experiment import profiles as experiment_profiles
from fedjax_rec.experiment.build import check

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=PFedRec(dim=4, negatives=1),
    execution=Execution(max_buckets=1),
    cohort=CohortConfig(sampling="uniform", size=10),
    rounds=2,
    eval_every=2,
)
LOADED = SMALL.data.load()
EMBEDDING = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)


def embedded():
    return mock.patch.object(
        experiment_profiles, "text_embeddings", return_value=EMBEDDING
    )


def made(**changes: Any):
    """A simulation; texts are embedded at random, no backbone is at hand."""
    with embedded():
        return build(dataclasses.replace(SMALL, **changes), data=LOADED)


def shapes(simulation):
    """A round's outcome by shape: it is traced, not compiled."""
    from fedjax_rec.core.rounds import Cohort
    from fedjax_rec.simulation.round import make_algorithm

    recipe, data = simulation.recipe, jax.tree.map(jnp.asarray, simulation.data)
    algorithm = make_algorithm(recipe, simulation.chunks)
    ids = jnp.arange(10, dtype=jnp.int32)
    cohort = Cohort(ids=ids, rows=ids, personal=simulation.personal)
    state = algorithm.init(simulation.key)
    return state, jax.eval_shape(
        algorithm.round, state, cohort, data, (), recipe.hparams, simulation.key
    )


@pytest.mark.parametrize("name", get_args(Name))
def test_every_codec_goes_through_a_round_and_is_priced_beforehand(name):
    simulation = made(codec=CodecConfig(name=name, rank=2, columns=50))
    before, (state, cohort, told) = shapes(simulation)
    assert jax.tree.structure(state) == jax.tree.structure(before)
    assert ("up_bytes" in told) == (name != "none")
    assert jax.tree.structure(cohort.personal) == jax.tree.structure(
        simulation.personal
    )
    up = np.asarray(simulation.sampler.tables[1].up)
    assert (up > 0).all()
    if name in ("bf16", "int8", "qsgd", "sign", "top_k", "drive"):
        plain = np.asarray(made().sampler.tables[1].up)
        assert (up < 0.65 * plain).all()
    if name == "colr":  # every one of 30 rows, 2 numbers of 4 bytes
        np.testing.assert_allclose(up, 30 * 2 * 4)
    if name == "count_sketch":
        np.testing.assert_allclose(up, 5 * 50 * 4)


@pytest.mark.parametrize("rule", get_args(get_type_hints(AggregationConfig)["rule"]))
def test_every_rule_goes_through_a_round(rule):
    simulation = made(
        aggregation=AggregationConfig(rule=rule, share=0.1),
        profile=ProfileConfig(source="text" if rule == "fm_guided" else "none"),
    )
    before, (state, _, told) = shapes(simulation)
    assert jax.tree.structure(state) == jax.tree.structure(before)
    assert all(x.shape == () for x in told.values())


@pytest.mark.parametrize("kind", ["sign_flip", "noise", "boost"])
@pytest.mark.parametrize("codec", ["none", "top_k"])
def test_every_attack_goes_through_a_round(kind, codec):
    simulation = made(attack=AttackConfig(kind=kind), codec=CodecConfig(name=codec))
    before, (state, _, _) = shapes(simulation)
    assert jax.tree.structure(state) == jax.tree.structure(before)
    item = boosted_item(AttackConfig(), LOADED)
    assert simulation.protocol.exposed_item == (item if kind == "boost" else -1)


def test_the_boosted_item_is_the_least_popular_and_pushed_to_the_most():
    counts = np.bincount(LOADED.item, minlength=30)
    assert counts[boosted_item(AttackConfig(), LOADED)] == counts.min()
    assert boosted_item(AttackConfig(item=4), LOADED) == 4
    top = most_popular(LOADED, 3)
    assert sorted(counts[top]) == sorted(counts)[-3:]
    with pytest.raises(ValueError, match="and there are 30 items"):
        boosted_item(AttackConfig(item=30), LOADED)


def test_profiles_by_hand():
    """Each client's mean over its training items, less the catalog's, clipped."""
    simulation = made(
        aggregation=AggregationConfig(rule="fm_guided"),
        profile=ProfileConfig(source="text", clip=0.5),
    )
    train = simulation.split.train
    centered = EMBEDDING - EMBEDDING.mean(0)
    profiles = simulation.recipe.profiles
    for client in range(24):
        (user,) = np.flatnonzero(simulation.client_of_user == client)[:1]
        mean = centered[train.item[train.user == user]].mean(0)
        mean *= min(1, 0.5 / np.linalg.norm(mean))
        np.testing.assert_allclose(profiles[client], mean, atol=1e-6)
    assert np.linalg.norm(profiles, axis=1).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(simulation.personal["profile"], profiles)


def test_null_controls_keep_lengths_and_nobody_keeps_its_own():
    def of(source):
        with embedded():
            found = make_profiles(
                ProfileConfig(source=source, clip=9.0),
                SMALL.backbone,
                LOADED,
                SIMULATION.data,
            )
        return np.asarray(found)

    text, random, shuffled = of("text"), of("random"), of("shuffled")
    norms = [np.linalg.norm(x, axis=1) for x in (text, random, shuffled)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
    assert sorted(map(tuple, text)) == sorted(map(tuple, shuffled))
    assert (np.abs(text - shuffled).max(1) > 1e-6).all()
    cosine = (text * random).sum(1) / norms[0] ** 2
    assert abs(cosine.mean()) < 3 / np.sqrt(6 * 24)  # sd of one is 1 / sqrt(6)


SIMULATION = made()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": CodecConfig(fraction=0.0)}, r"codec.fraction must be in \(0, 1\]"),
        ({"codec": CodecConfig(rank=0)}, "codec.rank must be at least 1"),
        ({"codec": CodecConfig(least=-1.0)}, "codec.least must be positive"),
        ({"codec": CodecConfig(momentum=1.0)}, "codec.momentum must be in"),
        (
            {"codec": CodecConfig(name="colr", feedback="ef")},
            "'colr' takes no codec.feedback",
        ),
        (
            {"aggregation": AggregationConfig(share=0.5)},
            "no rule stands against a majority",
        ),
        ({"attack": AttackConfig(share=1.5)}, "attack.share must be in"),
        ({"attack": AttackConfig(scale=0.0)}, "attack.scale must be positive"),
        ({"attack": AttackConfig(popular=0)}, "attack.popular must be at least 1"),
    ],
)
def test_absurd_options_are_refused_before_anything_is_loaded(changes, message):
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(SMALL, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "attack": AttackConfig(kind="boost"),
                "algorithm": FedAvg(dim=4, users="table"),
                "partition": PartitionConfig(kind="iid", num_clients=10),
            },
            "clients have none of the width",
        ),
        ({"codec": CodecConfig(name="colr", rank=9)}, "codec.rank=9 is more than"),
        (
            {"aggregation": AggregationConfig(rule="krum", share=0.45)},
            "needs at least 2 f",
        ),
        (
            {"aggregation": AggregationConfig(rule="fm_guided")},
            "set profile.source to 'text'",
        ),
        (
            {"protocol": Protocol(exposed_item=30)},
            "protocol.exposed_item=30, and there are 30 items",
        ),
        (
            {
                "codec": CodecConfig(name="count_sketch"),
                "aggregation": AggregationConfig(rule="median"),
            },
            "brings its own aggregation, FetchSGD",
        ),
        (
            {
                "codec": CodecConfig(name="colr", rank=2),
                "algorithm": FedAvg(dim=4, client_optimizer="adam", client_lr=0.01),
            },
            "needs plain SGD on the rows",
        ),
        ({"profile": ProfileConfig(source="text", clip=0.0)}, "profile.clip must be"),
    ],
)
def test_what_does_not_fit_together_says_so(changes, message):
    with pytest.raises(ValueError, match=message):  # noqa: PT012
        simulation = made(**changes)
        shapes(simulation)  # low-rank training looks at the phases


def test_items_are_encoded_by_each_client_where_its_message_is_looked_at():
    from fedjax_rec.experiment.build import _encode

    plain = dataclasses.replace(SMALL, algorithm=FedFM())
    assert _encode(plain) == "auto"
    coded = dataclasses.replace(plain, codec=CodecConfig(name="qsgd"))
    assert _encode(coded) == "per_client"
    once = dataclasses.replace(coded, execution=Execution(encode="once"))
    with pytest.raises(ValueError, match="looks at each client's message"):
        _encode(once)
    rule = AggregationConfig(rule="median")
    assert _encode(dataclasses.replace(plain, aggregation=rule)) == "per_client"
    assert fedjax_rec.CodecConfig is CodecConfig
