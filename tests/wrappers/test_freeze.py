"""Frozen groups keep their values, and everything else trains as without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import (
    QSGD,
    SGD,
    Adam,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    FedNCF,
    Freeze,
    Joint,
    LoRA,
    Median,
    NeuralCF,
    PFedRec,
    SyntheticData,
    build,
)
from fedjax_rec.algorithms import implicit
from fedjax_rec.clients.local import Phase
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Params
from tests.small_fedfm import World

NCF = Experiment(
    name="freeze",
    data=SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=FedNCF(
        dim=4,
        hidden=(4,),
        client_optimizer=SGD(lr=0.1),
        averaging="plain",
        negatives=1,
        batch_size=8,
        init_scale=0.1,
    ),
    execution=Execution(max_buckets=1),
    rounds=2,
    eval_every=2,
)
DATA = NCF.data.load()
MLP_BYTES = 4 * (8 * 4 + 4 + 4 + 1)


def made(**changes):
    return build(dataclasses.replace(NCF, **changes), data=DATA)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b
    )


def moved(before, after):
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


@pytest.mark.parametrize("group", ["mlp", "item"])
@pytest.mark.parametrize("more", [{}, {"codec": QSGD()}, {"aggregation": Median()}])
def test_a_frozen_group_keeps_its_values_and_others_learn(group, more):
    simulation = made(wrapper=Freeze(groups=(group,)), **more)
    start = jax.tree.map(np.array, simulation.state.shared)
    simulation.run()
    after = simulation.state.shared
    same(after[group], start[group])
    if "aggregation" not in more:  # the median of most rows is 0
        (other,) = {"mlp", "item"} - {group}
        assert moved(start[other], after[other]) > 1e-3


def without_gradient(model, group):
    """A model whose loss has no gradient with respect to a group."""

    def loss(params, *args):
        held = jax.lax.stop_gradient(params.shared[group])
        shared = {**params.shared, group: held}
        return model.loss(Params(shared=shared, personal=params.personal), *args)

    return model._replace(loss=loss)


@pytest.mark.parametrize("group", ["mlp", "item"])
def test_a_client_trains_as_if_the_loss_had_no_gradient_there(group):
    simulation = made(wrapper=Freeze(groups=(group,)))
    recipe, data = simulation.recipe, jax.tree.map(jnp.asarray, simulation.data)
    n, key = data.num_items, jax.random.key(3)
    phase = Phase(
        lambda h: optax.sgd(h["client_optimizer.lr"]),
        row_rate=lambda h: h["client_optimizer.lr"] * n * h["item_lr_scale"],
    )
    reference = implicit.on_pairs(
        NCF.algorithm, without_gradient(recipe.model, group), (phase,), n
    )
    params, examples = recipe.model.init(key), data.examples(jnp.int32(4), 0)
    result, expected = (
        jax.jit(update)(params, (), examples, recipe.hparams, key)
        for update in (recipe.client_update, reference.client_update)
    )
    close(result, expected)
    leaves = jax.tree.leaves(rows.map_values(jnp.abs, result.delta[group]))
    zeros = leaves[1:] if group == "item" else leaves  # without the rows' ids
    assert max(float(x.max()) for x in zeros) == 0


def test_frozen_groups_are_received_but_not_sent():
    plain, mlp, item = (
        made(wrapper=wrapper).sampler.tables[1]
        for wrapper in (None, Freeze(groups=("mlp",)), Freeze(groups=("item",)))
    )
    np.testing.assert_allclose(plain.up - mlp.up, MLP_BYTES)
    np.testing.assert_allclose(item.up, MLP_BYTES)
    for costs in (mlp, item):
        np.testing.assert_allclose(costs.down, plain.down)


@pytest.mark.parametrize("encode", ["once", "per_client"])
def test_fedfm_freezes_as_with_its_own_setting(encode, tmp_path):
    settings = {
        "dim": 4,
        "negatives": 2,
        "batch_size": 99,
        "adapter": LoRA(rank=2, layers=0),
        "training": Joint(optimizer=SGD(lr=0.2)),
    }
    groups = ("lora_a", "head")
    frozen = World(
        FedFM(**settings), tmp_path, encode=encode, wrapper=Freeze(groups=groups)
    )
    own = World(FedFM(**settings, fixed=groups), tmp_path, encode=encode)
    plain = World(FedFM(**settings), tmp_path, encode=encode)
    assert frozen.lifted == own.lifted == (encode == "once")
    result, expected, free = (world.result(3)[0] for world in (frozen, own, plain))
    close(result, expected)
    for name in groups:
        same(result[name], frozen.start.shared[name])
        assert moved(result[name], free[name]) > 1e-5


@pytest.mark.parametrize(
    ("algorithm", "groups", "message"),
    [
        (FedNCF(), ("item", "head"), "head is not shared; expected some of item, mlp"),
        (FedNCF(), ("user",), "user is not shared"),
        (FedNCF(), ("item", "mlp"), "leaves no shared group to train"),
        (PFedRec(), ("item",), "leaves no shared group to train"),
        (
            FedAvg(model=NeuralCF(), client_optimizer=Adam()),
            ("mlp",),
            "expected SGD.. as the clients' optimizer",
        ),
    ],
)
def test_what_is_refused_before_any_training(algorithm, groups, message):
    with pytest.raises(ValueError, match=message):
        made(algorithm=algorithm, wrapper=Freeze(groups=groups))
