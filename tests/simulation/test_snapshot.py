"""A simulation put back to a snapshot continues as if it had never stopped."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    BackboneConfig,
    Execution,
    Experiment,
    FedAdam,
    FedAvg,
    FedFM,
    LoRA,
    MatrixFactorization,
    PFedRec,
    Protocol,
    StoreConfig,
    SyntheticData,
    Uniform,
    build,
)
from fedjax_rec.runs.fingerprint import digest, fingerprint
from fedjax_rec.simulation.loop import Snapshot

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=30, num_items=40, num_interactions=400),
    algorithm=PFedRec(dim=4, negatives=1),
    execution=Execution(max_buckets=1),
    rounds=6,
    eval_every=2,
)
ADAM = dataclasses.replace(
    SMALL,
    algorithm=FedAvg(
        model=MatrixFactorization(dim=4),
        negatives=1,
        client_optimizer=SGD(lr=5.0),
        server_optimizer=FedAdam(lr=0.01),
    ),
    cohort=Uniform(size=9),
    protocol=Protocol(selection="last"),
    eval_every=4,
)


@functools.cache
def unbroken(experiment):
    """A simulation after `run`, and its result."""
    simulation = build(experiment)
    return simulation, simulation.run()


def fresh(experiment=SMALL):
    """The simulation built again, with the compiled programs of `unbroken`."""
    simulation: Any = build(experiment)
    compiled: Any = unbroken(experiment)[0]
    simulation.population._run_rounds = compiled.population._run_rounds
    simulation.evaluator._ranks = compiled.evaluator._ranks
    return simulation


def leave(events, done, kind):
    """Trains until an event, as a process that is then killed."""
    for event in events:
        if (event["round"], event["event"]) == (done, kind):
            return
    raise AssertionError("the event never came")


def on_host(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def clockless(events):
    return [{k: v for k, v in e.items() if k != "seconds"} for e in events]


@pytest.mark.parametrize(
    ("experiment", "done", "kind", "rest_every"),
    [
        (SMALL, 2, "evaluation", 0),
        (SMALL, 6, "evaluation", 0),  # only the baselines are left
        (SMALL, 3, "round", 3),
        (ADAM, 3, "round", 3),
    ],
    ids=["evaluation", "end", "between", "adam"],
)
def test_later_results_are_the_same_bit_for_bit(experiment, done, kind, rest_every):
    whole, expected = unbroken(experiment)
    left = fresh(experiment)
    leave(left.events(rest_every), done, kind)
    snapshot = left.snapshot()
    assert snapshot.progress["round"] == done
    snapshot = snapshot._replace(arrays=on_host(snapshot.arrays))
    resumed = fresh(experiment)
    resumed.restore(snapshot, left.history)
    if done < experiment.rounds:
        resumed.baselines = lambda: expected["baselines"]
    result = resumed.run(rest_every=rest_every)
    for name in ("metrics", "selected", "baselines", "rounds"):
        assert result[name] == expected[name]
    assert clockless(result["history"]) == clockless(expected["history"])
    same = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
        whole.snapshot().arrays,
        resumed.snapshot().arrays,
    )
    assert all(jax.tree.leaves(same))


def test_no_snapshot_while_an_evaluation_is_due():
    simulation = fresh()
    simulation.snapshot()  # before the first round no evaluation is due
    events = simulation.events()
    leave(events, 2, "round")
    with pytest.raises(RuntimeError, match="at rest"):
        simulation.snapshot()
    next(events)
    assert simulation.snapshot().progress["round"] == 2


def test_rest_comes_after_evaluations_and_at_the_rounds_asked_for():
    simulation, rests = fresh(), []
    simulation.baselines = dict
    simulation.run(rest=lambda e: rests.append((e["round"], e["event"])), rest_every=3)
    # More rests may lie between rounds that ran one by one.
    assert set(rests) >= {
        (2, "evaluation"),
        (3, "round"),
        (4, "evaluation"),
        (6, "evaluation"),
    }
    assert not {(2, "round"), (4, "round"), (6, "round")} & set(rests)


def test_state_in_a_memory_map_is_overwritten_in_it(tmp_path):
    store = StoreConfig(location="disk", folder=str(tmp_path))
    simulation = build(dataclasses.replace(SMALL, store=store))
    mapped = jax.tree.leaves(simulation.personal)[0]
    arrays = jax.tree.map(np.ones_like, on_host(simulation.snapshot().arrays))
    progress = simulation.snapshot().progress
    simulation.restore(Snapshot(arrays, progress))
    assert jax.tree.leaves(simulation.personal)[0] is mapped
    (file,) = tmp_path.glob("*/personal-0.npy")
    assert np.array_equal(np.load(file), np.ones(mapped.shape))
    # Another run in the same folder, at the same time, has files of its own.
    other = build(dataclasses.replace(SMALL, store=store, seed=3))
    assert np.array_equal(mapped, np.ones(mapped.shape))
    assert not np.array_equal(jax.tree.leaves(other.personal)[0], mapped)
    del simulation, other, mapped
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_changes_only_with_the_inputs_of_a_run():
    def changed(**fields):
        other = fingerprint(build(dataclasses.replace(SMALL, **fields)))
        return {name for name in base if base[name] != other[name]}

    base = fingerprint(unbroken(SMALL)[0])
    assert changed(rounds=9, seed=4, eval_every=3) == set()
    assert changed(algorithm=PFedRec(dim=4, negatives=1, client_lr=0.7)) == {"hparams"}
    other = dataclasses.replace(SMALL.data, seed=1)
    assert changed(data=other) - {"chunks"} == {"train", "val", "test", "clients"}


def test_a_digest_reads_names_types_shapes_and_bytes():
    a = np.arange(6, dtype=np.float32)
    trees = [
        {"a": a},
        {"b": a},
        {"a": a.astype(np.float64)},
        {"a": a.reshape(2, 3)},
        {"a": a + 1},
        {"a": a, "b": np.float32(1)},
    ]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"a": a}) == digest({"a": jax.numpy.asarray(a)})


def test_weights_of_a_backbone_are_known_by_its_fingerprint():
    algorithm = FedFM(dim=4, negatives=1, adapter=LoRA(layers=1, rank=2))
    backbone = BackboneConfig(name="tiny", max_tokens=8)
    texts = dataclasses.replace(SMALL, algorithm=algorithm, backbone=backbone)
    simulation: Any = build(texts)
    before = fingerprint(simulation)
    assert before["backbone"] == simulation.notes["backbone"]["fingerprint"]
    # Their values are not read, and neither is what was placed.
    simulation.frozen = None
    text = simulation.recipe.frozen["text"]
    text["weights"] = jax.eval_shape(lambda: text["weights"])
    assert fingerprint(simulation) == before
    simulation.notes["backbone"]["fingerprint"] = "other"
    assert fingerprint(simulation) != before
