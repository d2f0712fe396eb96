"""Grids and samples as they are written, and what is refused."""

import numpy as np
import pytest
from fedjax_rec.sweep.fields import field_type, value_of, with_values

from fedjax_rec import Experiment, FedAvg, FedFM, SyntheticData
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep.space import (
    check_fields,
    grid_settings,
    parse_grid,
    parse_sample,
    sampled_settings,
)

BASE = Experiment(name="base", data=SyntheticData(), algorithm=FedAvg())


@pytest.mark.parametrize(
    ("text", "field", "values", "geometric"),
    [
        ("algorithm.client-lr=0.01,0.03,0.1", "algorithm.client_lr",
         (0.01, 0.03, 0.1), True),
        ("algorithm.client_lr=1,2,3", "algorithm.client_lr", (1.0, 2.0, 3.0), False),
        ("seed=0:5", "seed", (0, 1, 2, 3, 4), False),
        ("seed=10:20:5", "seed", (10, 15), False),
        ("rounds=5", "rounds", (5,), False),
        ("algorithm.client-lr=log:1e-3:1:4", "algorithm.client_lr",
         (0.001, 0.01, 0.1, 1.0), True),
        ("algorithm.dim=log:8:32:3", "algorithm.dim", (8, 16, 32), True),
        ("algorithm.server-momentum=linear:0:0.9:4", "algorithm.server_momentum",
         (0.0, 0.3, 0.6, 0.9), False),
        ("algorithm.server-optimizer=sgd,adam", "algorithm.server_optimizer",
         ("sgd", "adam"), False),
        ("backbone.or-tiny=True,False", "backbone.or_tiny", (True, False), False),
        ("algorithm=FedAvg,fedncf", "algorithm", ("FedAvg", "FedNCF"), False),
    ],
)  # fmt: skip
def test_grids(text, field, values, geometric):
    axis = parse_grid([BASE], text)
    assert (axis.field, axis.values, axis.geometric) == (field, values, geometric)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm.cleint-lr=1", "Did you mean algorithm.client-lr"),
        ("client-lr=1", "Did you mean algorithm.client-lr"),
        ("algorithm.adapter=lora", "the experiment (FedAvg) has no field"),
        ("algorithm.client-lr", "expected FIELD=VALUES"),
        ("algorithm.client-lr=", "expected FIELD=VALUES"),
        ("algorithm.client-lr=fast", "expected a number"),
        ("algorithm.client-lr=0:5", "log:LOW:HIGH:COUNT"),
        ("algorithm.client-lr=log:1:0.1:3", "expected 0 < LOW < HIGH"),
        ("algorithm.client-lr=log:0:1:3", "expected 0 < LOW < HIGH"),
        ("algorithm.client-lr=log:1:2:1", "at least 2 values"),
        ("algorithm.model=log:1:2:2", "wants a field that is a number"),
        ("algorithm.model=mfc", "expected one of mf, ncf, scorer. Did you mean mf?"),
        ("algorithm=FedAgv", "expected one of FedAvg"),
        ("seed=1.5", "expected a whole number"),
        ("seed=5:0", "START:STOP"),
        ("seed=1,1", "stands there twice"),
        ("name=a,b", "no field 'name'"),
        ("protocol.cutoffs=5,10", "is no single value"),
    ],
)
def test_grids_that_are_refused(text, expected):
    with pytest.raises(UserError) as told:
        parse_grid([BASE], text)
    assert expected in str(told.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm.client-lr=0.1", "log:LOW:HIGH; uniform:LOW:HIGH; choice:a,b,c"),
        ("algorithm.client-lr=log:0:1", "expected 0 < LOW < HIGH"),
        ("algorithm.client-lr=uniform:2:1", "expected LOW < HIGH"),
        ("algorithm.model=choice:mf,nfc", "Did you mean ncf?"),
    ],
)
def test_samples_that_are_refused(text, expected):
    with pytest.raises(UserError) as told:
        parse_sample([BASE], text)
    assert expected in str(told.value)


def test_samples_follow_their_distribution():
    draws = [
        parse_sample([BASE], "algorithm.client-lr=log:1e-3:10"),
        parse_sample([BASE], "algorithm.server-momentum=uniform:0.2:0.8"),
        parse_sample([BASE], "algorithm.dim=uniform:2:4"),
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
        parse_grid([BASE], "algorithm.client-lr=1,2"),
        parse_grid([BASE], "seed=0:2"),
    ]
    found = [(s["algorithm.client_lr"], s["seed"]) for s in grid_settings(axes)]
    assert found == [(1, 0), (1, 1), (2, 0), (2, 1)]
    with pytest.raises(UserError, match="seed is swept twice"):
        check_fields([*axes, axes[1]], [])


def test_values_are_put_in_and_checked():
    changed = with_values(BASE, {"algorithm.dim": 8, "seed": 3, "algorithm": "FedFM"})
    assert isinstance(changed.algorithm, FedFM)
    assert (changed.algorithm.dim, changed.seed) == (8, 3)
    assert with_values(BASE, {"algorithm": "FedAvg"}) == BASE
    for values, expected in (
        ({"algorithm.client_lr": -1.0}, "must be finite and not negative"),
        ({"algorithm.proximal": -1.0}, "algorithm.proximal=-1: proximal must not be"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"algorithm": "FedMF", "algorithm.proximal": 1.0}, "FedMF has no field"),
    ):
        with pytest.raises(UserError, match=expected):
            with_values(BASE, values)


def test_fields_are_read_back_from_a_config():
    assert field_type(BASE, "algorithm.client-lr") == ("algorithm.client_lr", float)
    config = {"seed": 3, "algorithm": {"type": "FedAvg", "client_lr": 0.5}}
    assert value_of(config, "seed") == 3
    assert value_of(config, "algorithm.client_lr") == 0.5
    assert value_of(config, "algorithm") == "FedAvg"
    assert value_of(config, "algorithm.rank") is None
