"""The figure of how clients share the data."""

import sys

import numpy as np
import pytest

from fedjax_rec.data import partition
from fedjax_rec.data.describe import describe
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.report.population import plot

TRAIN = synthetic(1, num_users=60, num_items=200, num_interactions=1200)


def toy():
    return make_interactions(
        user=np.array([0, 0, 0, 2]),
        item=np.array([0, 1, 2, 0]),
        rating=np.array([1, 1, 2, 2]),
        users=Entities(ids=["a", "b", "c"]),
        items=Entities(ids=[str(i) for i in range(10)]),
        notes={"bad_lines": 3},
    )


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
