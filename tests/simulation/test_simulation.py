"""Whole experiments on small synthetic data, and what is refused before they start."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    IID,
    SGD,
    Dirichlet,
    Execution,
    Experiment,
    FedAvg,
    FedMF,
    FedNCF,
    LeaveLast,
    MatrixFactorization,
    Mean,
    PFedRec,
    Poisson,
    Protocol,
    StoreConfig,
    SyntheticData,
    Uniform,
    build,
)
from fedjax_rec.core import keys
from fedjax_rec.experiment.prepared import load_prepared
from tests import by_hand

EXPERIMENT = Experiment(
    name="small",
    data=SyntheticData(num_users=60, num_items=80, num_interactions=1500),
    algorithm=FedAvg(
        model=MatrixFactorization(dim=4), negatives=1, client_optimizer=SGD(lr=10.0)
    ),
    execution=Execution(max_buckets=1),
    rounds=6,
    eval_every=2,
    seed=5,
)
# The paper's FedMF draws no negatives: the quickest to compile.
EXPLICIT = dataclasses.replace(
    EXPERIMENT,
    algorithm=FedMF(dim=2, feedback="explicit", client_lr=0.005),
    cohort=Uniform(size=7),
    eval_every=6,
)


def change(experiment, **fields):
    return dataclasses.replace(experiment, **fields)


def copy(tree):
    """A copy that survives donation."""
    return jax.tree.map(jnp.copy, tree)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def ran():
    """A simulation after `run`, its result, and the events its listener heard."""
    simulation, heard = build(EXPERIMENT), []
    return simulation, simulation.run(heard.append), heard


@pytest.fixture(scope="module")
def fresh(ran):
    """The same experiment built again; calling it takes it back to its start."""
    simulation = build(EXPERIMENT)
    # The compiled programs read only their arguments: compile them once.
    again: Any = simulation
    again.population._run_rounds = ran[0].population._run_rounds
    again.evaluator._ranks = ran[0].evaluator._ranks
    start = simulation.snapshot()
    start = start._replace(arrays=copy(start.arrays))

    def reset():
        simulation.restore(start)
        return simulation

    return reset


def test_result_and_events(ran):
    simulation, result, heard = ran
    assert set(result) == {
        "metrics",
        "selected",
        "baselines",
        "protocol",
        "rounds",
        "seconds",
        "history",
        "diverged_in_round",
    }
    assert result["history"] == heard
    assert result["rounds"] == 6
    assert set(result["seconds"]) == {"train", "evaluate", "baselines", "total"}
    assert result["protocol"]["candidates"] == "full"
    assert result["protocol"]["split"] == "leave_one_out(ties=file_order)"
    kinds = [(e["event"], e["round"]) for e in heard]
    expected = [("round", 1), ("round", 2), ("evaluation", 2), ("round", 3)]
    expected += [("round", 4), ("evaluation", 4), ("round", 5), ("round", 6)]
    assert kinds == [*expected, ("evaluation", 6), ("baselines", 6)]
    losses = [e["loss"] for e in heard if e["event"] == "round"]
    assert losses[-1] < losses[0]
    assert all(e["clients"] == 60 for e in heard if e["event"] == "round")
    assert all(e["examples"] == 1500 - 120 for e in heard if e["event"] == "round")
    evaluations = [e for e in heard if e["event"] == "evaluation"]
    best = max(evaluations, key=lambda e: e["val"]["ndcg@10"])
    assert result["selected"] == best["round"]
    assert result["metrics"] == {"val": best["val"], "test": best["test"]}
    # The parameters are those of the last round.
    table = np.asarray(simulation.state.shared["item"].values)
    scores = np.asarray(simulation.personal["user"]) @ table.T
    for part in ("val", "test"):
        expected = by_hand.mean_metrics(simulation, part, scores, cutoff=10)
        got = simulation.evaluate(part)
        assert {n: got[n] for n in expected} == pytest.approx(expected, abs=1e-5)
    assert evaluations[-1]["val"] == simulation.evaluate("val")
    assert set(result["baselines"]) == {"random", "popularity", "draw_count"}
    # 60 users: the AUC of a random ranker deviates by about .29 / sqrt(60) = .04.
    for name in ("random", "draw_count"):
        assert result["baselines"][name]["auc"] == pytest.approx(0.5, abs=0.13)
    assert result["baselines"]["draw_count"]["rounds"] == 6


def test_same_bits_again_and_however_many_rounds_at_once(ran, fresh):
    done, result, _ = ran
    simulation = fresh()
    log = [simulation.advance(2) for _ in range(3)]
    same((simulation.state, simulation.personal), (done.state, done.personal))
    losses = [e["loss"] for e in result["history"] if e["event"] == "round"]
    assert np.concatenate([x["loss"] for x in log]).tolist() == losses
    simulation = fresh()
    start = np.array(simulation.state.shared["item"].values)
    log = [simulation.advance(1) for _ in range(6)]
    same((simulation.state, simulation.personal), (done.state, done.personal))
    assert [float(x["loss"][0]) for x in log] == losses
    assert np.abs(simulation.state.shared["item"].values - start).max() > 0.01


@pytest.mark.parametrize(
    ("selection", "val", "ranked", "selected"),
    [
        # The test is ranked only if validation improves: the third evaluation would
        # have the best test, and an equal value changes no selection.
        ("ndcg@10", [0.1, 0.3, 0.2], [2, 4], 4),
        ("ndcg@10", [0.3, 0.3, 0.2], [2], 2),
        ("ndcg@10", [0.0, 0.1, 0.2], [2, 4, 6], 6),
        ("auc", [0.3, 0.2, 0.1], [2, 4, 6], 6),  # here AUC is 1 - ndcg
        ("last", [0.3, 0.2, 0.1], [6], 6),
    ],
)
def test_rounds_are_selected_by_validation(
    fresh, monkeypatch, selection, val, ranked, selected
):
    simulation, asked = fresh(), []

    def scripted(part):
        at = int(simulation.state.round)
        asked.append((part, at))
        if part == "test":
            return {"ndcg@10": at / 10}
        return {"ndcg@10": val[at // 2 - 1], "auc": 1 - val[at // 2 - 1]}

    monkeypatch.setattr(simulation, "evaluate", scripted)
    monkeypatch.setattr(simulation, "baselines", lambda: {})
    protocol = change(simulation.protocol, selection=selection)
    monkeypatch.setattr(simulation, "protocol", protocol)
    result = simulation.run()
    assert [at for part, at in asked if part == "test"] == ranked
    assert [e["round"] for e in result["history"] if "test" in e] == ranked
    assert result["selected"] == selected
    assert result["metrics"]["test"] == {"ndcg@10": selected / 10}
    assert result["metrics"]["val"]["ndcg@10"] == val[selected // 2 - 1]


def test_without_validation_only_the_last_round_can_be_selected():
    with pytest.raises(ValueError, match="selection='last'"):
        build(change(EXPERIMENT, split=LeaveLast()))


@pytest.mark.parametrize("count", [0, 3])
def test_no_more_rounds_at_once_than_the_log_holds(fresh, count):
    with pytest.raises(ValueError, match=f"advance by 1 to 2 rounds, got {count}"):
        fresh().advance(count)


@pytest.fixture(scope="module")
def explicit():
    """A simulation after six rounds, its personal state before, and their log."""
    return six_rounds(build(EXPLICIT))


def six_rounds(simulation):
    before = np.array(simulation.personal["user"])
    return simulation, before, simulation.advance(6)


@pytest.mark.parametrize("sampling", ["uniform", "poisson"])
def test_cohorts_count_their_clients(explicit, sampling):
    simulation, before, log = explicit
    if sampling == "poisson":
        changed = change(EXPLICIT, cohort=Poisson(size=7))
        simulation, before, log = six_rounds(build(changed))
    sizes = np.bincount(simulation.split.train.user, minlength=60)
    invited = []
    for round_ in range(6):
        key = keys.derive(simulation.key, keys.Purpose.COHORT, round_)
        ids = np.asarray(simulation.sampler(key, 0).ids)
        invited.append(ids[ids < 60])
    assert log["clients"].tolist() == [len(ids) for ids in invited]
    assert log["examples"].tolist() == [sizes[ids].sum() for ids in invited]
    if sampling == "uniform":
        assert set(log["clients"]) == {7}
    else:
        assert len(set(log["clients"])) > 1
        assert simulation.cohort_size == 18  # 7 + 4 sqrt(7), rounded up
    # A client that was never invited keeps its first user vector.
    moved = np.flatnonzero((np.asarray(simulation.personal["user"]) != before).any(1))
    assert moved.tolist() == np.unique(np.concatenate(invited)).tolist()


def test_mixed_clients_share_a_user_table():
    partition = Dirichlet(num_clients=5, alpha=0.3)
    algorithm = change(
        EXPERIMENT.algorithm, model=MatrixFactorization(dim=4, users="table")
    )
    rule = Mean(per_row=True)
    parts = {"partition": partition, "algorithm": algorithm, "aggregation": rule}
    simulation = build(change(EXPERIMENT, **parts))
    assert simulation.data.num_clients == 5
    before = jax.tree.map(np.asarray, simulation.state.shared)
    log = simulation.advance(2)
    assert set(simulation.state.shared) == {"item", "user"}
    assert log["examples"].tolist() == [1380, 1380]
    assert log["loss"][1] < log["loss"][0]
    after = jax.tree.map(np.asarray, simulation.state.shared)
    assert (after["user"].values != before["user"].values).any(1).all()


def test_a_population_on_the_host_gives_the_same(explicit):
    on_device, _, log = explicit
    changed = change(EXPLICIT, store=StoreConfig(location="host"))
    hosted, _, hosted_log = six_rounds(build(changed))
    results = [
        (x.state, x.personal, x.evaluate("val"), x.rmse("test"))
        for x in (on_device, hosted)
    ]
    for a, b in (results, (log, hosted_log)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), a, b)


MIXED = IID(num_clients=5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"partition": MIXED, "algorithm": FedMF()},
            r"keeps a personal part .* partition=PerUser\(\), or FedAvg",
        ),
        ({"partition": MIXED}, "keeps a personal part"),
        (
            {
                "partition": MIXED,
                "algorithm": FedAvg(model=MatrixFactorization(users="table")),
                "protocol": Protocol(evaluated="tuned"),
            },
            r"evaluated='tuned' .* partition=PerUser\(\)",
        ),
        (
            {"cohort": Uniform(size=61)},
            r"1 to 60 clients \(the population\), got 61",
        ),
        (
            {"cohort": Poisson(size=61)},
            r"mean cohort must lie in \(0, 60\], got 61",
        ),
    ],
)
def test_parts_that_do_not_fit_together(fields, message):
    with pytest.raises(ValueError, match=message):
        build(change(EXPERIMENT, **fields))


class Untouched(SyntheticData):
    """Data that must not be loaded."""

    def load(self, progress=False):
        raise AssertionError("loaded before the experiment was checked")


def test_experiments_are_checked_before_data_are_loaded():
    double = change(EXPERIMENT, data=Untouched(), execution=Execution(dtype="float64"))
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        build(double)
    with pytest.raises(AssertionError, match="loaded before"):
        build(change(EXPERIMENT, data=Untouched()))


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        (Uniform, {"size": 0}, "size must be at least 1"),
        (IID, {"num_clients": 0}, "num_clients"),
        (Execution, {"user_chunk": 0}, "user_chunk must be at least 1"),
        (PFedRec, {"client_lr": -0.1}, "client_lr must be finite and not"),
        # A config file may well write an integer for a float.
        (PFedRec, {"client_lr": -1}, "client_lr must be finite and not"),
        (SGD, {"lr": np.inf}, "lr must be finite"),
        (FedMF, {"init_scale": np.nan}, "init_scale must be finite"),
        (FedNCF, {"dim": 0}, "dim must be at least 1"),
        (FedNCF, {"batch_size": 0}, "batch_size must be at least 1"),
        (FedMF, {"local_epochs": 0}, "local_epochs must be at least 1"),
        (FedAvg, {"negatives": 0}, "negatives must be at least 1"),
    ],
)
def test_absurd_values_are_refused(settings, fields, message):
    with pytest.raises(ValueError, match=message):
        settings(**fields)


def test_a_sample_of_users_is_evaluated_as_among_all():
    def targets_of(**fields):
        return load_prepared(change(EXPERIMENT, **fields), None, False).targets

    every, sampled = targets_of(), targets_of(protocol=Protocol(max_users=13))
    for part in ("val", "test"):
        targets, few = every[part], sampled[part]
        users = few.user.tolist()
        assert len(users) == 13
        assert users == sorted(set(users))
        at = np.searchsorted(np.asarray(targets.user), users)
        same(targets.positives[at], few.positives)
        same(targets.exclude_size[at], few.exclude_size)
    # Another seed draws others; the same one the same, whatever the training seed.
    other = targets_of(protocol=Protocol(max_users=13, candidate_seed=1))
    again = targets_of(protocol=Protocol(max_users=13), seed=9)
    users = [x["test"].user.tolist() for x in (sampled, other, again)]
    assert users[1] != users[0]
    assert users[2] == users[0]
