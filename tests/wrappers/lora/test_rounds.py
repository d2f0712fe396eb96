"""FedFM with rules for LoRA, in whole rounds."""

import functools
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.robust.medians import Median
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedfm_parts import Joint
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.optimizers import SGD
from fedjax_rec.models.adapters.in_layers import LoRA, PrefixTuning
from fedjax_rec.simulation.round import client_key
from fedjax_rec.wrappers.lora.factors import COLUMNS
from fedjax_rec.wrappers.lora.rules import FedEx, FedIT, FLoRA, HetLoRA
from tests.small_fedfm import SIZES, USERS, World, backbone

WIDTH, RANK = 44, 3
FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def world(wrapper=None, aggregation=None, **fields):
    algorithm: Any = {
        "adapter": LoRA(rank=RANK),
        "dim": 4,
        "negatives": 2,
        "batch_size": 6,
        "training": Joint(optimizer=SGD(lr=3.0)),
        "user_lr": 0.3,
        **fields,
    }
    return World(
        FedFM(**algorithm),
        FOLDER.name,
        model=backbone(width=WIDTH),
        wrapper=wrapper,
        aggregation=aggregation,
    )


def effective(shared, site):
    whole = np.asarray(shared["lora_a"][site]) @ np.asarray(shared["lora_b"][site])
    return whole + np.asarray(shared.get("lora_base", {site: 0})[site])


def trainer(small, server, cohort):
    """Local training of the second round, by client."""

    @jax.jit
    def train(client):
        own = jax.tree.map(lambda x: x[client], cohort.personal)
        return small.recipe.client_update(
            Params(shared=server.shared, personal=own),
            small.frozen,
            small.data.examples(client, 0),
            small.recipe.hparams,
            client_key(small.key, jnp.int32(1), client),
        )

    return train


@pytest.mark.parametrize("rule", [FedEx, FLoRA])
@pytest.mark.parametrize("ranks", [(), (1, 3)])
def test_the_servers_model_is_the_mean_of_its_clients_models(rule, ranks):
    small = world(rule(ranks=ranks))
    states, metrics = small.play(2)
    (before, cohort), (after, _) = states[1:]
    expected: dict[str, Any] = {}
    means: dict[tuple[str, str], Any] = {}
    train = trainer(small, before, cohort)
    for client, size in enumerate(SIZES):
        result = train(jnp.int32(client))
        # No client moves the base.
        for moved in jax.tree.leaves(result.delta["lora_base"]):
            assert not np.asarray(moved).any()
        mask = result.extras.get(COLUMNS, np.ones(RANK))
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
            a, b = np.asarray(own["lora_a"][site]), np.asarray(own["lora_b"][site])
            for name, x in (("a", a), ("b", b), ("product", a @ b)):
                means[name, site] = means.get((name, site), 0) + size / sum(SIZES) * x
    for site, mean in expected.items():
        off = np.linalg.norm(effective(after.shared, site) - mean)
        assert off < 1e-5 * np.linalg.norm(mean)
    gaps = [
        means["product", site] - means["a", site] @ means["b", site]
        for site in expected
    ]
    products = [means["product", site] for site in expected]
    gap = np.linalg.norm(gaps) / np.linalg.norm(products)
    assert gap > 0.01
    np.testing.assert_allclose(metrics["lora_gap"], gap, rtol=1e-4)


def test_fedit_measures_the_gap_and_changes_nothing():
    (plain, without), (measured, metrics) = (
        world(rule).play(2) for rule in (None, FedIT())
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        plain[-1][0].shared,
        measured[-1][0].shared,
    )
    assert "lora_gap" not in without
    assert float(metrics["lora_gap"]) > 0


def test_one_fixed_factor_leaves_no_gap():
    """FFA-LoRA: the mean is exact if nobody trains A."""
    states, _ = world(fixed=("lora_a",)).play(2)
    first, last = states[0][0].shared, states[-1][0].shared
    jax.tree.map(np.testing.assert_array_equal, first["lora_a"], last["lora_a"])
    assert max(float(jnp.abs(x).max()) for x in last["lora_b"].values()) > 1e-3


def test_no_client_has_a_base_of_its_own():
    """The dense correction is stored once, not once per client of a chunk."""
    small = world(FedEx())
    text = small.round.lower(*small.arguments).compile().as_text() or ""
    dense = f"{WIDTH},{WIDTH}]"
    assert f"f32[1,{dense}" in text
    assert f"f32[{USERS},1,{dense}" not in text
    assert f"f32[{USERS},{dense}" not in text


def test_a_base_is_received_and_not_counted_as_trained():
    with_base, without = world(FedEx()), world(FedIT())
    key = "adapter_parameters"
    assert with_base.facts[key] == without.facts[key]
    assert "lora_base" in with_base.recipe.model.fixed
    assert "lora_base" not in without.recipe.model.init(jax.random.key(0)).shared


@pytest.mark.parametrize(
    ("rule", "fields", "message"),
    [
        (
            FedEx(),
            {"adapter": PrefixTuning()},
            r"needs both factors .*algorithm=FedFM\(adapter=LoRA",
        ),
        (FedIT(), {"personal": ("lora_b",)}, "lora_b is not: leave it out"),
        (FLoRA(), {"fixed": ("lora_a",)}, "lora_a is not: leave it out"),
        (HetLoRA(ranks=(9,)), {}, "exceed rank=3"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule, fields, message):
    with pytest.raises(ValueError, match=message):
        world(rule, **fields)


def test_ranks_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        HetLoRA(ranks=(0,))


def test_no_rule_lets_loras_groups_bypass_a_robust_rule():
    with pytest.raises(ValueError, match="bypass"):
        world(FLoRA(), Median())
    with pytest.raises(ValueError, match="bypass"):
        world(FedIT(ranks=(1, 2)), Median())
    small = world(FedIT(), Median())
    (_, (before, cohort), (after, _)), metrics = small.play(2)
    train, site = trainer(small, before, cohort), "attention/query"
    for group in ("lora_a", "lora_b"):
        deltas = [train(jnp.int32(c)).delta[group][site] for c in range(USERS)]
        step = after.shared[group][site] - before.shared[group][site]
        np.testing.assert_allclose(step, np.median(deltas, 0), atol=1e-6)
    assert float(metrics["lora_gap"]) > 0


def test_rules_for_lora_receive_factors_of_each_client():
    small = world(FedEx())
    assert not small.lifted
    assert "reads each client's factors" in small.why[-1]
