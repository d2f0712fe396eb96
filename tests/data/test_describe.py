import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from fedjax_rec.data import partition
from fedjax_rec.data.describe import describe, gini, label_divergences, to_text
from fedjax_rec.data.synthetic import LIMITS
from tests.data.populations import TRAIN, toy


def test_numbers_by_hand():
    d = describe(toy(), partition.PerUser().partition(toy()))
    assert (d.users, d.items, d.interactions, d.clients) == (3, 10, 4, 3)
    assert d.density == 4 / 30
    assert d.empty_clients == 1
    assert d.users_per_client == d.clients_per_user == 1
    assert d.sizes.tolist() == [3, 0, 1]
    assert (d.size_quantiles["median"], d.size_quantiles["largest"]) == (1, 3)
    assert d.size_gini == pytest.approx(2 * 3 / (3 * 4))
    assert d.top_share == {1: 0.5, 10: 0.5, 20: 0.75}
    assert d.labels == 2
    assert np.isnan(d.divergences[1])
    assert d.limits == ()


def test_gini_equals_its_definition():
    sizes = np.random.default_rng(0).integers(0, 50, 40)
    pairwise = np.abs(sizes[:, None] - sizes).mean()
    assert gini(sizes) == pytest.approx(pairwise / (2 * sizes.mean()))


def test_divergence_equals_scipy():
    rng = np.random.default_rng(0)
    client, labels = rng.integers(0, 30, 500), rng.zipf(2, 500) % 12
    table = np.zeros((30, 12))
    np.add.at(table, (client, labels), 1)
    expected = [jensenshannon(row, table.sum(0), base=2) ** 2 for row in table]
    np.testing.assert_allclose(label_divergences(client, labels, 30), expected)


def test_chance_explains_clients_that_are_alike():
    mixed = partition.IID(num_clients=20, unit="interaction").partition(TRAIN)
    d = describe(TRAIN, mixed)
    assert d.divergence_mean == pytest.approx(d.divergence_by_chance, rel=0.25)
    alone = describe(TRAIN, partition.PerUser().partition(TRAIN))
    assert alone.divergence_mean > 2 * alone.divergence_by_chance


def test_text_says_it_all():
    text = to_text(describe(TRAIN, partition.ByAttribute().partition(TRAIN)))
    assert all(limit in text for limit in LIMITS)
    assert "by_attribute(region)" in text
    text = to_text(describe(toy(), partition.PerUser().partition(toy())))
    assert "bad_lines" in text
    assert "Synthetic" not in text


def test_a_partition_of_other_data_is_refused():
    with pytest.raises(ValueError, match="train part of the split"):
        describe(TRAIN, partition.PerUser().partition(toy()))
