"""One device, eight of them, the host's memory and its disk: the same numbers."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from fedjax_rec.simulation import mesh as meshes

CHILD = pathlib.Path(__file__).with_name("eight_devices.py")
LAWS = pathlib.Path(__file__).parents[1] / "test_laws.py"


def load(path):
    spec = importlib.util.spec_from_file_location(f"mesh_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SYSTEMS = load(CHILD.with_name("mesh_systems.py"))
FEW, RULES = (*SYSTEMS.FEW, *SYSTEMS.FEW_RULES), SYSTEMS.RULES


@functools.cache
def told(which):
    """What eight devices found, of a `few` systems, of `all`, or of other `rules`."""
    root = str(CHILD.parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, str(CHILD), which], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FEW)
def test_eight_devices_are_one_and_join_once(name):
    expect_one(name, told("few")["systems"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in load(LAWS).CONFIGS if n not in FEW])
def test_eight_devices_are_one_for_every_system(name):
    expect_one(name, told("all")["systems"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RULES if name not in FEW])
def test_eight_devices_are_one_for_every_robust_rule_and_codec(name):
    expect_one(name, told("rules")["systems"][name])


def expect_one(name, found):
    assert found["moved"] > 0.005
    assert found["resident"] < 1e-5
    assert all(found[k] < 1e-6 for k in found if k.startswith("hosted"))
    if "lifted" not in name:
        assert found["collectives"] == {"all-reduce": 1}
    else:  # what computes all items' vectors is shared, too, and joined beside
        assert found["collectives"].pop("all-reduce") == 2
        assert found["collectives"] in ({}, {"all-gather": 1, "reduce-scatter": 1})


@pytest.mark.parametrize(
    ("which", "places", "hosts"),
    [("few", 7, 3), pytest.param("all", 11, 5, marks=pytest.mark.slow)],
)
def test_whole_experiments_give_the_same_wherever_they_run(which, places, hosts):
    found = dict(told(which)["experiments"])
    shards = found.pop("rows of a table's shard"), found.pop("largest weight's shard")
    assert shards == (40, 0.5)  # of 80, of 1
    assert len(found) == places
    assert max(found.values()) < 1e-5, found
    on_host = [v for k, v in found.items() if k.endswith((" host", " disk"))]
    assert len(on_host) == hosts
    assert max(on_host) < 1e-6


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
