"""One device, four of them, the host's memory and its disk: the same numbers."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from fedjax_rec.simulation import mesh as meshes
from tests.simulation.mesh_systems import FEW, MORE

CHILD = pathlib.Path(__file__).with_name("many_devices.py")


@functools.cache
def results(which):
    """Differences between places, for the systems of `few` or of `more`."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(CHILD), which],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FEW)
def test_results_are_the_same_wherever_clients_lie(name):
    expect_equal(name, results("few")[name])


def test_experiments_side_by_side_are_the_same_on_two_devices():
    one, two, difference = results("few")["side by side"]
    assert one == two == [0, 1, 2]
    assert difference < 1e-5


def test_moments_of_a_split_table_are_split_and_one_program_runs_all_rounds():
    assert results("few")["adam"] == {
        "moments": [0.5],
        "programs": 1,
        "personal": ["ndarray"],  # a snapshot, which no device has to hold
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_results_are_the_same_for_every_registered_part(name):
    expect_equal(name, results("more")[name])


def expect_equal(name, result):
    assert "error" not in result, result["error"]
    assert result["moved"] > 0.005
    for place, facts in result["places"].items():
        several = "four" in place
        assert facts["difference"] < (1e-5 if several else 1e-6), place
        if "collectives" not in facts:
            continue
        parts = facts["rows of a shard"], facts["largest part of a weight"]
        assert parts == (
            0.5 if "tables" in place else 1.0,
            0.5 if "backbone" in place else 1.0,
        )
        collectives = facts["collectives"]
        if place == "four" and "once" not in name:
            assert collectives == {"all-reduce": 1}
        elif "once" in name:  # the encoding of all items is shared, and joined, too
            assert collectives["all-reduce"] >= 2


def test_clients_are_dealt_evenly_in_every_bucket():
    buckets = np.random.default_rng(0).integers(0, 4, 103)
    groups = meshes.deal(buckets, 4)
    assert sorted(np.concatenate(groups).tolist()) == list(range(103))
    assert all((np.diff(group) > 0).all() for group in groups)
    for bucket in range(4):
        counts = [(buckets[group] == bucket).sum() for group in groups]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("devices", "parts", "message"),
    [
        (99, 1, r"mesh.devices=99, and there are \d+ cpu device"),
        (-1, 1, "mesh.devices=-1"),
        (1, 2, "2 devices a backbone or table do not divide 1 devices"),
    ],
)
def test_a_mesh_there_is_not(devices, parts, message):
    with pytest.raises(ValueError, match=message):
        meshes.make_mesh(devices, parts)
