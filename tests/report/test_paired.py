"""Paired comparisons against SciPy and hand computations."""

import csv
import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedjax_rec.cli import main
from fedjax_rec.evaluation import per_user
from fedjax_rec.report.differences import difference, holm
from fedjax_rec.report.paired import compare
from fedjax_rec.runs.folder import open_run, read_run
from fedjax_rec.storage.errors import UserError

USERS = 40


def test_one_seed_is_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 1, 50))
    expected: Any = stats.ttest_rel(other[0], first[0])
    got = difference(other - first)
    assert got.mean == pytest.approx((other - first).mean())
    assert got.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (got.mean - got.half, got.mean + got.half) == pytest.approx((low, high))


def test_differences_of_seeds_alone_are_a_t_test_over_seeds():
    seeds = np.array([0.1, -0.2, 0.5, 0.3])
    got = difference(np.repeat(seeds[:, None], 200, 1))
    expected: Any = stats.ttest_1samp(seeds, 0)
    assert got.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (got.mean - got.half, got.mean + got.half) == pytest.approx((low, high))


def test_two_way_variance_by_hand():
    # d = [[1, 3], [2, 6]]: mean 3, residuals [[-2, 0], [-1, 3]].
    # users: sums -3, 3, 2/1 * 18 / 16 = 2.25; seeds: sums -2, 2, 2/1 * 8 / 16 = 1;
    # both: 4/3 * 14 / 16 = 7/6. In all 2.25 + 1 - 7/6 = 2.08, at least 2.25.
    got = difference(np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert got.mean == 3
    assert got.half == pytest.approx(stats.t(1).ppf(0.975) * 1.5)
    assert got.p == pytest.approx(2 * stats.t(1).sf(3 / 1.5))


def test_intervals_cover_the_truth_under_new_seeds_and_users():
    """Drawn from effects of users, of seeds, and of both."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        effects = rng.normal(size=(8, 1)) * 0.5 + rng.normal(size=(1, 100))
        got = difference(effects + rng.normal(size=(8, 100)))
        covered.append(abs(got.mean) <= got.half)
    assert 0.92 < np.mean(covered) < 0.985


def test_holm_by_hand():
    # Sorted .01, .02, .03, .05 times 4, 3, 2, 1: .04, .06, .06, .05, made monotone.
    expected = [0.06, 0.04, 0.06, 0.06]
    assert holm([0.03, 0.01, 0.05, 0.02]) == pytest.approx(expected)
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])


def make_run(
    path, lr, seed=0, shift=0.0, digest="same", ties="pessimistic", round_=2, **more
):
    config = {
        "name": "x", "seed": seed, "data": {},
        "algorithm": {"type": "FedMF", "client_lr": lr},
    }  # fmt: skip
    ranks = np.random.default_rng(seed).random(USERS).astype(np.float32)
    with open_run(path, config, {}) as folder:
        names = np.array([f"u{i}" for i in range(USERS)])
        noise = np.random.default_rng(9).normal(size=USERS).astype(np.float32) / 100
        metrics = {"ndcg@10": ranks + shift * (1 + noise), "auc": ranks}
        folder.write_users(per_user.PerUser(round_, names, metrics))
        result = {
            "selected": 2, "protocol": {"cutoffs": [5, 10], "ties": ties},
            "ranked": {"users": USERS, "digest": digest}, **more,
        }  # fmt: skip
        folder.write_json("result.json", result)
    return read_run(path)


def test_each_system_is_compared_with_the_first(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", 0.1, seed)
        make_run(tmp_path / f"b{seed}", 0.2, seed, shift=0.1)
        make_run(tmp_path / f"c{seed}", 0.3, seed)
    paths = [str(tmp_path / f"{name}{seed}") for name in "abc" for seed in (1, 0)]
    output = tmp_path / "out"
    assert main(["report", "--paired", *paths, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "A: FedMF client_lr=0.1 x 2" in printed
    assert max(map(len, printed.splitlines()[:8])) <= 80
    plain = json.loads((output / "paired.json").read_text())
    assert (plain["seeds"], plain["users"]) == ([0, 1], USERS)
    gaps = {(row["system"], row["metric"]): row for row in plain["rows"]}
    assert set(gaps) == {(s, m) for s in "BC" for m in ("ndcg@10", "auc")}
    assert gaps["B", "ndcg@10"]["difference"] == pytest.approx(0.1, abs=0.001)
    assert gaps["B", "ndcg@10"]["p_holm"] >= 3.9 * gaps["B", "ndcg@10"]["p"]
    assert (gaps["C", "ndcg@10"]["difference"], gaps["C", "auc"]["p"]) == (0, 1)
    lines = list(csv.DictReader((output / "paired.csv").open()))
    assert lines[0]["baseline"] == "FedMF client_lr=0.1 x 2"
    systems = [f"FedMF client_lr={lr} x 2" for lr in (0.2, 0.2, 0.3, 0.3)]
    assert [line["system"] for line in lines] == systems
    gap = float(lines[0]["system_mean"]) - float(lines[0]["baseline_mean"])
    assert gap == pytest.approx(float(lines[0]["difference"]))
    assert "± " in (output / "paired.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "other"}, "test users, test items or candidates differ"),
        ({"ties": "random"}, "protocol.ties is pessimistic and random"),
        (
            {
                "protocol": {
                    "cutoffs": [5, 10],
                    "metric": {"names": ["a"]},
                    "ties": "pessimistic",
                }
            },
            "protocol.metric is None and {'names': \\['a'\\]}",
        ),
        ({"seed": 1}, "pairs runs of the same seed"),
        ({"round_": 1}, "holds round 1, but round 2 was selected"),
        ({"lr": 0.1}, "at least two configurations"),
        ({"diverged_in_round": 3}, "b diverged in round 3, so its metrics are those"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(tmp_path, changes, message):
    first = make_run(tmp_path / "a", 0.1)
    other = make_run(tmp_path / "b", **{"lr": 0.2, **changes})
    with pytest.raises(UserError, match=message):
        compare([first, other])


def test_a_run_without_its_users_is_refused(tmp_path):
    runs = [make_run(tmp_path / f"{lr}", lr) for lr in (0.1, 0.2)]
    (runs[1].path / "users.npz").unlink()
    with pytest.raises(UserError, match=r"users.npz cannot be read"):
        compare(runs)
