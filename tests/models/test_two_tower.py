"""The two towers against a NumPy formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.contracts import Params
from fedjax_rec.core.trained_rows import RowsAt
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.item_tower import cached_tower
from fedjax_rec.models.two_tower import VECTORS, two_tower

I, D, DIM, L, HEADS, GROUP = 7, 5, 3, 3, 2, 3  # noqa: E741
RNG = np.random.default_rng(0)
EMBEDDING = RNG.normal(size=(I, D))
CENTER, PROJECTION = EMBEDDING.mean(0), RNG.normal(size=(D, DIM))
HISTORY = np.array([[3, 0, 6], [2, I, I], [I, I, I]])
FROZEN = {
    "embedding": jnp.asarray(EMBEDDING, jnp.float32),
    "history": jnp.asarray(HISTORY, jnp.int32),
}


def build(**options):
    defaults: dict[str, Any] = {
        "num_items": I,
        "projection": jnp.asarray(PROJECTION, jnp.float32),
        "center": jnp.asarray(CENTER, jnp.float32),
        "group": GROUP,
        "history_length": L,
        "history_heads": HEADS,
    }
    return two_tower(cached_tower(), **{**defaults, **options})


def drawn(model, seed=1):
    """Random parameters, away from zero."""
    rng = np.random.default_rng(seed)
    start = model.init(jax.random.key(0))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), start
    )


def user_by_hand(parts, history):
    vector = parts["common"]["user"] + parts.get("user", 0)
    own = [i for i in history if i < I]
    if "history" not in parts or not own:
        return vector
    group, e = parts["history"], EMBEDDING[own]
    for head in range(HEADS):
        x = e @ group["query"][:, head] + group["recency"][: len(own), head]
        share = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        vector = vector + (share @ e) @ group["value"][head]
    return vector + group["bias"]


def items_by_hand(parts):
    e = EMBEDDING
    if "embedding_adapter" in parts:
        net = parts["embedding_adapter"]
        e = e + e @ net["down"]["w"] @ net["up"]["w"]
    z = e @ parts["head"]["w"] + parts["head"]["b"]
    return z + parts["item"].values if "item" in parts else z


def in_numpy(params):
    both = {**params.shared, **params.personal}
    return jax.tree.map(lambda x: np.asarray(x, np.float64), both)


KINDS = {
    "vector": {},
    "history": {"users": "history"},
    "both, ids, adapter": {
        "users": "both",
        "id_residual": True,
        "on_embedding": EmbeddingAdapter(rank=2).build(),
    },
    "personal head": {"personal": ("head",)},
}


@pytest.mark.parametrize("user", [0, 1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_scores_by_hand(name, user):
    model = build(**KINDS[name])
    params = drawn(model)
    parts = in_numpy(params)
    expected = items_by_hand(parts) @ user_by_hand(parts, HISTORY[user])
    expected += parts["common"]["bias"]
    query = {"user": jnp.int32(user)}
    every = model.score(params, FROZEN, query, None)
    np.testing.assert_allclose(every, expected, rtol=1e-5, atol=1e-5)
    some = jnp.asarray([6, 2, 2, 0])
    got = model.score(params, FROZEN, query, some)
    np.testing.assert_allclose(got, expected[np.asarray(some)], rtol=1e-5, atol=1e-5)
    # Lifted, the same: all items at once, and some of them.
    assert model.lift is not None
    lifted = Params(shared=model.lift(params.shared, FROZEN), personal=params.personal)
    assert ("head" in lifted.personal) == (name == "personal head")
    assert "head" not in lifted.shared
    for ids, wanted in ((None, every), (some, got)):
        again = model.score(lifted, FROZEN, query, ids)
        np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-5)
    # A client's own rows of these items.
    if "item" in params.shared:
        table = RowsAt(values=params.shared["item"].values[some])
        narrow = Params(
            shared={**params.shared, "item": table}, personal=params.personal
        )
        again = model.score(narrow, FROZEN, query, some)
        np.testing.assert_allclose(again, got, rtol=1e-5, atol=1e-5)


def batch_of(rng, groups=4):
    items = np.stack([rng.choice(I, GROUP, replace=False) for _ in range(groups)])
    mask = np.ones((groups, GROUP), bool)
    mask[1, 2] = mask[3] = False
    flat = np.where(mask, items, I).reshape(-1)
    return {
        "text": jnp.asarray(flat, jnp.int32),
        "item": jnp.asarray(np.minimum(flat, I - 1), jnp.int32),
        "label": jnp.tile(jnp.asarray([1.0, 0, 0]), groups),
        "mask": jnp.asarray(mask.reshape(-1)),
        "log_q": jnp.full(groups * GROUP, np.log(0.4), jnp.float32),
        "history": jnp.asarray(np.repeat(HISTORY[[0, 1, 2, 2]], GROUP, 0)),
    }, (items, mask)


@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
@pytest.mark.parametrize("name", ["vector", "both, ids, adapter"])
def test_losses_by_hand(name, loss):
    model = build(**KINDS[name], loss=loss, user_l2=0.3)
    params = drawn(model)
    parts = in_numpy(params)
    batch, (items, mask) = batch_of(np.random.default_rng(2))
    got, _ = model.loss(params, FROZEN, batch, jax.random.key(0), {})
    z = items_by_hand(parts)
    users = np.stack([user_by_hand(parts, HISTORY[u]) for u in (0, 1, 2, 2)])
    x = np.einsum("ngd,nd->ng", z[items], users)
    if loss == "bce":
        x = x + parts["common"]["bias"]
        y = np.array([1.0, 0, 0])
        expected = (np.logaddexp(0, x) - y * x)[mask].mean()
    elif loss == "bpr":
        expected = np.logaddexp(0, x[:, 1:] - x[:, :1])[mask[:, 1:]].mean()
    else:
        weights = np.where(mask, np.exp(x) / np.array([1, 0.4, 0.4]), 0)
        rows_ = mask[:, 0]
        expected = (np.log(weights[rows_].sum(1)) - x[rows_, 0]).mean()
    expected += 0.15 * (parts["user"] ** 2).sum()
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    nothing = {**batch, "mask": jnp.zeros_like(batch["mask"])}
    value, slope = jax.value_and_grad(
        lambda p: model.loss(p, FROZEN, nothing, jax.random.key(0), {})[0]
    )(params)
    assert float(value) == 0
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(slope))


def test_users_start_as_the_mean_of_their_history():
    model = build(users="history")
    params = model.init(jax.random.key(0))
    got = model.score(params, FROZEN, {"user": jnp.int32(0)}, None)
    z = (EMBEDDING - CENTER) @ PROJECTION
    np.testing.assert_allclose(got, z @ z[HISTORY[0]].mean(0), rtol=1e-4, atol=1e-5)
    # Without a history, the vector is zero.
    got = model.score(params, FROZEN, {"user": jnp.int32(2)}, None)
    assert not np.asarray(got).any()


def test_fixed_groups_get_no_gradient():
    model = build(users="both", fixed=("head", "history"))
    params = drawn(model)
    batch, _ = batch_of(np.random.default_rng(2))

    def through(params, lifted):
        shared = params.shared
        if lifted:
            assert model.lift is not None
            shared = model.lift(shared, FROZEN)
        both = Params(shared=shared, personal=params.personal)
        return model.loss(both, FROZEN, batch, jax.random.key(0), {})[0]

    for lifted in (False, True):
        slope = jax.grad(through)(params, lifted)
        for name, part in {**slope.shared, **slope.personal}.items():
            still = all(not np.asarray(g).any() for g in jax.tree.leaves(part))
            assert still == (name in ("head", "history")), name


def test_a_personal_head_is_not_lifted():
    model = build(personal=("head",), on_embedding=EmbeddingAdapter(rank=2).build())
    params = drawn(model)
    assert model.lift is not None
    vectors = model.lift(params.shared, FROZEN)[VECTORS]
    assert not vectors.per_row
    parts = in_numpy(params)
    net = parts["embedding_adapter"]
    expected = EMBEDDING + EMBEDDING @ net["down"]["w"] @ net["up"]["w"]
    np.testing.assert_allclose(vectors.values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label", ["personal", "fixed"])
def test_an_unknown_group_is_refused_with_the_names_of_all(label):
    message = f"{label} names unknown groups: haed, user; expected some of "
    with pytest.raises(ValueError, match=f"{message}common, head, history$"):
        build(users="both", **{label: ("haed", "user")})
