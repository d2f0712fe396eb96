"""Every example is a plug-in that trains, is stored, and does what it says."""

import dataclasses
import hashlib
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.cli.arguments import apply_flags, read_arguments
from fedjax_rec.cli.options import Train
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders
from fedjax_rec.core.messages import Sender
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declared
from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.runs.plain import plain
from tests.own_rule import no_kinds  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_kinds")

FOLDER = Path(__file__).resolve().parents[1] / "examples"
PLUGINS = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "by_hand")
COMMAND = re.compile(r"^ *fedjax-rec train (.*?(?:\\\n.*?)*)$", re.MULTILINE)
SMALL = fr.Experiment(
    name="example",
    data=fr.SyntheticData(num_users=14, num_items=40, num_interactions=200),
    algorithm=fr.FedAvg(model=fr.MatrixFactorization(dim=4)),
    backbone=fr.BackboneConfig(name="tiny"),
    execution=fr.Execution(max_buckets=1),
    rounds=1,
    eval_every=1,
)


def loaded(name):
    return load_module(FOLDER / f"{name}.py")


def flags_of(name):
    """The flags of the command that the example's docstring gives."""
    text = (FOLDER / f"{name}.py").read_text().replace("\\\\\n", "\\\n")
    match = COMMAND.search(text)
    assert match, f"{name}: no command in its docstring"
    words = shlex.split(match[1].replace("\\\n", " "))
    assert words[1:3] == ["--plugin", f"examples/{name}.py"]
    assert (FOLDER.parent / "configs" / f"{words[0]}.py").exists()
    return words[3:]


@pytest.mark.parametrize("name", PLUGINS)
def test_an_example_trains_by_the_flags_of_its_docstring(name):
    module = loaded(name)
    path = FOLDER / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60
    arguments = read_arguments(flags_of(name))
    _, experiment = apply_flags(arguments.flags, Train(), SMALL)
    (own,) = [cls for cls in declared(module) if cls.__module__ == module.__name__]
    slot, kind = own.__fedjax_rec_kind__
    assert registry.load(slot, kind) is own
    text = str(plain(experiment))
    assert "defined_in" in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    if own.__doc__ and dataclasses.fields(own):
        assert "Attributes:" in own.__doc__
    result = fr.build(experiment).run()
    assert np.isfinite(result["metrics"]["test"]["hr@10"])


SHARED = {"item": rows.Table(values=jnp.zeros((6, 2))), "w": jnp.zeros(2)}


def test_the_rule_takes_the_mean_of_the_smallest_deltas():
    rule = loaded("own_rule").Smallest(portion=0.5).build(None)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 2)) * np.array([4, 1, 3, 0.5, 9])[:, None]
    values, ids = rng.normal(size=(5, 1, 2)), np.arange(5)[:, None]
    deltas = {
        "item": rows.Rows(ids=jnp.asarray(ids), values=jnp.asarray(values)),
        "w": jnp.asarray(w),
    }
    slots = jnp.arange(5)
    weights = jnp.asarray([1.0, 8, 2, 3, 0])  # the last is absent
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(5))
    acc = rule.update(rule.init(SHARED, 5), deltas, weights, senders)
    delta, _, info = rule.finish(acc, rule.start(SHARED), SHARED)
    norms = np.sqrt((w**2).sum(1) + (values**2).sum((1, 2)))[:4]
    kept = np.argsort(norms)[:2]
    np.testing.assert_allclose(delta["w"], w[kept].mean(0), rtol=1e-5)
    expected = np.zeros((6, 2))
    expected[kept] = values[kept, 0] / 2
    np.testing.assert_allclose(delta["item"].values, expected, rtol=1e-5)
    assert int(info["kept"]) == 2


def sender():
    return Sender(
        id=jnp.int32(0),
        key=jax.random.key(0),
        round_key=jax.random.key(1),
        weight=jnp.ones(()),
        personal={},
    )


def test_the_codec_rounds_and_takes_a_byte_for_each_number():
    codec = loaded("own_codec").FixedPoint(step=0.5).build(None)
    message, _ = codec.encode({"w": jnp.asarray([0.6, -1.2, 99.0])}, (), sender())
    np.testing.assert_allclose(codec.decode(message)["w"], [0.5, -1.0, 63.5])
    assert int(num_bits(message)) == 3 * 8


def test_the_transform_scales_the_whole_delta():
    transform = loaded("own_transform").Clipped(norm=2.0).build(None)
    delta = {
        "w": jnp.asarray([3.0, 0]),
        "item": rows.Rows(
            ids=jnp.asarray([0, 9]),  # the second row is padding
            values=jnp.asarray([[0, 4.0], [jnp.nan, 0]]),
            num_rows=9,
        ),
    }
    clipped, _ = transform.encode(delta, (), sender())
    np.testing.assert_allclose(clipped["w"], [1.2, 0])
    np.testing.assert_allclose(clipped["item"].values[0], [0, 1.6])


def test_the_attack_changes_attackers_only():
    constant = loaded("own_attack").Constant(share=0.5, scale=7.0)
    transform = fr.build(dataclasses.replace(SMALL, attack=constant)).recipe.transform
    assert transform is not None
    delta = {"w": jnp.asarray([1.0, 2.0])}
    sent = [
        transform.encode(delta, (), dataclasses.replace(sender(), id=jnp.int32(i)))[0]
        for i in range(14)
    ]
    first = np.array([float(x["w"][0]) for x in sent])
    assert sorted(first) == [1.0] * 7 + [7.0] * 7


def test_the_wrapper_keeps_a_group_on_each_client():
    wrapper = loaded("own_wrapper").KeepLocal(groups=("mlp",))
    algorithm = fr.FedNCF(dim=4, hidden=(4,), negatives=1)
    experiment = dataclasses.replace(SMALL, algorithm=algorithm, wrapper=wrapper)
    simulation = fr.build(experiment)
    before = jax.tree.map(np.array, simulation.personal["mlp"])
    simulation.advance(1)
    assert set(simulation.state.shared) == {"item"}
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), simulation.personal["mlp"], before
    )
    assert max(jax.tree.leaves(moved)) > 0
    unknown = dataclasses.replace(wrapper, groups=("nothing",))
    with pytest.raises(ValueError, match="nothing"):
        fr.build(dataclasses.replace(experiment, wrapper=unknown))


def test_the_model_equals_factorization_without_biases_and_decay():
    """One local step of FedAvg from the same parameters."""
    biased = loaded("own_model").Biased
    results = []
    for model in (biased(dim=4), fr.MatrixFactorization(dim=4), biased(dim=4, decay=2)):
        simulation = fr.build(
            dataclasses.replace(SMALL, algorithm=fr.FedAvg(model=model))
        )
        recipe = simulation.recipe
        params = recipe.model.init(jax.random.key(0))
        item = jax.random.normal(jax.random.key(1), (40, 4))
        shared = {**params.shared, "item": rows.Table(values=item)}
        personal = {"user": jnp.arange(4.0) / 9}
        params = dataclasses.replace(params, shared=shared, personal=personal)
        examples = jax.tree.map(jnp.asarray, simulation.data).examples(jnp.int32(0), 0)
        update = jax.jit(recipe.client_update)
        results.append(update(params, (), examples, recipe.hparams, jax.random.key(2)))
    plain_step, factorization, decayed = results
    np.testing.assert_allclose(
        plain_step.delta["item"].values, factorization.delta["item"].values, atol=1e-6
    )
    np.testing.assert_allclose(
        plain_step.personal["user"], factorization.personal["user"], atol=1e-6
    )
    # The decay adds 2 * 2 u to the gradient of the user.
    change = plain_step.personal["user"] - decayed.personal["user"]
    np.testing.assert_allclose(change, 0.5 * 4 * np.arange(4) / 9, atol=1e-5)


def test_the_recipe_counts_and_forgets():
    algorithm = loaded("own_recipe").Counts(decay=0.25)
    simulation = fr.build(dataclasses.replace(SMALL, algorithm=algorithm, rounds=2))
    train = simulation.split.train
    counts = np.bincount(train.item, minlength=train.num_items)
    for factor in (1, 1.25):
        simulation.advance(1)
        values = simulation.state.shared["count"].values
        np.testing.assert_allclose(values, factor * counts, rtol=1e-6)
