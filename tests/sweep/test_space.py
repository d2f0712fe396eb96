"""Grids and samples as they are written, and what is refused."""

import numpy as np
import pytest

from fedjax_rec import Experiment, FedAdam, FedAvg, SyntheticData
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep.space import (
    check_fields,
    grid_settings,
    parse_grid,
    parse_sample,
    read_bytes,
    sampled_settings,
)

BASE = Experiment(
    name="base",
    data=SyntheticData(),
    algorithm=FedAvg(server_optimizer=FedAdam()),
)
RATE = "algorithm.client_optimizer.lr"


@pytest.mark.parametrize(
    ("text", "field", "values", "geometric"),
    [
        ("algorithm.client-optimizer.lr=0.01,0.03,0.1", RATE, (0.01, 0.03, 0.1), True),
        (f"{RATE}=1,2,3", RATE, (1.0, 2.0, 3.0), False),
        ("seed=0:5", "seed", (0, 1, 2, 3, 4), False),
        ("seed=10:20:5", "seed", (10, 15), False),
        ("rounds=5", "rounds", (5,), False),
        (f"{RATE}=log:1e-3:1:4", RATE, (0.001, 0.01, 0.1, 1.0), True),
        ("algorithm.model.dim=log:8:32:3", "algorithm.model.dim", (8, 16, 32), True),
        ("algorithm.server-optimizer.momentum=linear:0:0.9:4",
         "algorithm.server_optimizer.momentum", (0.0, 0.3, 0.6, 0.9), False),
        ("algorithm.server-optimizer=sgd,fedadam", "algorithm.server_optimizer",
         ("sgd", "fedadam"), False),
        ("backbone.or-tiny=True,False", "backbone.or_tiny", (True, False), False),
        ("algorithm=FedAvg,fedncf", "algorithm", ("fedavg", "fedncf"), False),
    ],
)  # fmt: skip
def test_grids(text, field, values, geometric):
    axis = parse_grid([BASE], text)
    assert (axis.field, axis.values, axis.geometric) == (field, values, geometric)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm.proxmial=1", "The nearest: --algorithm.proximal"),
        ("proximal=1", "The nearest: --algorithm.proximal"),
        ("algorithm.client-lr=1", "is now --algorithm.client-optimizer.lr"),
        (
            "algorithm.adapter=lora",
            "a field of --algorithm fedfm; this algorithm is fedavg",
        ),
        (RATE, "expected FIELD=VALUES"),
        (f"{RATE}=", "expected FIELD=VALUES"),
        (f"{RATE}=fast", "expected a number"),
        (f"{RATE}=0:5", "log:LOW:HIGH:COUNT"),
        (f"{RATE}=log:1:0.1:3", "expected 0 < LOW < HIGH"),
        (f"{RATE}=log:0:1:3", "expected 0 < LOW < HIGH"),
        (f"{RATE}=log:1:2:1", "at least 2 values"),
        ("algorithm.model=log:1:2:2", "wants a field that is a number"),
        ("algorithm.model=mfc", "expected one of mf, ncf, scorer. Did you mean mf?"),
        ("algorithm=FedAgv", "expected one of "),
        ("seed=1.5", "expected a whole number"),
        ("seed=5:0", "START:STOP"),
        ("seed=1,1", "a value occurs twice"),
        ("name=a,b", "there is no field --name"),
        ("protocol.cutoffs=5,10", "takes several values; expected a field of one"),
    ],
)
def test_grids_that_are_refused(text, expected):
    with pytest.raises(UserError) as refused:
        parse_grid([BASE], text)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{RATE}=0.1", "log:LOW:HIGH; uniform:LOW:HIGH; choice:a,b,c"),
        (f"{RATE}=log:0:1", "expected 0 < LOW < HIGH"),
        (f"{RATE}=uniform:2:1", "expected LOW < HIGH"),
        ("algorithm.model=choice:mf,nfc", "Did you mean ncf?"),
    ],
)
def test_samples_that_are_refused(text, expected):
    with pytest.raises(UserError) as refused:
        parse_sample([BASE], text)
    assert expected in str(refused.value)


def test_samples_follow_their_distribution():
    draws = [
        parse_sample([BASE], f"{RATE}=log:1e-3:10"),
        parse_sample([BASE], "algorithm.server-optimizer.momentum=uniform:0.2:0.8"),
        parse_sample([BASE], "algorithm.model.dim=uniform:2:4"),
        parse_sample([BASE], "algorithm.model=choice:mf,ncf"),
    ]
    settings = sampled_settings(draws, 2000, seed=1)
    rate, momentum, dim, model = (
        np.array([s[d.field] for s in settings]) for d in draws
    )
    # Kolmogorov-Smirnov: 1.63 / sqrt(2000) is passed by one true law in 100.
    for values in ((np.log10(rate) + 3) / 4, (momentum - 0.2) / 0.6):
        ranks = (np.arange(2000) + 0.5) / 2000
        assert np.abs(np.sort(values) - ranks).max() < 1.63 / 2000**0.5
    assert set(dim) == {2, 3, 4}
    assert abs((dim == 3).mean() - 1 / 3) < 4 * (2 / 9 / 2000) ** 0.5
    assert abs((model == "mf").mean() - 1 / 2) < 4 * (1 / 4 / 2000) ** 0.5
    # More samples keep the first ones: a sweep can be extended.
    assert sampled_settings(draws, 5, seed=1) == settings[:5]
    assert sampled_settings(draws, 5, seed=2) != settings[:5]


def test_settings_are_a_product_and_a_field_is_swept_once():
    axes = [
        parse_grid([BASE], f"{RATE}=1,2"),
        parse_grid([BASE], "seed=0:2"),
    ]
    pairs = [(setting[RATE], setting["seed"]) for setting in grid_settings(axes)]
    assert pairs == [(1, 0), (1, 1), (2, 0), (2, 1)]
    with pytest.raises(UserError, match="seed is swept twice"):
        check_fields([*axes, axes[1]], [])


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 * 2**20), ("4 GiB", 2**32), ("1.5k", 1536)]
)
def test_sizes_of_memory(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["lots", "1.2.3", "0", "-1G", ""])
def test_sizes_of_memory_that_are_refused(text):
    with pytest.raises(UserError, match="expected bytes such as 500M or 4G"):
        read_bytes(text)
