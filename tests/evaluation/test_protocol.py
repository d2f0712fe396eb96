"""The protocol refuses fields that would leak or are out of range."""

import dataclasses
import json
import subprocess
import sys

import pytest

from fedjax_rec.evaluation.protocol import Protocol, paper_compat


def test_defaults_are_the_honest_ones():
    protocol = Protocol()
    assert protocol.candidates == "full"
    assert protocol.negative_pool == "not_train"
    assert protocol.ties == "pessimistic"
    assert protocol.evaluated == "aggregated"
    assert protocol.preset == "clean"


def test_survives_json_and_hashes():
    protocol = paper_compat(cutoffs=(1, 10), selection="auc")
    back = Protocol(**json.loads(json.dumps(dataclasses.asdict(protocol))))
    assert back == protocol
    assert hash(back) == hash(protocol)


def test_leaking_pool_only_under_paper_compat():
    assert paper_compat().negative_pool == "not_interacted"
    assert paper_compat(negative_pool="not_train").negative_pool == "not_train"
    with pytest.raises(ValueError, match=r"\.58 after 10 rounds"):
        Protocol(negative_pool="not_interacted")
    with pytest.raises(ValueError, match="shows every client which items they are"):
        paper_compat(preset="clean")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"candidates": "all"}, "choose one of 'full', 'sampled'"),
        ({"negative_pool": "any"}, "choose one of 'not_train'"),
        ({"ties": "lucky"}, "choose one of 'pessimistic'"),
        ({"evaluated": "best"}, "choose one of 'aggregated'"),
        ({"preset": "dirty"}, "choose one of 'clean'"),
        ({"num_candidates": 0}, "at least one negative"),
        ({"candidate_seed": -1}, "integer >= 0"),
        ({"max_users": -1}, "number of users, or 0 for all"),
        ({"exposed_item": -2}, "an item that is ranked among all"),
        ({"cutoffs": ()}, "at least one integer"),
        ({"cutoffs": (10, 5)}, "increasing order"),
        ({"cutoffs": (5, 5)}, "without repeats"),
        ({"cutoffs": (0, 10)}, ">= 1"),
        ({"cutoffs": (2.5,)}, "integer"),
        ({"selection": "accuracy"}, "names no validation metric"),
        ({"selection": "ndcg@7"}, "7 is not among cutoffs"),
        ({"selection": "test/ndcg@10"}, "names no validation metric"),
    ],
)
def test_teaching_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**fields)


@pytest.mark.parametrize("selection", ["last", "auc", "hr@20", "recall_capped@5"])
def test_selections(selection):
    assert Protocol(selection=selection).selection == selection


def test_settings_import_nothing_heavy():
    code = (
        "import sys; from fedjax_rec.evaluation.protocol import Protocol; Protocol(); "
        "print([m for m in ('jax', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
