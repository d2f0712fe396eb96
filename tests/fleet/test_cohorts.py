"""Settings of cohorts and devices: ranges, slots, and the imports they cost."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from fedjax_rec.fleet.cohorts import AllClients, Available, Poisson, Uniform, Weighted
from fedjax_rec.fleet.cost_class import CostClasses
from fedjax_rec.fleet.costs import make_fleet
from fedjax_rec.fleet.devices import PHONES, FleetConfig

SIZED = (Uniform, Poisson, Weighted, Available)
LIGHT = ("fedjax_rec.fleet.cohorts", "fedjax_rec.fleet.devices")


def fleet(config, n=60):
    classes = CostClasses(*(np.ones(1) for _ in range(4)))
    return make_fleet(config, np.zeros(n, np.int32), classes, np.ones(n, np.int64))


def test_slots():
    assert AllClients().slots(60) == 60
    for cohort in (Uniform(size=7), Weighted(size=7), Available(size=7)):
        assert cohort.slots(60) == 7
    assert Poisson(size=7).slots(60) == 18  # 7 + 4 sqrt(7), rounded up
    assert Poisson(size=50).slots(60) == 60


@pytest.mark.parametrize("cohort", [AllClients(), *(kind(size=7) for kind in SIZED)])
def test_samplers_have_the_slots(cohort):
    cohort.check(FleetConfig())
    drawn = cohort.build(fleet(FleetConfig()))(jax.random.key(0), 0)
    assert drawn.ids.shape == (cohort.slots(60),)


def test_available_describes_its_hours():
    facts, sentences = Available(size=20).describe(fleet(FleetConfig()))
    assert 0 < facts["available_least"] < facts["available_most"] < 60
    assert "of 60 clients 60 can train" in sentences[0]
    assert "fewer than the 20 invited" in sentences[1]
    steady = tuple(dataclasses.replace(d, peak=0.9, trough=0.9) for d in PHONES)
    always = fleet(FleetConfig(devices=steady))
    assert len(Available(size=20).describe(always)[1]) == 1
    assert Uniform(size=20).describe(always) == ({}, ())


def test_devices_without_memory_are_refused():
    small = tuple(dataclasses.replace(d, memory_mb=1e-7) for d in PHONES)
    with pytest.raises(ValueError, match="ever available: 0 of 60 clients have"):
        Available(size=7).build(fleet(FleetConfig(devices=small)))


def test_a_trace_is_checked_against_the_devices(tmp_path):
    path = tmp_path / "trace.csv"
    cohort = Available(trace=str(path))
    with pytest.raises(ValueError, match=r"trace=.*trace\.csv: cannot be read"):
        cohort.check(FleetConfig())
    path.write_text("device,hour,availability\nwatch,0,1\n")
    with pytest.raises(ValueError, match="unknown device class 'watch'"):
        cohort.check(FleetConfig())


@pytest.mark.parametrize("kind", SIZED)
def test_a_size_of_zero_is_refused(kind):
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        kind(size=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds_per_day": 0}, "rounds_per_day must be at least 1, got 0"),
        ({"over_selection": 0.5}, "over_selection must be at least 1, got 0.5"),
        ({"over_selection": np.inf}, "over_selection must be at least 1, got inf"),
        ({"over_selection": np.nan}, "over_selection must be at least 1, got nan"),
    ],
)
def test_ranges_of_available(fields, message):
    with pytest.raises(ValueError, match=message):
        Available(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": -0.1}, r"device low: share must lie in \[0, 1\]"),
        ({"upload_mbps": 0}, "low: upload_mbps must be positive and finite, got 0"),
        ({"gflops": np.nan}, "low: gflops must be positive and finite"),
        ({"memory_mb": np.inf}, "low: memory_mb must be positive and finite"),
        ({"trough": 0.9}, "low: trough=0.9 is above peak=0.2"),
        ({"peak_hour": 24}, r"peak_hour must lie in \[0, 24\)"),
        ({"dropout": 1.1}, r"dropout must lie in \[0, 1\]"),
        ({"dropout": np.nan}, r"dropout must lie in \[0, 1\]"),
    ],
)
def test_ranges_of_a_device_class(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PHONES[0], **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"devices": ()}, "devices is empty"),
        ({"time_zones": 0}, r"time_zones must lie in \[1, 24\], got 0"),
        ({"time_zones": 25}, r"time_zones must lie in \[1, 24\], got 25"),
        ({"seed": -1}, r"seed must lie in \[0, 2\*\*32\), got -1"),
    ],
)
def test_ranges_of_a_fleet(fields, message):
    with pytest.raises(ValueError, match=message):
        FleetConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0.4}, "shares of low, mid, high add up to 1.1, expected 1"),
        ({"name": "mid"}, "names must differ, got mid, mid, high"),
    ],
)
def test_device_classes_that_do_not_go_together(fields, message):
    devices = (dataclasses.replace(PHONES[0], **fields), *PHONES[1:])
    with pytest.raises(ValueError, match=message):
        FleetConfig(devices=devices)


def test_settings_import_nothing_heavy():
    code = (
        f"import sys, {', '.join(LIGHT)}; "
        "fedjax_rec.fleet.cohorts.Available(); "
        "print([m for m in ('jax', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
