"""Availability by hour, devices and dropouts, against the exact law."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fedjax_rec.fleet.availability import (
    availability,
    available,
    diurnal,
    make_presence,
    read_trace,
)
from fedjax_rec.fleet.cost_class import CostClasses
from fedjax_rec.fleet.costs import device_of, make_fleet, with_costs
from fedjax_rec.fleet.devices import PHONES, FleetConfig
from tests.fleet.programs import longest

OFTEN, SELDOM = (
    dataclasses.replace(PHONES[0], name=name, share=0.5, peak=p, trough=p, dropout=d)
    for name, p, d in (("often", 0.8, 0.5), ("seldom", 0.3, 0.0))
)
TWO = (OFTEN, SELDOM)


def make(n, devices=TWO, examples=None, rounds_per_day=1, memory=None, zones=1):
    """The fleet and presence of `n` clients, each in its own cost class."""
    examples = np.arange(1, n + 1) if examples is None else np.asarray(examples)
    classes = CostClasses(
        down=examples * 1e3,
        up=examples * 1e3,
        pairs=examples * 10.0,
        memory=np.zeros(n) if memory is None else np.asarray(memory),
    )
    config = FleetConfig(devices=devices, time_zones=zones)
    fleet = make_fleet(config, np.arange(n, dtype=np.int32), classes, examples)
    presence = jax.tree.map(jnp.asarray, make_presence(fleet, rounds_per_day))
    return fleet, presence


def kinds(fleet):
    return np.asarray(fleet.costs.devices(np.arange(len(fleet.examples)))[0])


def draws(sampler, count, number=0):
    keys = jax.random.split(jax.random.key(1), count)
    one = jax.jit(
        jax.vmap(lambda key: sampler.sample(sampler.tables, key, jnp.int32(number)))
    )
    return jax.tree.map(np.asarray, one(keys))


def inclusion(p, size):
    """Each client's chance to be invited: `p_i E[min(1, C / (1 + others there))]`."""
    chance = []
    for i in range(len(p)):
        law = np.ones(1)
        for j in range(len(p)):
            if j != i:
                law = np.convolve(law, [1 - p[j], p[j]])
        there = 1 + np.arange(len(law))
        chance.append(p[i] * (law * np.minimum(1, size / there)).sum())
    return np.array(chance)


@pytest.mark.parametrize(("n", "size"), [(8, 3), (400, 2)])
def test_invited_are_uniform_over_those_available(n, size):
    fleet, presence = make(n)
    sampler = available(presence, fleet.able, size)
    length = max(
        v.aval.shape[0]
        for e in jax.make_jaxpr(sampler.sample)(
            presence, jax.random.key(0), jnp.int32(0)
        ).eqns
        for v in e.outvars
        if v.aval.shape
    )
    assert (length < n) == (n == 400)  # drawn one by one, or put in order as a whole
    count = 20_000
    invited = draws(sampler, count).invited
    p = np.array([0.8, 0.3])[kinds(fleet)]
    expected = inclusion(p, size) * count
    came = np.bincount(invited[invited < n], minlength=n)
    # Variances of a fixed-size cohort's counts are at most binomial.
    square = ((came - expected) ** 2 / expected).sum()
    assert scipy.stats.chi2(n).sf(square) > 1e-3
    for row in invited[:300]:
        present = row[row < n]
        assert (np.diff(present) > 0).all()
        assert (row[len(present) :] == n).all()
    if n == 8:  # slots stay empty as often as fewer than 3 are there
        law = np.ones(1)
        for q in p:
            law = np.convolve(law, [1 - q, q])
        sizes = np.bincount((invited < n).sum(1), minlength=4)
        expected = np.array([*law[:3], law[3:].sum()]) * count
        keep = expected > 5
        square = ((sizes - expected)[keep] ** 2 / expected[keep]).sum()
        assert scipy.stats.chi2(keep.sum() - 1).sf(square) > 1e-3


def test_a_large_population_costs_what_its_cohort_costs():
    n = 200_000
    fleet, presence = make(n, devices=PHONES, rounds_per_day=96, zones=3)
    sampler = with_costs(available(presence, fleet.able, 100, 1.3), presence.costs)
    arguments = (sampler.tables, jax.random.key(0), jnp.int32(50))
    program = jax.make_jaxpr(sampler.sample)(*arguments)
    assert not [c for c in program.consts if np.size(c) > 20_000]
    assert longest(program.jaxpr) < 20_000
    drawn = sampler(jax.random.key(0), 50)
    assert (drawn.invited < n).sum() == 130  # nothing is short at the quietest hour
    assert (drawn.ids < n).sum() == 100


def test_dropouts_are_invited_and_do_not_arrive():
    fleet, presence = make(8)
    kind = kinds(fleet)
    drawn = draws(available(presence, fleet.able, 4), 5000)
    began = np.bincount(drawn.invited[drawn.invited < 8], minlength=8)
    ended = np.bincount(drawn.ids[drawn.ids < 8], minlength=8)
    for client in range(8):
        if kind[client] == 1:
            assert ended[client] == began[client]
        else:
            law = scipy.stats.binomtest(int(ended[client]), int(began[client]), 0.5)
            assert law.pvalue > 1e-4
    for ids, invited in zip(drawn.ids[:200], drawn.invited[:200], strict=True):
        assert set(ids.tolist()) <= {*invited.tolist(), 8}
        assert (np.diff(ids) >= 0).all()


def test_of_more_invited_the_first_to_arrive_count():
    often = dataclasses.replace(OFTEN, share=1.0, peak=1.0)
    fleet, presence = make(12, devices=(often,))
    sampler = available(presence, fleet.able, 3, over_selection=2.0)
    drawn = draws(sampler, 500)
    assert drawn.invited.shape[1] == 6
    assert drawn.ids.shape[1] == 3
    # One class, so a client's seconds grow with its id: dropouts aside, the smallest.
    full = drawn.ids[:, 2] < 12
    assert 0.1 < full.mean() < 1
    beaten = 0
    for ids, invited in zip(drawn.ids[full], drawn.invited[full], strict=True):
        assert set(ids) <= set(invited)
        beaten += (invited < 12).sum() > 3 and ids[2] < invited.max()
    arrived = [len(set(ids) - {12}) for ids in drawn.ids]
    law: Any = scipy.stats.binom(6, 0.5)
    expected = np.array([*law.pmf([0, 1, 2]), law.sf(2)]) * 500
    invited_all = (drawn.invited < 12).all(1)
    assert invited_all.mean() > 0.9
    observed = np.bincount(arrived, minlength=4)
    assert ((observed - expected) ** 2 / expected).sum() < 40
    assert beaten > 0


def test_over_selection_keeps_the_fastest_of_all_without_dropouts():
    sure = dataclasses.replace(OFTEN, share=1.0, peak=1.0, trough=1.0, dropout=0.0)
    fleet, presence = make(12, devices=(sure,))
    drawn = draws(available(presence, fleet.able, 3, over_selection=1.5), 100)
    assert drawn.invited.shape[1] == 5  # 4.5, rounded up
    assert (drawn.ids == drawn.invited[:, :3]).all()
    everyone = available(presence, fleet.able, 10, over_selection=9.0)
    assert draws(everyone, 1).invited[0].tolist() == list(range(12))


def test_clients_without_memory_or_examples_never_come():
    n = 30
    memory = np.where(np.arange(n) % 2, 65e6, 1.0)  # the devices have 64 MB
    fleet, presence = make(n, examples=[0, *range(1, n)], memory=memory)
    drawn = draws(available(presence, fleet.able, 5), 2000).invited
    assert sorted(set(drawn.reshape(-1)) - {n}) == list(range(2, n, 2))
    assert fleet.able.sum() == 14
    assert fleet.clients.sum() == n


def test_the_expected_number_of_clients_comes():
    fleet, presence = make(300, devices=PHONES, rounds_per_day=8, zones=3)
    sampler = available(presence, fleet.able, 300)
    for number in (0, 5, 13):  # 13 is the sixth of the next day
        count = (draws(sampler, 300, number).invited < 300).sum(1)
        expected = presence.expected(fleet.able)[number % 8]
        assert abs(count.mean() - expected) < 4 * (expected / 300) ** 0.5


def test_availability_by_hand():
    phone = dataclasses.replace(PHONES[0], peak=0.5, trough=0.1, peak_hour=2.0)
    values = diurnal(phone, np.array([2, 14, 8, 20]))
    assert values.tolist() == pytest.approx([0.5, 0.1, 0.3, 0.3])
    chance = availability([phone], 48, 3)
    assert chance.shape == (1, 48, 3)
    assert chance[0, 4, 0] == pytest.approx(0.5)  # 2 o'clock
    assert chance[0, 0, 2] == pytest.approx(0.5)  # 2 o'clock in zone 2
    assert chance[0, 28, 0] == pytest.approx(0.1)
    trace = {"low": np.arange(24) / 100}
    chance = availability([phone], 48, 2, trace)[0]
    assert chance[:4, 0].tolist() == pytest.approx([0, 0.005, 0.01, 0.015])
    assert chance[47, 0] == pytest.approx(0.115)  # between 23 o'clock and midnight
    assert chance[:2, 1].tolist() == pytest.approx([0.01, 0.015])


def lines(skip=(), name="often", extra=()):
    text = ["device,hour,availability"]
    text += [f"{name},{h},0.5" for h in range(24) if h not in skip]
    return "\n".join([*text, *extra])


def test_a_trace_from_a_file(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(lines(skip=(3,), extra=["often,3,0.25"]))
    trace = read_trace(path, [OFTEN])
    assert trace.keys() == {"often"}
    assert trace["often"][[2, 3, 4]].tolist() == [0.5, 0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the header is missing, expected device,hour,availability"),
        ("a,b\n1,2", "the header is a,b"),
        (
            lines(name="new"),
            "line 2: unknown device class 'new', .* one of often",
        ),
        (lines(skip=(3, 20)), "often lacks hour 3, 20"),
        (lines(extra=["often,3,0.5"]), "line 26: hour 3 of often appears twice"),
        (lines(extra=["often,24,0.5"]), "hour from 0 to 23 .* got 24"),
        (lines(extra=["often,3,1.5"]), r"availability in \[0, 1\], got 3 and 1.5"),
        (lines(extra=["often,x,0.5"]), "line 26: expected an hour and an avail"),
        (lines(extra=["often,3"]), "line 26: expected an hour and an avail"),
    ],
)
def test_invalid_traces(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(path, [OFTEN])
    with pytest.raises(ValueError, match="cannot be read"):
        read_trace(tmp_path / "none.csv", [OFTEN])


def test_devices_come_by_their_shares_and_belong_to_clients():
    ends = jnp.asarray([2**32 * 0.3, 2**32 * 0.8], jnp.uint32)
    ids = jnp.arange(20_000)
    kind, zone = device_of(ids, ends, 4, 0)
    shares = np.bincount(kind) / 20_000
    assert shares == pytest.approx([0.3, 0.5, 0.2], abs=0.015)
    cells = np.bincount(np.asarray(kind) * 4 + np.asarray(zone), minlength=12)
    expected = np.repeat([0.3, 0.5, 0.2], 4) / 4 * 20_000
    assert scipy.stats.chisquare(cells, expected).pvalue > 1e-3  # and independent
    again = device_of(ids[77:80], ends, 4, 0)
    assert again[0].tolist() == kind[77:80].tolist()
    other = device_of(ids, ends, 4, 1)[0]
    assert (other != kind).mean() > 0.5
