"""Settings that bring their own aggregation, beside those that would replace it."""

import pytest

from fedjax_rec import Experiment, FedAvg, SyntheticData
from fedjax_rec.experiment.aggregation import AggregationConfig
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.codec import CodecConfig

DATA = SyntheticData(num_users=20, num_items=30, num_interactions=200)


@pytest.mark.parametrize(
    ("fields", "other", "message"),
    [
        (
            {"clusters": 2},
            {"aggregation": AggregationConfig(rule="median")},
            "algorithm.clusters=2",
        ),
        (
            {"model": "ncf", "control": "scaffold"},
            {"aggregation": AggregationConfig(rule="uniform")},
            "algorithm.control='scaffold'",
        ),
        ({"clusters": 2}, {"codec": CodecConfig(name="top_k")}, "codecs know one"),
    ],
)
def test_what_would_take_its_place_is_refused(fields, other, message):
    algorithm = FedAvg(dim=4, **fields)
    with pytest.raises(ValueError, match=message):
        build(Experiment(name="x", data=DATA, algorithm=algorithm, **other))
