"""Rules with voters by row, against loops over rows in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.robust.ballots import RowBallots
from fedjax_rec.aggregators.robust.clipping import CenteredClipping, NormBound
from fedjax_rec.aggregators.robust.krum import Krum, MultiKrum
from fedjax_rec.aggregators.robust.medians import Median, TrimmedMean
from fedjax_rec.aggregators.robust.neighbours import NNM, Bulyan
from fedjax_rec.aggregators.robust.pairs import row_by_row, sizes
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders
from tests.aggregators.cohorts import built

I, D, C = 5, 2, 19  # noqa: E741
P = I * D + 4


def cohort(seed):
    """Rows of 0, 1, 2, 3 and many voters; three clients are absent."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.0, (C, P))
    x[rng.choice(C, 2, replace=False)] *= -7.0
    weights = np.ones(C)
    weights[[0, 7, 18]] = 0
    touched = np.zeros((C, I), bool)
    for i, count in enumerate([15, 0, 1, 2, 3]):
        touched[rng.choice(np.flatnonzero(weights), count, replace=False), i] = True
    touched[0] = True  # absent clients have no vote
    return x.astype(np.float32), weights, touched


def krum_scores(x, f, near):
    far = np.square(x[:, None] - x[None]).sum(-1)
    near = max(near, 1)
    return np.array([np.sort(np.delete(r, i))[:near].sum() for i, r in enumerate(far)])


def numpy_krum(x, f):
    if len(x) < 3:
        return x.mean(0)
    score = krum_scores(x, f, len(x) - f - 2)
    return x[np.isclose(score, score.min(), rtol=1e-6)].mean(0)


def numpy_multi_krum(x, f):
    """All but `f`; with three voters and no attacker, all of them."""
    if f == 0:
        return x.mean(0)
    return x[np.argsort(krum_scores(x, f, len(x) - f - 2))[: len(x) - f]].mean(0)


def numpy_bulyan(x, f):
    left, chosen = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        part = x[left]
        score = krum_scores(part, f, len(left) - f - 2) if len(left) > 1 else [0]
        chosen.append(left.pop(int(np.argmin(score))))
    chosen_rows = x[chosen]
    near = np.argsort(np.abs(chosen_rows - np.median(chosen_rows, 0)), 0)[
        : len(chosen_rows) - 2 * f
    ]
    return np.take_along_axis(chosen_rows, near, 0).mean(0)


def numpy_mixed(x, f):
    far = np.square(x[:, None] - x[None]).sum(-1)
    y = x[np.argsort(far, 1)[:, : len(x) - f]].mean(1)
    return np.sort(y, 0)[f : len(y) - f].mean(0)


def numpy_clipping(x, tau, steps):
    v = np.zeros(x.shape[1])
    for _ in range(steps):
        norms = np.linalg.norm(x - v, axis=1)
        limit = np.median(norms) if tau is None else tau
        v = v + (
            (x - v) * np.minimum(1, limit / np.maximum(norms, 1e-30))[:, None]
        ).mean(0)
    return v


def numpy_bound(x, b):
    return (x * np.minimum(1, b / np.linalg.norm(x, axis=1))[:, None]).mean(0)


def floor(v, share, each):
    """`f` among `v` voters, if the rule needs `each f + 3`."""
    f = int(share * v + 1e-6)
    while f > 0 and v < each * f + 3:
        f -= 1
    return f


# `(make, row of voters and their number, joint part)`: the assumed share is a fifth.
CASES = {
    "krum": (Krum, numpy_krum, 2, {"share": 0.2}),
    "multi-krum": (MultiKrum, numpy_multi_krum, 2, {"share": 0.2}),
    "bulyan": (Bulyan, numpy_bulyan, 4, {"share": 0.2}),
    "mixed": (
        lambda voting, share: NNM(
            then=TrimmedMean(share=share, voting=voting), share=share
        ),
        numpy_mixed,
        0,
        {"share": 0.2},
    ),
    "clipping": (
        CenteredClipping,
        lambda x, f: numpy_clipping(x, None, 1),
        0,
        {},
    ),
    "clipping of a radius": (
        CenteredClipping,
        lambda x, f: numpy_clipping(x, 1.5, 3),
        0,
        {"radius": 1.5, "steps": 3},
    ),
    "bound": (NormBound, lambda x, f: numpy_bound(x, 1.3), 0, {"bound": 1.3}),
}


@pytest.mark.parametrize(
    "voting", ["voters", pytest.param("diluted", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", CASES)
def test_a_row_is_the_rule_among_its_voters(name, voting, fold):
    make, oracle, each, settings = CASES[name]
    rule = make(voting=voting, **settings)
    for seed in range(2 if voting == "voters" else 1):
        x, weights, touched = cohort(seed)
        got, _, info = fold(rule, x, weights, touched=touched)
        present = weights > 0
        x = x.astype(np.float64)
        for i in range(I):
            votes = x[present & touched[:, i], i * D : i * D + D]
            v = len(votes)
            want = oracle(votes, floor(v, 0.2, each)) if v else np.zeros(D)
            want = want * (v / present.sum() if voting == "diluted" else 1)
            np.testing.assert_allclose(
                got[i * D : i * D + D], want, rtol=2e-4, atol=2e-5, err_msg=str(i)
            )
        # All present clients decide the other leaves.
        want = oracle(x[present, I * D :], floor(present.sum(), 0.2, each))
        np.testing.assert_allclose(got[I * D :], want, rtol=2e-4, atol=2e-5)
        assert float(info["touched_rows"]) == 4


@pytest.mark.parametrize("name", CASES)
def test_on_a_row_that_all_touch_it_is_the_dense_rule(name):
    """A table of one row and no other leaf."""
    make, _, _, settings = CASES[name]
    x = np.random.default_rng(3).normal(1, 1, (11, 1, 3)).astype(np.float32)
    shared = {"item": rows.Table(values=jnp.zeros((1, 3)))}
    ids = jnp.zeros((11, 1), jnp.int32)
    deltas = {"item": rows.Rows(ids=ids, values=jnp.asarray(x))}
    slots = jnp.arange(11)
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(11))

    def run(voting):
        rule = built(make(voting=voting, **settings))
        state = rule.start(shared)
        acc = rule.begin(rule.init(shared, 11), state)
        acc = rule.update(acc, deltas, jnp.ones(11), senders)
        return jax.jit(rule.finish)(acc, state, shared)[0]["item"].values

    want = run("dense")
    assert np.abs(want).max() > 0.1
    for voting in ("voters", "diluted"):
        np.testing.assert_allclose(run(voting), want, rtol=1e-5)


def test_few_voters_are_reported_as_the_rule_stands_them(fold):
    """Rows of 15, 1, 2 and 3 voters: Krum stands 3 of 15, Bulyan 3 of 15, else none."""
    x, weights, touched = cohort(0)
    for rule, broken in [
        (Krum(share=0.2, voting="voters"), 3),
        (NNM(then=Median(voting="voters", share=0.2), share=0.2), 3),
        (Bulyan(share=0.2, voting="voters"), 3),
        (CenteredClipping(voting="voters", share=0.2), 7),
    ]:
        _, _, info = fold(rule, x, weights, touched=touched)
        p = np.zeros(20)
        p[0] = 1
        tails = []
        for v in range(1, 16):
            p[1:] = 0.8 * p[1:] + 0.2 * p[:-1]
            p[0] *= 0.8
            stands = {15: broken, 3: int(broken == 7)}.get(v, 0)
            if v in (1, 2, 3, 15):
                tails.append(p[stands + 1 :].sum())
        np.testing.assert_allclose(info["broken_rows"], sum(tails), rtol=1e-5)
        assert float(info["fragile_rows"]) == (2 if broken == 7 else 3)


def test_a_rows_bound_follows_the_median_of_its_own_voters(fold):
    rule = NormBound(momentum=0.25, voting="voters")
    x, weights, touched = cohort(1)
    got, state, _ = fold(rule, x, weights, touched=touched)
    votes = x[touched[:, 0] & (weights > 0), :D].astype(np.float64)
    bound = np.median(np.linalg.norm(votes, axis=1))
    mean = votes.mean(0)  # no bound is known yet: no longer than the median
    mean *= min(1, bound / np.linalg.norm(mean))
    np.testing.assert_allclose(got[:D], mean, rtol=1e-5)
    np.testing.assert_allclose(state[1][0][0], bound, rtol=1e-6)
    assert np.isinf(state[1][0][1])  # that row is untouched
    y = 3 * x[::-1].copy()
    got, state, info = fold(rule, y, weights, touched=touched, state=state)
    votes = y[touched[:, 0] & (weights > 0), :D].astype(np.float64)
    np.testing.assert_allclose(got[:D], numpy_bound(votes, bound), rtol=1e-5)
    new = np.median(np.linalg.norm(votes, axis=1))
    np.testing.assert_allclose(state[1][0][0], 0.25 * bound + 0.75 * new, rtol=1e-6)
    clipped, count = 0, 0
    for row in range(I):
        voters, at = touched[:, row] & (weights > 0), slice(row * D, (row + 1) * D)
        if voters.any():
            before, after = (np.linalg.norm(z[voters, at], axis=1) for z in (x, y))
            clipped, count = (
                clipped + (after > np.median(before)).sum(),
                count + sum(voters),
            )
    assert count == 21
    np.testing.assert_allclose(info["clipped_row_share"], clipped / count, rtol=1e-6)


def test_clipping_keeps_a_center_for_every_row(fold):
    rule = CenteredClipping(radius=0.5, voting="diluted")
    x, weights, touched = cohort(2)
    _, state, _ = fold(rule, x, weights, touched=touched)
    touched[:, 0] = False
    y = x[::-1].copy()
    got, after, _ = fold(rule, y, weights, touched=touched, state=state)
    # Untouched it does not move, and keeps its center.
    assert (got[:D] == 0).all()
    (before,), (center,) = state[1][0], after[1][0]
    np.testing.assert_array_equal(center[0], before[0])
    votes = y[touched[:, 4] & (weights > 0), 4 * D : 5 * D].astype(np.float64)
    moves = votes - before[4]
    far = np.linalg.norm(moves, axis=1)
    want = before[4] + (moves * np.minimum(1, 0.5 / far)[:, None]).mean(0)
    np.testing.assert_allclose(center[4], want, rtol=1e-5)
    np.testing.assert_allclose(got[4 * D : 5 * D], want * 3 / 16, rtol=1e-5)


def test_rows_of_every_size_are_visited_once_and_with_their_own_voters():
    """130 clients, so that there is room for 33, 65 and 130 voters."""
    c, num_rows = 130, 300
    assert sizes(c) == (17, 33, 65, 130)
    rng = np.random.default_rng(0)
    counts = rng.integers(0, c + 1, num_rows)
    counts[:8] = [0, 1, 17, 18, 33, 34, 66, 130]
    voters = np.argsort(rng.random((c, num_rows)), 0) < counts
    x = rng.normal(size=(c, num_rows, 2)).astype(np.float32)
    counts = counts.astype(np.int32)
    ballots = RowBallots(*map(jnp.asarray, (x, voters, counts, np.ones(c))))

    def mean(x, voters):
        return jnp.where(voters[:, None], x, 0).sum(0) / voters.sum()

    def first(x, voters):
        return jnp.where(voters[:, None], x - x[0], 7)

    got = jax.jit(lambda b: row_by_row(mean, b))(ballots)
    want = np.where(voters[:, :, None], x, 0).sum(0) / np.maximum(counts, 1)[:, None]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    got = jax.jit(lambda b: row_by_row(first, b, ballots=True))(ballots)
    start = x[voters.argmax(0), np.arange(num_rows)]
    want = np.where(voters[:, :, None], x - start, 0)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", ["krum", "bulyan", "mixed", "bound", "clipping"])
def test_a_fifth_of_a_rows_voters_that_send_huge_numbers_move_it_little(name, fold):
    make, _, _, settings = CASES[name]
    x, _ = np.random.default_rng(4).normal(1, 1, (15, P)).astype(np.float32), None
    touched = np.zeros((15, I), bool)
    touched[:, 0] = touched[3:, 3] = True
    x[[3, 9]] = [[1e30], [-2e30]]
    if name == "bound":
        settings = {"first": 3.0}
    got, _, _ = fold(make(voting="voters", **settings), x, touched=touched)
    honest = np.delete(x, [3, 9], axis=0)
    assert np.isfinite(got).all()
    assert np.abs(got).max() < 2 * np.abs(honest).max()
    assert np.abs(got[:D]).max() > 0


@pytest.mark.parametrize("make", [Krum, MultiKrum, Bulyan, NormBound, CenteredClipping])
def test_the_way_of_voting_is_checked(make):
    with pytest.raises(ValueError, match="expected dense, voters or diluted"):
        make(voting="some")
