"""Models of item ids against NumPy: scores, losses and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.contracts import Params
from fedjax_rec.models import by_id
from tests import by_hand

I, U, DIM = 7, 3, 4  # noqa: E741
ITEM, USER = np.array([3, 0, 6, 3, 1]), np.array([2, 0, 1, 1, 2])
LABEL = np.array([1.0, 0, 1, 0, 0])
MASK = np.array([True, True, False, True, True])
MODELS = {
    "mf": by_id.matrix_factorization(I, DIM, init_scale=0.7),
    "mf, mse": by_id.matrix_factorization(I, DIM, loss="mse"),
    "mf, table": by_id.matrix_factorization(I, DIM, num_users=U),
    "ncf": by_id.neural_cf(I, DIM, (5, 3)),
    "ncf, table": by_id.neural_cf(I, DIM, (5, 3), num_users=U),
    "scorer": by_id.personal_scorer(I, DIM),
}


def drawn(model):
    """Random parameters."""
    rng = np.random.default_rng(1)
    start = model.init(jax.random.key(0))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), start
    )


def logits_of(name, params, user, item):
    """The score of one user and item."""
    shared, own = by_hand.in_float64((params.shared, params.personal))
    q = shared["item"].values[item]
    if name == "scorer":
        return q @ own["scorer"]["w"] + own["scorer"]["b"]
    p = shared["user"].values[user] if "table" in name else own["user"]
    if name.startswith("mf"):
        return p @ q
    return by_hand.perceptron(shared["mlp"], p, q[None])[0][0]


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_losses(name):
    model, params = MODELS[name], drawn(MODELS[name])
    for user in range(U):
        wanted = np.array([logits_of(name, params, user, i) for i in range(I)])
        got = model.score(params, (), {"user": jnp.int32(user)}, None)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        at = jnp.asarray([6, 2, 2])
        got = model.score(params, (), {"user": jnp.int32(user)}, at)
        np.testing.assert_allclose(got, wanted[[6, 2, 2]], rtol=1e-4, atol=1e-5)
    pairs = zip(USER, ITEM, strict=True)
    x = np.array([logits_of(name, params, u, i) for u, i in pairs])
    each = np.log1p(np.exp(x)) - LABEL * x
    if name == "mf, mse":
        each = (x - LABEL) ** 2
    columns = {"user": USER, "item": ITEM, "label": LABEL, "mask": MASK}
    batch = {n: jnp.asarray(c) for n, c in columns.items()}
    batch["label"] = batch["label"].astype(jnp.float32)
    value, _ = model.loss(params, (), batch, jax.random.key(0), {})
    assert float(value) == pytest.approx(each[MASK].mean(), rel=1e-5)


def test_initial_values_have_the_deviations_of_the_papers_code():
    """Normal vectors; layers as PyTorch draws them, within `fan_in ** -0.5`."""
    table = by_id.matrix_factorization(4000, 8, num_users=3000, init_scale=0.3)
    shared = table.init(jax.random.key(0)).shared
    for leaf in (shared["item"].values, shared["user"].values):
        assert float(leaf.std()) == pytest.approx(0.3, rel=0.02)
        assert abs(float(leaf.mean())) < 0.01
    constant = by_id.matrix_factorization(5, 2, init="constant", init_scale=0.01)
    params = constant.init(jax.random.key(0))
    assert isinstance(params, Params)
    assert (np.asarray(params.shared["item"].values) == np.float32(0.01)).all()
    assert (np.asarray(params.personal["user"]) == np.float32(0.01)).all()
    layer = by_id.neural_cf(5, 50, (200, 10)).init(jax.random.key(1)).shared["mlp"]
    for part, fan_in in zip(layer[:2], (100, 200), strict=True):
        bound = fan_in**-0.5
        assert 0.98 * bound < float(jnp.abs(part["w"]).max()) <= bound
        assert float(part["w"].std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.5 * bound < float(jnp.abs(part["b"]).max()) <= bound
    scorer = by_id.personal_scorer(4000, 25, 1.0).init(jax.random.key(2))
    assert float(scorer.shared["item"].values.std()) == pytest.approx(1, rel=0.02)
    assert 0.1 < float(jnp.abs(scorer.personal["scorer"]["w"]).max()) <= 0.2
