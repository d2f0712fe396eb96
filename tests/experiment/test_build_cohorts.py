"""Cohorts in experiments: the clients that train, their costs, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    AllClients,
    Available,
    Execution,
    Experiment,
    FedAvg,
    FedMF,
    FleetConfig,
    MatrixFactorization,
    StoreConfig,
    SyntheticData,
    Uniform,
    Weighted,
    build,
)
from fedjax_rec.core import keys
from fedjax_rec.experiment.build import check
from fedjax_rec.fleet import costs as costs_of
from fedjax_rec.fleet.devices import PHONES
from fedjax_rec.fleet.totals import summarise_costs
from fedjax_rec.report.words import costs_in_words

BUSY = tuple(
    dataclasses.replace(phone, peak=0.9, trough=0.6, dropout=0.4) for phone in PHONES
)
EXPERIMENT = Experiment(
    name="small",
    data=SyntheticData(num_users=60, num_items=80, num_interactions=1500),
    # The paper's FedMF draws nothing: the quickest to compile.
    algorithm=FedMF(dim=2, feedback="explicit", client_lr=0.01),
    cohort=Available(size=12, rounds_per_day=4),
    fleet=FleetConfig(devices=BUSY),
    execution=Execution(max_buckets=1),
    rounds=6,
    eval_every=6,
    seed=5,
)


def with_cohort(cohort=EXPERIMENT.cohort, devices=BUSY):
    fleet = FleetConfig(devices=devices)
    return dataclasses.replace(EXPERIMENT, cohort=cohort, fleet=fleet)


def cohorts(simulation, rounds):
    @jax.jit
    def draw(number):
        key = keys.derive(simulation.key, keys.Purpose.COHORT, number)
        return simulation.sampler(key, number)

    return [draw(jnp.int32(number)) for number in range(rounds)]


@pytest.fixture(scope="module")
def ran():
    traces, plain = [], costs_of.round_costs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            costs_of, "round_costs", lambda *a: (traces.append(1), plain(*a))[1]
        )
        simulation = build(EXPERIMENT)
        before = np.asarray(simulation.personal["user"])
        metrics = simulation.advance(4)
        once = len(traces)
        more = simulation.advance(2)
    # Other hours and other numbers of clients are no other program.
    assert len(traces) == once > 0
    metrics = {name: np.append(x, more[name]) for name, x in metrics.items()}
    return simulation, before, metrics


def test_dropouts_keep_their_state_and_send_nothing(ran):
    simulation, before, metrics = ran
    drawn = cohorts(simulation, 6)
    came = [set(np.asarray(d.ids).tolist()) - {60} for d in drawn]
    began = [set(np.asarray(d.invited).tolist()) - {60} for d in drawn]
    assert all(c < b for c, b in zip(came, began, strict=True))
    moved = (np.asarray(simulation.personal["user"]) != before).any(1)
    assert set(np.flatnonzero(moved)) == set().union(*came)
    assert set().union(*began) - set().union(*came)  # some work was lost
    assert metrics["clients"].tolist() == [len(c) for c in came]
    assert metrics["arrived"].tolist() == [len(c) for c in came]
    assert metrics["invited"].tolist() == [len(b) for b in began]
    # Every rating's row once: 2 float32 and an id, for each example.
    size = np.bincount(simulation.split.train.user, minlength=60)
    up = [12 * size[list(c)].sum() for c in came]
    down = [12 * size[list(b)].sum() for b in began]
    assert metrics["up_bytes"] == pytest.approx(up)
    assert metrics["down_bytes"] == pytest.approx(down)
    # The slowest that arrived: it receives, trains, sends.
    fleet = simulation.sampler.tables[1]
    kinds, _ = fleet.devices(np.arange(60, dtype=np.int32))
    for c, seconds in zip(came, metrics["simulated_seconds"], strict=True):
        slowest = 0.0
        for client in c:
            phone = BUSY[int(kinds[client])]
            sent = 12 * size[client] * 8e-6
            slowest = max(
                slowest,
                sent / phone.download_mbps
                + size[client] / phone.pairs_per_second
                + sent / phone.upload_mbps,
            )
        assert seconds == pytest.approx(slowest, rel=1e-5)


def test_a_population_on_the_host_brings_the_same_cohorts(ran):
    simulation, _, metrics = ran
    store = StoreConfig(location="host")
    hosted = build(dataclasses.replace(EXPERIMENT, store=store))
    result = hosted.advance(6)
    assert result.keys() == metrics.keys()
    for name in ("clients", "invited", "arrived", "examples", "down_bytes"):
        assert result[name].tolist() == metrics[name].tolist()
    for name in ("up_bytes", "simulated_seconds", "loss"):
        assert result[name] == pytest.approx(metrics[name], rel=1e-5)
    users = np.asarray(simulation.personal["user"])
    np.testing.assert_allclose(hosted.personal["user"], users, atol=1e-6)


def test_a_run_in_words(ran):
    simulation, _, metrics = ran
    history = [
        {"event": "round", **{k: float(x[i]) for k, x in metrics.items()}}
        for i in range(6)
    ]
    costs, devices = summarise_costs(history), simulation.notes["devices"]
    assert costs["up_bytes"] == pytest.approx(float(metrics["up_bytes"].sum()))
    assert devices["with_examples"] == 60
    assert sum(devices["classes"].values()) == 60
    text = costs_in_words(costs, devices)
    for part in ("A client receives", "dropped out or came too late", "6 rounds move"):
        assert part in text
    assert f"{devices['classes']['mid']} mid" in text
    assert "lack the memory" not in text
    assert "lack the memory" in costs_in_words(
        costs, {**devices, "short_of_memory": 7, "memory_mb_needed": 70.0}
    )
    assert any("expected to be available" in line for line in simulation.why)


def test_weighted_cohorts_run(ran):
    simulation = build(with_cohort(Weighted(size=12), PHONES))
    metrics = simulation.advance(3)
    assert metrics["clients"].tolist() == metrics["invited"].tolist() == [12, 12, 12]
    size = np.bincount(simulation.split.train.user, minlength=60)
    ids = [np.asarray(d.ids) for d in cohorts(simulation, 3)]
    assert metrics["examples"].tolist() == [size[i].sum() for i in ids]


def test_fewer_available_than_invited_is_said():
    simulation = build(with_cohort(Available(size=50, rounds_per_day=4), PHONES))
    assert any("some slots stay empty" in line for line in simulation.why)


def test_devices_without_the_memory_are_said_or_refused():
    small = tuple(dataclasses.replace(d, memory_mb=1e-4) for d in BUSY)
    with pytest.raises(ValueError, match="ever available: 0 of 60 clients"):
        build(with_cohort(devices=small))
    # The others train on them all the same, and the report says so.
    simulation = build(with_cohort(Uniform(size=12), small))
    assert simulation.notes["devices"]["short_of_memory"] == 60


def test_a_trace_that_cannot_be_read_is_refused_before_anything_is_loaded():
    cohort = Available(size=12, trace="/nowhere/x.csv")
    with pytest.raises(ValueError, match=r"/nowhere/x.csv: cannot be read"):
        check(with_cohort(cohort))


def test_more_than_there_are():
    with pytest.raises(ValueError, match="1 to 60 clients"):
        build(with_cohort(Available(size=61)))


def test_negatives_count_in_the_bytes():
    algorithm = FedAvg(model=MatrixFactorization(dim=4), negatives=1)
    simulation = build(
        dataclasses.replace(EXPERIMENT, algorithm=algorithm, cohort=AllClients())
    )
    fleet = simulation.sampler.tables[1]
    size = np.bincount(simulation.split.train.user, minlength=60)
    rows = size + (80 - size) * (1 - (1 - 1 / (80 - size)) ** size)
    assert fleet.up[0, fleet.cost_class] == pytest.approx(rows * 20, rel=1e-6)
    assert fleet.pairs[fleet.cost_class].tolist() == (2 * size).tolist()
