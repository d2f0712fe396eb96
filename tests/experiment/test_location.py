"""Where a population is kept: by memory, or as asked for."""

import errno
import types
from typing import Any

import jax
import numpy as np
import pytest

from fedjax_rec import Experiment, FedMF, StoreConfig, SyntheticData
from fedjax_rec.experiment.build import make_context
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.location import (
    choose_location,
    on_disk,
    population_bytes,
)
from fedjax_rec.experiment.prepared import prepare
from fedjax_rec.storage.errors import DiskFull

EXPERIMENT = Experiment(
    name="x",
    data=SyntheticData(num_users=12, num_items=20, num_interactions=120),
    algorithm=FedMF(dim=4),
)


@pytest.fixture(scope="module")
def built():
    prepared = prepare(EXPERIMENT, EXPERIMENT.data.load())
    recipe = make_recipe(EXPERIMENT, make_context(EXPERIMENT, prepared))
    return recipe, prepared.clients


def test_bytes_by_hand(built):
    recipe, clients = built
    arrays = sum(np.asarray(x).nbytes for x in jax.tree.leaves(clients))
    assert population_bytes(recipe, clients) == 12 * 4 * 4 + arrays


def mesh(stats, shares=1, parts=1) -> Any:
    """A mesh of devices with some memory."""
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    shape = {"clients": shares, "parts": parts}
    return types.SimpleNamespace(
        local_devices=[device], size=shares * parts, shape=shape
    )


@pytest.mark.parametrize("location", ["device", "host", "disk"])
def test_a_location_that_is_named_is_taken(built, location):
    recipe, clients = built
    config, small = StoreConfig(location=location), mesh({"bytes_limit": 1})
    assert choose_location(config, recipe, clients, small) == location


def test_the_device_if_less_than_half_of_its_memory_is_needed(built):
    recipe, clients = built
    size = population_bytes(recipe, clients)
    for stats, devices, expected in (
        ({"bytes_limit": 2 * size + 1}, 1, "device"),
        ({"bytes_limit": 2 * size}, 1, "host"),
        ({"bytes_limit": size + 2}, 2, "device"),  # each holds a half
        (None, 1, "device"),  # a CPU
        ({}, 1, "device"),
    ):
        several = mesh(stats, devices, parts=4)  # a group of devices is one share
        assert choose_location(StoreConfig(), recipe, clients, several) == expected


def test_arrays_become_memory_maps_in_a_folder_of_the_run(built, tmp_path):
    _, clients = built
    parent = tmp_path / "a" / "b"
    with on_disk(clients, str(parent)) as (mapped, root):
        assert root.parent == parent
        leaves = jax.tree.leaves(mapped)
        for new, old in zip(leaves, jax.tree.leaves(clients), strict=True):
            assert isinstance(new, np.memmap)
            np.testing.assert_array_equal(new, old)
        with on_disk(mapped, str(parent)) as (again, other):  # maps are kept
            assert other.parent == parent
            assert other != root
            assert list(other.iterdir()) == []
            assert all(map(lambda x, y: x is y, jax.tree.leaves(again), leaves))
    assert list(parent.iterdir()) == []
    with on_disk(clients, "") as (_, temporary):
        assert temporary.is_dir()
    assert not temporary.exists()


def test_a_full_disk_names_the_folder_and_leaves_nothing(built, tmp_path, monkeypatch):
    def full(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    message = "No space left on device.*Choose another store.folder"
    with pytest.raises(DiskFull, match=message), on_disk(built[1], str(tmp_path)):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
