"""Laws of every robust rule, for any messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.ballots import Ballots, ballot_bytes
from fedjax_rec.aggregators.robust.clipping import CenteredClipping, NormBound
from fedjax_rec.aggregators.robust.krum import Krum, MultiKrum
from fedjax_rec.aggregators.robust.medians import (
    GeometricMedian,
    Median,
    TrimmedMean,
)
from fedjax_rec.aggregators.robust.neighbours import NNM, Bulyan
from tests.aggregators.cohorts import built

I, D, P = 5, 2, 14  # noqa: E741
RULES = {
    "median": Median(),
    "trimmed": TrimmedMean(share=0.2),
    "geometric": GeometricMedian(steps=300),
    "krum": Krum(share=0.2),
    "multi-krum": MultiKrum(share=0.2),
    "bulyan": Bulyan(share=0.2),
    "clipping": CenteredClipping(),
    "norm bound": NormBound(first=3.0),
    "mixed trimmed": NNM(then=TrimmedMean(share=0.2), share=0.2),
    "median of voters": Median(voting="voters"),
    "trimmed of voters": TrimmedMean(share=0.2, voting="voters"),
    "geometric of voters": GeometricMedian(steps=300, voting="voters"),
    "trimmed diluted": TrimmedMean(share=0.2, voting="diluted"),
    "krum of voters": Krum(share=0.2, voting="voters"),
    "bulyan of voters": Bulyan(share=0.2, voting="voters"),
    "clipping of voters": CenteredClipping(voting="voters"),
    "mixed of voters": NNM(then=TrimmedMean(share=0.2, voting="voters"), share=0.2),
    "bound of voters": NormBound(first=3.0, voting="voters"),
}
# Their parts occur in other rules.
SLOW = {"bulyan of voters", "mixed of voters", "krum of voters", "trimmed diluted"}
everybody = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in RULES],
)
BUFFERED = [name for name in RULES if "bound" not in name]


def cohort(seed, n=11, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1.0, (n, P)).astype(dtype), rng.random((n, I)) < 0.6


def masked(x, touched):
    """With zeros on the rows that were not touched."""
    rows = np.repeat(touched, D, axis=1)
    return np.concatenate([np.where(rows, x[:, : I * D], 0), x[:, I * D :]], axis=1)


@everybody
def test_neither_order_nor_place_nor_device_matters(name, fold):
    x, touched = cohort(0)
    weights = np.array([1, 2, 0, 1, 1, 3, 1, 0, 1, 1, 1.0])
    want, _, info = fold(RULES[name], x, weights, touched=touched)
    order = np.random.default_rng(1).permutation(11)
    moved = {"slots": order + 2, "touched": touched[order]}
    got, _, other = fold(RULES[name], x[order], weights[order], **moved)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), other, info)
    groups = [[0, 5, 6], [2], [9, 1, 10, 3], [4, 7, 8]]
    got, _, _ = fold(RULES[name], x, weights, touched=touched, groups=groups)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    present = weights > 0
    few = {"touched": touched[present]}
    got, _, _ = fold(RULES[name], x[present], weights[present], **few)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@everybody
def test_jit_equals_eager_and_float64_is_closer(name, fold):
    x, touched = cohort(2)
    want, _, _ = fold(RULES[name], x, touched=touched)
    eager, _, _ = fold(RULES[name], x, touched=touched, jit=False)
    np.testing.assert_allclose(eager, want, rtol=1e-4, atol=1e-5)
    with jax.enable_x64():
        double, state, info = fold(RULES[name], x.astype(np.float64), touched=touched)
        assert double.dtype == np.float64
        leaves = jax.tree.leaves(state)
        assert all(leaf.dtype == np.float64 for leaf in leaves)
        assert all(np.isfinite(v) for v in info.values())
    np.testing.assert_allclose(double, want, rtol=1e-4, atol=1e-5)


# Clipping and bounding are not: they measure from the last aggregate, and from zero.
@pytest.mark.parametrize(
    "name", [n for n in RULES if "clipping" not in n and "bound" not in n]
)
def test_a_shift_of_all_deltas_shifts_the_outcome(name, fold):
    x, _ = cohort(3)
    shift = np.linspace(-3, 4, P).astype(np.float32)
    before, _, _ = fold(RULES[name], x)
    after, _, _ = fold(RULES[name], x + shift)
    np.testing.assert_allclose(after, before + shift, atol=2e-4)
    scaled, _, _ = fold(RULES[name], 4 * x)
    np.testing.assert_allclose(scaled, 4 * before, rtol=1e-3, atol=1e-4)


@everybody
def test_two_of_eleven_that_send_huge_numbers_move_nothing_far(name, fold):
    x, touched = cohort(5)
    touched[:] = True
    x[[2, 7]] = [[1e30], [-2e30]]
    got, _, _ = fold(RULES[name], x, touched=touched)
    honest = np.delete(x, [2, 7], axis=0)
    spread = np.abs(honest).max()
    assert np.isfinite(got).all()
    assert np.abs(got).max() < 2 * spread


@everybody
def test_a_round_without_clients_moves_no_parameter_and_no_state(name, fold):
    x, touched = cohort(6)
    _, state, _ = fold(RULES[name], x, touched=touched)
    nothing = {"touched": touched, "state": state}
    got, after, info = fold(RULES[name], x, np.zeros(11), **nothing)
    assert (got == 0).all()
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert all(np.isfinite(v) for v in info.values())


@pytest.mark.parametrize("weights", [np.ones(9), np.arange(9) % 4])
@pytest.mark.parametrize(
    "rule",
    [
        TrimmedMean(share=0),
        MultiKrum(share=0),
        Bulyan(share=0),
        NNM(share=0),
        CenteredClipping(radius=1e6),
        NormBound(bound=1e6),
    ],
    ids=["trimmed", "multi-krum", "bulyan", "mixed", "clipping", "bound"],
)
def test_without_assumed_attackers_a_rule_is_the_uniform_mean(rule, weights, fold):
    x, touched = cohort(7, 9)
    got, _, _ = fold(rule, x, weights, touched=touched)
    want, _, _ = fold(Mean(weights="uniform"), x, weights, touched=touched)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_diluted_without_assumed_attackers_is_the_uniform_mean_and_voters_per_row(fold):
    x, touched = cohort(8)
    diluted = TrimmedMean(share=0, voting="diluted")
    by_voters = TrimmedMean(share=0, voting="voters")
    for rule, per_row in [(diluted, False), (by_voters, True)]:
        got, _, _ = fold(rule, x, touched=touched)
        want, _, _ = fold(Mean(weights="uniform", per_row=per_row), x, touched=touched)
        np.testing.assert_allclose(got, want, atol=1e-5)


def three_tenths_trimmed(votes):
    f = 3 * len(votes) // 10
    return np.sort(votes, 0)[f : len(votes) - f].mean(0)


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        (Median(voting="voters"), lambda v: np.median(v, 0)),
        (
            TrimmedMean(share=0.3, voting="voters"),
            three_tenths_trimmed,
        ),
    ],
    ids=["median", "trimmed"],
)  # fmt: skip
def test_only_clients_that_touched_a_row_vote_on_it(rule, row, fold):
    x, touched = cohort(9, 13)
    touched[:, 1] = False
    weights = np.ones(13)
    weights[4] = 0
    got, _, _ = fold(rule, x, weights, touched=touched)
    present = weights > 0
    for i in range(I):
        votes = x[present & touched[:, i]][:, i * D : i * D + D]
        want = row(votes) if len(votes) else np.zeros(D)
        np.testing.assert_allclose(got[i * D : i * D + D], want, rtol=1e-5)
    # A dense leaf has every present client's vote.
    np.testing.assert_allclose(got[I * D :], row(x[present][:, I * D :]), rtol=1e-5)


def test_a_row_has_its_own_GeometricMedian(fold):
    """Weiszfeld's fixed point: unit vectors to the voters cancel."""
    x, touched = cohort(10, 13)
    rule = GeometricMedian(voting="voters", steps=2000)
    got, _, _ = fold(rule, x, touched=touched)
    for i in range(I):
        votes = x[touched[:, i]][:, i * D : i * D + D]
        ways = votes - got[i * D : i * D + D]
        far = np.linalg.norm(ways, axis=1, keepdims=True)
        away = far[:, 0] > 1e-4
        # At a voter itself the others' pull is at most its own.
        pull = np.linalg.norm((ways[away] / far[away]).sum(0))
        assert pull < 1e-2 + (~away).sum()


@pytest.mark.parametrize("name", BUFFERED)
def test_the_buffer_takes_the_bytes_that_are_stated(name):
    from fedjax_rec.core import rows

    shared = {
        "item": rows.Table(values=jnp.zeros((7, 3))),
        "user": rows.Table(values=jnp.zeros((4, 3)), space="user", per_row=False),
        "w": jnp.zeros((2, 5)),
    }
    acc = built(RULES[name]).init(shared, 11)
    assert isinstance(acc, Ballots)
    by_row = "voters" in name or "diluted" in name
    measured = sum(leaf.nbytes for leaf in jax.tree.leaves(acc))
    assert measured == ballot_bytes(shared, 11, "voters" if by_row else "dense")
    # By hand: 21 + 12 + 10 numbers and a weight a client, 7 marks where rows vote.
    assert measured == 4 * 11 * (43 + 1 + 7 * by_row)


def test_a_fold_with_a_bound_takes_no_memory_in_the_cohort_but_two_numbers_a_client():
    shared = {"w": jnp.zeros((100, 7))}
    sizes = [
        sum(x.nbytes for x in jax.tree.leaves(built(NormBound()).init(shared, c)))
        for c in (10, 1000)
    ]
    assert sizes[1] - sizes[0] == 990 * 2 * 4
    assert sizes[0] == 700 * 4 + 10 * 8 + 4
