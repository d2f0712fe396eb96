"""The figure of how clients share the data."""

import sys

import pytest

from fedjax_rec.data import partition
from fedjax_rec.data.describe import describe
from fedjax_rec.report.population import plot
from tests.data.populations import TRAIN, toy


@pytest.mark.parametrize("make", ["toy", "by_attribute", "per_user"])
def test_plot_writes_an_image(make, tmp_path):
    train = toy() if make == "toy" else TRAIN
    result = (
        partition.ByAttribute().partition(train)
        if make == "by_attribute"
        else partition.PerUser().partition(train)
    )
    plot(describe(train, result), tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"fedjax-rec\[analysis\]"):
        plot(describe(toy(), partition.PerUser().partition(toy())), tmp_path / "it.png")
