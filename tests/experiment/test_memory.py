"""Runs that cannot fit are refused before anything is compiled."""

import contextlib
import types
from typing import Any

import jax
import pytest

from fedjax_rec import Experiment, GeometricMedian, PFedRec, SyntheticData, TopK
from fedjax_rec.aggregators.robust.ballots import ballot_bytes
from fedjax_rec.experiment import memory
from fedjax_rec.experiment.build import make_context, make_recipe
from fedjax_rec.experiment.prepared import prepare

N, ITEMS, DIM = 12, 20, 4


@pytest.fixture(scope="module")
def made():
    experiment = Experiment(
        name="x",
        data=SyntheticData(num_users=N, num_items=ITEMS, num_interactions=120),
        algorithm=PFedRec(dim=DIM),
        aggregation=GeometricMedian(voting="voters"),
        codec=TopK(),
    )
    prepared = prepare(experiment, experiment.data.load())
    return make_recipe(experiment, make_context(experiment, prepared)), prepared.clients


def sizes(parts):
    return [need.size for need in parts]


def test_needs_by_hand(made):
    recipe, clients = made
    devices, host = memory.needs(recipe, clients, 7, "device")
    shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    assert devices[0].size == ballot_bytes(shared, 7, "voters")
    assert devices[1].size == N * ITEMS * DIM * 4  # a residual for each number
    assert host == []
    on_host = memory.needs(recipe, clients, 7, "host")
    assert (sizes(on_host[0]), sizes(on_host[1])) == (
        sizes(devices[:1]),
        sizes(devices[1:]),
    )
    assert sizes(memory.needs(recipe, clients, 7, "disk")[0]) == sizes(devices[:1])


def mesh(platform, limit, count=1) -> Any:
    device = types.SimpleNamespace(
        platform=platform, memory_stats=lambda: {"bytes_limit": limit}
    )
    return types.SimpleNamespace(local_devices=[device] * count, size=count)


@pytest.mark.parametrize(
    ("location", "host", "device", "words"),
    [
        ("device", 10**9, 10**9, None),
        ("device", 10**9, 3000, "a device has .* the codec's memories of 12 clients"),
        ("disk", 0, 2000, "a cohort of 7 clients .use a smaller cohort"),
        ("disk", 0, 10**9, None),
        ("host", 100, 10**9, "this machine has .*use store.location='disk'"),
    ],
)
def test_what_exceeds_a_limit_is_refused(
    made, location, host, device, words, monkeypatch
):
    monkeypatch.setattr(memory, "host_bytes", lambda: host)
    refused = pytest.raises(ValueError, match=f"needs at least .*{words}")
    with contextlib.nullcontext() if words is None else refused:
        memory.check_memory(*made, 7, location, mesh("gpu", device))  # pyright: ignore


def test_devices_of_a_cpu_share_its_memory(made, monkeypatch):
    recipe, clients = made
    parts = sizes(memory.needs(recipe, clients, 7, "device")[0])
    need = 3 * parts[0] + sum(parts[1:])
    for limit, fits in ((need, True), (need - 1, False), (None, True)):
        monkeypatch.setattr(memory, "host_bytes", lambda limit=limit: limit)
        if fits:
            memory.check_memory(recipe, clients, 7, "device", mesh("cpu", None, 3))
        else:
            with pytest.raises(ValueError, match="this machine has"):
                memory.check_memory(recipe, clients, 7, "device", mesh("cpu", None, 3))
