"""What a FedFM starts from: axes, histories, cold items and users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    BackboneConfig,
    Execution,
    Experiment,
    FedFM,
    Protocol,
    SplitConfig,
    SyntheticData,
    build,
)
from fedjax_rec.core.contracts import Params
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment.backbone import RIDGE, histories, load_texts, principal
from fedjax_rec.models.item_tower import cached_tower
from fedjax_rec.models.two_tower import two_tower


def test_a_step_from_zero_is_ridge_regression():
    """On all axes, a user one step from zero ranks as a ridge regression does."""
    rng = np.random.default_rng(0)
    items, width = 30, 6
    e = rng.normal(size=(items, width)) * [3, 2, 1, 0.5, 0.2, 0.1] + 4
    projection, center = principal(e, width)
    model = two_tower(
        cached_tower(width),
        num_items=items,
        projection=jnp.asarray(projection),
        center=jnp.asarray(center, jnp.float32),
        group=1,
        loss="bce",
    )
    frozen = {"embedding": jnp.asarray(e, jnp.float32)}
    params = model.init(jax.random.key(0))
    liked = [3, 11, 17]
    label = np.isin(np.arange(items), liked)
    batch = {
        "text": jnp.arange(items),
        "item": jnp.arange(items),
        "label": jnp.asarray(label, jnp.float32),
        "mask": jnp.ones(items, bool),
    }
    slope = jax.grad(
        lambda own: model.loss(
            Params(shared=params.shared, personal=own), frozen, batch, batch["mask"]
        )[0]
    )(params.personal)
    moved = Params(shared=params.shared, personal={"user": -slope["user"]})
    got = np.asarray(model.score(moved, frozen, {"user": jnp.int32(0)}, None))
    # (E^T E + penalty)^-1 E^T y, with E and y about their means.
    x = e - e.mean(0)
    penalty = RIDGE * (x**2).sum() / width
    w = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ (label - label.mean()))
    expected = x @ w
    ratio = np.linalg.norm(got) / np.linalg.norm(expected)
    np.testing.assert_allclose(got, ratio * expected, atol=2e-5 * np.abs(got).max())
    assert (np.argsort(got) == np.argsort(expected)).all()
    assert ratio > 0


def test_principal_axes_by_hand():
    rng = np.random.default_rng(1)
    e = rng.normal(size=(50, 8)) * np.arange(8, 0, -1)
    projection, center = principal(e, 3)
    assert projection.dtype == np.float32
    np.testing.assert_allclose(center, e.mean(0))
    cov = np.cov(e.T, bias=True)
    values, vectors = np.linalg.eigh(cov)
    values, vectors = values[::-1][:3], vectors[:, ::-1][:, :3]
    floor = RIDGE * np.trace(cov) / 8
    scale = 1 / np.sqrt(values + floor) / np.sqrt((values / (values + floor)).sum())
    for j in range(3):
        axis = projection[:, j] / scale[j]
        sign = np.sign(vectors[:, j].sum())
        np.testing.assert_allclose(axis, sign * vectors[:, j], atol=1e-5)
    # Vectors of norm about 1, and the same every time.
    z = (e - center) @ projection
    assert (z**2).sum(1).mean() == pytest.approx(1, rel=1e-4)
    again, _ = principal(e.copy(), 3)
    np.testing.assert_array_equal(projection, again)
    with pytest.raises(ValueError, match="dim=9: expected at most 8, for 50 texts"):
        principal(e, 9)


def data():
    """Three users; times are the order of the file."""
    return make_interactions(
        user=np.array([0, 1, 0, 0, 2, 1, 0, 2]),
        item=np.array([5, 2, 1, 4, 0, 3, 2, 1]),
        users=Entities(ids=["a", "b", "c"]),
        items=Entities(ids=list("uvwxyz"), titles=[f"thing {i}" for i in "uvwxyz"]),
    )


def test_histories_are_what_came_last_latest_first():
    train = data()
    split = Split(train=train, val=train, test=train, name="none", info={})
    expected = [[2, 4, 1], [3, 2, 6], [1, 0, 6]]
    assert histories(split, 3).tolist() == expected
    assert histories(split, 1).tolist() == [[2], [3], [1]]
    # Of training alone, and of what held-out users are asked with.
    parts = train.user == 0, train.user == 1
    split = Split(
        train=train.take(parts[0]),
        val=train.take(train.user == 2),
        test=train.take(train.user == 2),
        name="cold",
        info={"query": train.take(parts[1])},
    )
    assert histories(split, 2).tolist() == [[2, 4], [3, 2], [6, 6]]


def test_shuffled_texts_are_the_same_texts_of_other_items():
    plain = load_texts(BackboneConfig(name="tiny"), data())
    assert plain == [f"thing {i}" for i in "uvwxyz"]
    mixed = load_texts(BackboneConfig(name="tiny", shuffle_texts=True), data())
    assert sorted(mixed) == plain
    assert mixed != plain


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))


def experiment(**changes):
    algorithm = changes.pop("algorithm", {})
    small = {"dim": 4, "rank": 2, "history": 4, "history_heads": 1, "client_lr": 0.1}
    return Experiment(
        name="small",
        **{
            "data": SyntheticData(num_users=40, num_items=50, num_interactions=500),
            "algorithm": FedFM(**{**small, "adapter": "embedding", **algorithm}),
            "backbone": BackboneConfig(name="tiny"),
            "execution": Execution(max_buckets=1),
            "rounds": 1,
            "eval_every": 1,
            **changes,
        },
    )


def test_cold_users_are_served_from_what_they_did_first(cache):
    simulation = build(
        experiment(
            split=SplitConfig(kind="cold_users", test=0.2, val=0.2),
            algorithm={"users": "history", "batch_size": 999},
        )
    )
    split = simulation.split
    query, held = split.info["query"], np.unique(split.test.user)
    assert not np.isin(held, split.train.user).any()
    got = np.asarray(simulation.frozen["history"])
    for user in held:
        wanted = query.item[query.user == user][::-1][:4]
        assert got[user, : len(wanted)].tolist() == wanted.tolist()
        assert (got[user, len(wanted) :] == 50).all()
    # What a user is asked with is no candidate of its own.
    targets = simulation.targets["test"]
    for at, user in enumerate(np.asarray(targets.user)):
        first, size = int(targets.exclude_offset[at]), int(targets.exclude_size[at])
        known = np.asarray(targets.exclude_items[first : first + size])
        assert known.tolist() == sorted(query.item[query.user == user])
    # Newcomers differ from each other: the tower reads their histories.
    recipe, state = simulation.recipe, simulation.state
    scores = [
        recipe.model.score(
            Params(shared=state.shared, personal={}),
            simulation.frozen,
            {"user": jnp.int32(user)},
            None,
        )
        for user in held[:2]
    ]
    assert np.abs(np.asarray(scores[0] - scores[1])).max() > 1e-3
    assert 0 <= simulation.evaluate("test")["auc"] <= 1


def test_cold_items_are_in_no_training_and_alone_in_the_ranking(cache):
    simulation = build(
        experiment(
            split=SplitConfig(kind="cold_items", test=0.2, val=0.2),
            algorithm={"adapter": "lora", "batch_size": 999},
            protocol=Protocol(candidates="cold"),
        )
    )
    info = simulation.split.info
    cold = np.concatenate([info["val_items"], info["test_items"]])
    for part in ("val", "test"):
        pool = np.flatnonzero(np.asarray(simulation.targets[part].pool))
        assert pool.tolist() == info[f"{part}_items"].tolist()
    data = jax.tree.map(jnp.asarray, simulation.data)
    assert data.pool is not None
    assert not np.isin(cold, np.asarray(data.pool)).any()
    assert simulation.recipe.draw is not None
    draw = jax.jit(simulation.recipe.draw)
    for client in range(5):
        pairs = draw(data.examples(jnp.int32(client), 0), jax.random.key(client))
        items = np.asarray(pairs["text"])[np.asarray(pairs["mask"])]
        assert len(items)
        assert not np.isin(items, cold).any()
    # The axes come from the items of training alone.
    embedding = _embedding(simulation)
    warm = np.setdiff1d(np.arange(50), cold)
    expected, _ = principal(embedding[warm], 4)
    np.testing.assert_allclose(
        simulation.state.shared["head"]["w"], expected, atol=1e-5
    )


def _embedding(simulation):
    from fedjax_rec.backbones import load_backbone
    from fedjax_rec.backbones.prefix import build_embeddings
    from fedjax_rec.core import packing

    config = BackboneConfig(name="tiny")
    backbone, weights = load_backbone("tiny", max_tokens=config.max_tokens)
    texts = load_texts(config, simulation.split.train)
    tokens = packing.make_lists(backbone.tokenize(texts))
    return build_embeddings(backbone, weights, tokens, root=None)


def test_cold_candidates_need_a_split_with_cold_items(cache):
    with pytest.raises(ValueError, match=r"needs split\.kind='cold_items'"):
        build(experiment(protocol=Protocol(candidates="cold")))


def test_mixed_clients_need_users_of_histories(cache):
    from fedjax_rec import PartitionConfig

    with pytest.raises(ValueError, match="hold several users"):
        build(experiment(partition=PartitionConfig(kind="iid", num_clients=5)))
