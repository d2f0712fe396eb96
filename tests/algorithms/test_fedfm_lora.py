"""FedFM with rules for LoRA, through the engine."""

import functools
import tempfile
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.algorithms import FedFM
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.core.contracts import Params
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment import backbone as experiment_backbone
from fedjax_rec.experiment.backbone import BackboneConfig, prepare
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, make_algorithm

ITEMS, SIZES, WIDTH, RANK = 13, [3, 1, 4, 2, 3], 44, 3
SMALL: dict[str, Any] = {
    "dim": 4,
    "rank": RANK,
    "negatives": 2,
    "batch_size": 6,
    "client_lr": 3.0,
    "user_lr": 0.3,
}
ROOT = tempfile.TemporaryDirectory()


@functools.cache
def world(**fields):
    """The recipe, its clients, what is frozen, and the facts told of it."""
    rng = np.random.default_rng(0)
    names = [f"{a}{b}" for a in ("red", "sea", "oak") for b in ("ship", "man", "s")]
    titles = [" ".join(rng.choice(names, 1 + i % 4)) for i in range(ITEMS)]
    train = make_interactions(
        user=np.repeat(np.arange(len(SIZES)), SIZES),
        item=np.concatenate([rng.choice(ITEMS, s, replace=False) for s in SIZES]),
        users=Entities(ids=[f"u{u}" for u in range(len(SIZES))]),
        items=Entities(ids=[f"i{i}" for i in range(ITEMS)], titles=titles),
    )
    split = Split(train=train, val=train, test=train, name="none", info={})
    size: dict[str, Any] = {"num_heads": 2, "ffn_width": 12, "vocab_size": 64}
    backbone = tiny(num_layers=2, width=WIDTH, **size)
    config = FedFM(**SMALL, **fields)
    with mock.patch.object(
        experiment_backbone, "load_model", return_value=(*backbone, False)
    ):
        prepared = prepare(
            BackboneConfig(cache=ROOT.name),
            config,
            split,
            pool=None,
            largest=max(SIZES),
            pairs_a_round=1e9,
            tuned=False,
        )
    recipe = config.build(
        num_items=ITEMS,
        num_users=train.num_users,
        texts=prepared.texts,
        lifted=prepared.lifted,
    )
    data = make_client_data(train, PerUser().partition(train), max_buckets=1)
    return recipe, data, prepared


def play(recipe, data, frozen, rounds):
    """Server states before, between and after the rounds; clients; last metrics."""
    algorithm = make_algorithm(recipe, (2,))
    step, key = jax.jit(algorithm.round), jax.random.key(3)
    ids = jnp.arange(len(SIZES), dtype=jnp.int32)
    personal = initial_personal(recipe, key, len(SIZES))
    states, told = [(algorithm.init(key), personal)], {}
    for _ in range(rounds):
        state, personal = states[-1]
        cohort = Cohort(ids=ids, rows=ids, personal=personal)
        state, cohort, told = step(state, cohort, data, frozen, recipe.hparams, key)
        states.append((state, cohort.personal))
    return states, told, key


def effective(shared, site):
    whole = np.asarray(shared["lora_a"][site]) @ np.asarray(shared["lora_b"][site])
    return whole + np.asarray(shared.get("lora_base", {site: 0})[site])


@pytest.mark.parametrize("name", ["fedex", "flora"])
@pytest.mark.parametrize("ranks", [(), (1, 3)])
def test_the_servers_model_is_the_mean_of_its_clients_models(name, ranks):
    recipe, data, prepared = world(lora_aggregation=name, ranks=ranks)
    states, told, key = play(recipe, data, prepared.frozen, rounds=2)
    (before, personal), (after, _) = states[1:]
    expected: dict[str, Any] = {}

    @jax.jit
    def train(client):
        params = Params(
            shared=before.shared, personal=jax.tree.map(lambda x: x[client], personal)
        )
        return recipe.client_update(
            params,
            prepared.frozen,
            data.examples(client, 0),
            recipe.hparams,
            client_key(key, jnp.int32(1), client),
        )

    for client, size in enumerate(SIZES):
        result = train(jnp.int32(client))
        # No client moves the base.
        for moved in jax.tree.leaves(result.delta["lora_base"]):
            assert not np.asarray(moved).any()
        mask = np.ones(RANK) if result.profile is None else result.profile[:RANK]
        own = {
            "lora_a": jax.tree.map(
                lambda x, d, m=mask: x * m + d,
                before.shared["lora_a"],
                result.delta["lora_a"],
            ),
            "lora_b": jax.tree.map(
                lambda x, d, m=mask: x * m[:, None] + d,
                before.shared["lora_b"],
                result.delta["lora_b"],
            ),
            "lora_base": before.shared["lora_base"],
        }
        for site in own["lora_a"]:
            part = size / sum(SIZES) * effective(own, site)
            expected[site] = expected.get(site, 0) + part
    for site, mean in expected.items():
        off = np.linalg.norm(effective(after.shared, site) - mean)
        assert off < 1e-5 * np.linalg.norm(mean)
    assert 0 < float(told["lora_gap"]) < 1


def test_the_gap_is_told_and_changes_nothing():
    plain, told = (
        play(*world(lora_aggregation=rule)[:2], world()[2].frozen, 2)
        for rule in ("plain", "fedit")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        plain[0][-1][0].shared,
        told[0][-1][0].shared,
    )
    assert "lora_gap" not in plain[1]
    assert float(told[1]["lora_gap"]) > 0


def test_one_fixed_factor_leaves_no_gap():
    """FFA-LoRA: the mean is exact if nobody trains A."""
    recipe, data, prepared = world(fixed=("lora_a",))
    states, _, _ = play(recipe, data, prepared.frozen, 2)
    first, last = states[0][0].shared, states[-1][0].shared
    jax.tree.map(np.testing.assert_array_equal, first["lora_a"], last["lora_a"])
    assert max(float(jnp.abs(x).max()) for x in last["lora_b"].values()) > 1e-3


def test_no_client_has_a_base_of_its_own():
    """What is dense is held once, not once a client of a chunk."""
    recipe, data, prepared = world(lora_aggregation="fedex")
    algorithm = make_algorithm(recipe, (5,))
    key = jax.random.key(3)
    ids = jnp.arange(5, dtype=jnp.int32)
    cohort = Cohort(ids=ids, rows=ids, personal=initial_personal(recipe, key, 5))
    lowered = jax.jit(algorithm.round).lower(
        algorithm.init(key), cohort, data, prepared.frozen, recipe.hparams, key
    )
    text = lowered.compile().as_text() or ""
    dense = f"{WIDTH},{WIDTH}]"
    assert f"f32[1,{dense}" in text
    assert f"f32[5,1,{dense}" not in text
    assert f"f32[5,{dense}" not in text


def test_a_base_is_received_and_not_counted_as_trained():
    with_base, without = (
        world(lora_aggregation=rule)[2].facts for rule in ("fedex", "fedit")
    )
    assert with_base["adapter_parameters"] == without["adapter_parameters"]
    assert FedFM(lora_aggregation="fedex").received_only == ("lora_base",)
    assert FedFM(fixed=("head",)).received_only == ("head",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_aggregation": "fedex", "adapter": "prefix"}, "adapter='lora'"),
        ({"lora_aggregation": "fedit", "personal": ("lora_b",)}, "trained and shared"),
        ({"lora_aggregation": "flora", "fixed": ("lora_a",)}, "trained and shared"),
        ({"lora_aggregation": "flora", "aggregation": "sum"}, "a mean"),
        ({"ranks": (2, 4)}, "other than 'plain'"),
        ({"lora_aggregation": "hetlora", "ranks": (9,)}, "exceed rank=8"),
        ({"lora_aggregation": "hetlora", "ranks": (0,)}, "at least 1"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FedFM(**fields)


def test_factors_cannot_be_read_where_items_are_encoded_once():
    with pytest.raises(ValueError, match="reads what each client sends"):
        experiment_backbone._once(
            FedFM(lora_aggregation="fedex"), 3, 1e9, 13, False, "once"
        )
