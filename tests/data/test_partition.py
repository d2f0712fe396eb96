import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.data import partition
from fedjax_rec.data.describe import describe
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.partition.assign import (
    assign_dirichlet,
    assign_drift,
    assign_power_law,
    assign_shards,
    assign_uniform,
)
from fedjax_rec.data.partition.labels import labels_of_units
from fedjax_rec.data.partition.units import Units
from fedjax_rec.data.synthetic import synthetic

KEY = jax.random.split(jax.random.key(0))[0]
CLIENTS = 7
# Some users have no training interactions, as after holding users out.
WHOLE = synthetic(1, num_users=60, num_items=80, num_interactions=1200)
TRAIN = WHOLE.take(WHOLE.user % 5 != 0)
LABELS = partition.labels_of(TRAIN, "genre")

SEEDED: dict[str, Any] = {
    "iid": partition.IID,
    "dirichlet": functools.partial(partition.Dirichlet, label="genre", alpha=0.3),
    "quantity_skew": partition.QuantitySkew,
    "shards": functools.partial(partition.Shards, label="genre"),
    "drift": partition.Drift,
}
CASES = {
    f"{name}-{unit}": functools.partial(settings, num_clients=CLIENTS, unit=unit)
    for name, settings in SEEDED.items()
    for unit in ("user", "interaction")
}
FIXED = {"per_user": partition.PerUser, "by_attribute": partition.ByAttribute}


@functools.cache
def made(name: str, again: int = 0, **seed: int) -> partition.Partition:
    return (CASES | FIXED)[name](**seed).partition(TRAIN)


def test_every_partition_is_tested():
    settings = {*partition.__all__} - {"Partition", "Unit", "labels_of"}
    assert len(settings) == len(SEEDED) + len(FIXED)


@pytest.mark.parametrize("name", [*CASES, *FIXED])
def test_every_interaction_goes_to_one_valid_client(name):
    result = made(name)
    assert result.client.shape == (len(TRAIN),)
    assert result.client.dtype == np.int32
    assert result.client.min() >= 0
    assert result.client.max() < result.num_clients
    if name in CASES:
        assert result.num_clients == CLIENTS


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides(name):
    assert np.array_equal(made(name).client, made(name, again=1).client)
    assert not np.array_equal(made(name).client, made(name, seed=1).client)


@pytest.mark.parametrize("name", CASES)
def test_the_precision_does_not_decide(name):
    with jax.enable_x64(True):
        wide = CASES[name]().partition(TRAIN)
    assert np.array_equal(made(name).client, wide.client)


@pytest.mark.parametrize("name", [*CASES, *FIXED])
def test_whole_users_move_if_asked(name):
    clients_per_user = describe(TRAIN, made(name)).clients_per_user
    assert clients_per_user > 1 if "interaction" in name else clients_per_user == 1


@pytest.mark.parametrize("name", [n for n in CASES if "drift" not in n])
def test_no_client_is_empty(name):
    assert len(np.unique(made(name).client)) == CLIENTS


# As many units as there are users with data: the cases above compiled these shapes.
UNITS = len(np.unique(TRAIN.user))
INTEGERS = jnp.asarray(LABELS[:UNITS])
TIME = jnp.linspace(0, 1, UNITS)
SIZES = {"num_units": UNITS, "num_clients": CLIENTS}
LABELLED = {"num_labels": int(LABELS.max()) + 1, "num_clients": CLIENTS}
CORES = {
    "uniform": (assign_uniform, (), SIZES),
    "power_law": (assign_power_law, (1.0,), SIZES),
    "shards": (
        assign_shards,
        (INTEGERS,),
        {"num_clients": CLIENTS, "shards_per_client": 2},
    ),
    "dirichlet": (assign_dirichlet, (INTEGERS, 0.3), LABELLED),
    "drift": (assign_drift, (INTEGERS, TIME, 0.3, 1.0), LABELLED),
}


@pytest.mark.parametrize("name", CORES)
def test_jit_equals_eager(name):
    assign, arrays, sizes = CORES[name]
    compiled = assign(KEY, *arrays, **sizes)
    eager = assign.__wrapped__(KEY, *arrays, **sizes)
    assert eager.dtype == compiled.dtype == jnp.int32
    assert np.array_equal(eager, compiled)


@pytest.mark.parametrize("name", ["uniform", "dirichlet"])
def test_sizes_differ_by_at_most_one(name):
    assign, arrays, options = CORES[name]
    sizes = np.bincount(assign(KEY, *arrays, **options), minlength=CLIENTS)
    assert sizes.max() - sizes.min() <= 1


def test_iid_ignores_labels():
    """The p-values of independence are uniform over keys."""
    labels = np.random.default_rng(0).integers(0, 3, 600)
    assign = functools.partial(assign_uniform, num_units=600, num_clients=4)
    values = []
    for key in jax.random.split(KEY, 60):
        table = np.zeros((4, 3))
        np.add.at(table, (np.asarray(assign(key)), labels), 1)
        values.append(stats.chi2_contingency(table)[1])
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def shares(client, labels: np.ndarray, num_clients: int) -> np.ndarray:
    table = np.zeros((num_clients, labels.max() + 1))
    np.add.at(table, (np.asarray(client), labels), 1)
    return table / table.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def dirichlet_shares():
    """Label shares of 200 clients of 250 units each, by alpha."""
    labels = np.repeat([0, 0, 1, 2], 12_500)
    assign = functools.partial(assign_dirichlet, num_labels=3, num_clients=200)
    return lambda alpha: shares(assign(KEY, jnp.asarray(labels), alpha), labels, 200)


def test_dirichlet_has_the_moments_of_its_law(dirichlet_shares):
    alpha, prior = 2.0, np.array([0.5, 0.25, 0.25])
    held = dirichlet_shares(alpha)
    np.testing.assert_allclose(held.mean(0), prior, atol=1e-6)
    # Dirichlet variance, and what 250 draws add to it.
    variance = prior * (1 - prior) / (alpha + 1)
    expected = variance + (prior * (1 - prior) - variance) / 250
    np.testing.assert_allclose(held.var(0), expected, rtol=0.2)
    marginal = stats.beta(alpha * prior[0], alpha * (1 - prior[0]))
    assert stats.kstest(held[:, 0], marginal.cdf).pvalue > 1e-3


def test_dirichlet_limits(dirichlet_shares):
    alike = dirichlet_shares(1e5)
    # Draws of 250 from the prior, whose standard deviation is .032.
    assert np.abs(alike - [0.5, 0.25, 0.25]).max() < 0.15
    apart = dirichlet_shares(1e-3)
    assert np.mean(apart.max(1) > 0.9) > 0.9


def test_dirichlet_skews_users_too():
    by_alpha = [
        describe(
            TRAIN,
            partition.Dirichlet(num_clients=CLIENTS, alpha=alpha).partition(TRAIN),
            LABELS,
        ).divergence_mean
        for alpha in (0.05, 100.0)
    ]
    assert by_alpha[0] > 1.5 * by_alpha[1]


def test_quantity_follows_the_power_law():
    sizes = np.bincount(
        assign_power_law(KEY, 1.5, num_units=1_000_000, num_clients=100)
    )
    assert (np.diff(sizes) <= 0).all()
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(sizes), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.01)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 30.0])
def test_quantity_loses_nobody(exponent):
    client = assign_power_law(KEY, exponent, num_units=103, num_clients=10)
    sizes = np.bincount(client, minlength=10)
    assert sizes.sum() == 103
    assert sizes.min() >= 1
    if exponent == 0:
        assert set(sizes) <= {10, 11}
    if exponent == 30:
        assert sizes[0] == 94


def test_shards_hold_few_labels():
    # 10 labels of 40 units; 20 shards of 20 never straddle two labels.
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 40))
    assign = functools.partial(assign_shards, num_clients=10, shards_per_client=2)
    client = np.asarray(assign(KEY, jnp.asarray(labels)))
    table = np.zeros((10, 10), int)
    np.add.at(table, (client, labels), 1)
    assert set(table.ravel()) <= {0, 20, 40}
    assert (table.sum(1) == 40).all()


def test_shards_of_unequal_sizes_differ_by_one():
    labels = jnp.zeros(107, jnp.int32)
    client = assign_shards(KEY, labels, num_clients=10, shards_per_client=1)
    assert sorted(np.bincount(client)) == [10] * 3 + [11] * 7


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_drift_moves_mixtures(strength):
    n, clients = 60_000, 20
    labels = np.random.default_rng(0).integers(0, 4, n)
    client = np.asarray(
        assign_drift(
            KEY,
            jnp.asarray(labels),
            jnp.linspace(0, 1, n),
            0.5,
            strength,
            num_labels=4,
            num_clients=clients,
        )
    )
    thirds = [
        np.histogram2d(client[part], labels[part], [range(clients + 1), range(5)])[0]
        for part in (slice(0, n // 3), slice(2 * n // 3, n))
    ]
    table = np.stack([third.ravel() for third in thirds])
    table = table[:, table.sum(0) >= 10]
    test: Any = stats.chi2_contingency(table)
    assert test.pvalue < 1e-6 if strength else test.pvalue > 1e-3


def test_drift_survives_hopeless_concentrations():
    client = assign_drift(KEY, INTEGERS, TIME, 1e-6, 1.0, **LABELLED)
    assert client.min() >= 0
    assert client.max() < CLIENTS
    # The largest that the settings accept: equal mixtures, so about equal clients.
    client = assign_drift(KEY, INTEGERS, TIME, 3.4e38, 1.0, **LABELLED)
    assert (np.bincount(client, minlength=CLIENTS) > 0).all()


def test_per_user_keeps_empty_users():
    result = made("per_user")
    assert result.num_clients == TRAIN.num_users
    assert np.array_equal(result.client, TRAIN.user)
    assert result.user_of_client is not None
    assert np.array_equal(result.user_of_client, np.arange(TRAIN.num_users))


def test_by_attribute_separates_its_values():
    regions = np.array(TRAIN.users.attributes["region"])[TRAIN.user]
    values = np.unique(regions)
    result = made("by_attribute")
    assert np.array_equal(values[result.client], regions)
    assert result.num_clients == len(values)


def test_single_users_are_told():
    active = np.unique(TRAIN.user)
    result = partition.IID(num_clients=len(active)).partition(TRAIN)
    assert result.user_of_client is not None
    assert np.array_equal(result.user_of_client[result.client], TRAIN.user)
    assert all(made(name).user_of_client is None for name in CASES)


def toy(genres: list[str], ratings: list[float]) -> Interactions:
    item = np.arange(len(genres))
    return make_interactions(
        user=np.zeros(len(genres), int),
        item=item,
        rating=np.array(ratings),
        users=Entities(ids=["u"], attributes={"region": ["North"]}),
        items=Entities(ids=[str(i) for i in item], attributes={"genres": genres}),
    )


def test_labels():
    train = toy(["War|Comedy", "Comedy", "Drama|War", "War"], [5, 3, 5, 1])
    assert partition.labels_of(train, "genres").tolist() == [2, 0, 1, 2]
    assert partition.labels_of(train).tolist() == [2, 0, 1, 2]
    assert partition.labels_of(train, "rating").tolist() == [2, 1, 2, 0]
    assert partition.labels_of(train, "region").tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="genres, rating, region"):
        partition.labels_of(train, "era")


def test_a_users_label_is_the_most_frequent_one():
    index = np.array([0, 0, 0, 1, 1, 2])
    users = Units(KEY, index, 3, np.array([4, 5, 9]))
    labels = np.array([1, 2, 2, 3, 0, 3])
    assert labels_of_units(labels, users).tolist() == [2, 0, 3]


@pytest.mark.parametrize("name", ["Dirichlet", "Shards", "Drift"])
def test_labels_can_be_given_as_an_array(name):
    settings = getattr(partition, name)(num_clients=CLIENTS)
    by_name = settings.partition(TRAIN).client
    assert np.array_equal(settings.partition(TRAIN, LABELS).client, by_name)
    assert not np.array_equal(settings.partition(TRAIN, LABELS % 2).client, by_name)


THREE = partition.Dirichlet(num_clients=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: partition.IID(num_clients=49).partition(TRAIN), "1 to 48, the users"),
        (lambda: partition.IID(num_clients=0), "num_clients=0"),
        (
            lambda: partition.IID(unit="item"),  # pyright: ignore
            "user or interaction",
        ),
        (lambda: partition.Dirichlet(alpha=0), "alpha=0"),
        (lambda: THREE.partition(TRAIN, LABELS[1:]), "see labels_of"),
        (lambda: THREE.partition(TRAIN, LABELS - 1), "expected 0"),
        (lambda: THREE.partition(TRAIN, 0 * LABELS), "have one label, so that Dirichl"),
        (
            lambda: partition.Shards(num_clients=20, shards_per_client=3).partition(
                TRAIN
            ),
            "expected 1 to 2",
        ),
        (lambda: partition.Shards(shards_per_client=0), "shards_per_client=0"),
        (lambda: partition.QuantitySkew(exponent=-1), "exponent=-1"),
        (lambda: partition.Drift(strength=2), "strength=2"),
        (lambda: partition.Drift(alpha=0), "alpha=0"),
        (lambda: partition.Drift(alpha=1e39), r"at most 3\.40282e\+38"),
        (
            lambda: partition.ByAttribute(attribute="zip").partition(TRAIN),
            "age_group, region",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
