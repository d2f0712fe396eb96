"""Two opposite tastes are parted by updates or profiles; one cluster is the recipe."""

import jax
import numpy as np
import optax
import pytest

from fedjax_rec.contrib.clustered_by_update import CENTERS, SKETCH, ClusteredByUpdate
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.stacks import select
from fedjax_rec.wrappers.clustered import (
    CLUSTER,
    clustered_by_profile,
    group_by_profile,
)
from tests import two_tastes as tastes
from tests.two_tastes import EVERYBODY, USERS, wrap

ODD = np.arange(USERS) % 2


def by_update(**settings):
    return wrap(ClusteredByUpdate(**settings), tastes.one_model())


def groups(shared, personal):
    """Every client's cluster in NumPy, from what it and the server keep."""
    scores = np.asarray(personal[SKETCH]) @ np.asarray(shared[CENTERS]).T
    return scores.argmax(1)


def separated(group):
    """Whether the planted partition is found, whatever its numbers."""
    return len(set(group)) == 2 and all(len(set(group[s == ODD])) == 1 for s in (0, 1))


def test_updates_part_two_tastes_and_each_model_becomes_its_groups_mean():
    recipe = by_update(clusters=2, warm_rounds=4, sketch=64)
    shared, personal, metrics = tastes.play(recipe, [EVERYBODY] * 4)
    # The last warm round parts the clients; all models are the common one so far.
    assert float(metrics["split"]) == 0
    assert separated(groups(shared, personal))
    table = np.asarray(shared["item"].values)[..., 0]
    np.testing.assert_allclose(table[:, :2], table[:, [2, 2]], rtol=1e-5)
    one, _, plain = tastes.play(tastes.one_model(), [EVERYBODY] * 4)
    np.testing.assert_allclose(table[:, 2], one["item"].values[:, 0], rtol=1e-5)
    shared, personal, metrics = tastes.play(recipe, [EVERYBODY] * 60)
    group = groups(shared, personal)
    table = np.asarray(shared["item"].values)[..., 0]
    for s in (0, 1):
        np.testing.assert_allclose(
            table[:, group[s]], tastes.shares(s == ODD), atol=1e-3
        )
    assert float(metrics["cluster_most"]) == 0.5
    # What is left of the squared loss at a mean is the variance around it; 2 is |w|^2.
    _, _, plain = tastes.play(tastes.one_model(), [EVERYBODY] * 60)
    own, all_ = tastes.shares(ODD == 0), tastes.shares(ODD >= 0)
    np.testing.assert_allclose(metrics["loss"] - 2, np.mean(own * (1 - own)), atol=1e-4)
    np.testing.assert_allclose(plain["loss"] - 2, np.mean(all_ * (1 - all_)), atol=1e-4)


def test_who_was_away_at_the_split_joins_its_group():
    recipe = by_update(clusters=2, warm_rounds=2, sketch=64)
    cohorts = [(0, 1, 2, 3)] * 3 + [(4, 5)]
    shared, personal, _ = tastes.play(recipe, cohorts)
    group = groups(shared, personal)
    assert separated(group)
    # The newcomers' deltas moved nothing yet, not even the common model.
    before, _, _ = tastes.play(recipe, cohorts[:3])
    jax.tree.map(np.testing.assert_array_equal, shared, before)
    # From their second round on they train their group's model.
    after, _, _ = tastes.play(recipe, [*cohorts, (4, USERS)])
    moved = np.abs(np.asarray(after["item"].values - shared["item"].values))
    np.testing.assert_array_equal(moved.max((0, 2)) > 0, np.arange(3) == group[4])


def test_a_cohort_too_small_leaves_the_split_to_the_next():
    recipe = by_update(clusters=2, warm_rounds=1, sketch=64)
    nobody = USERS  # the id of an absent client
    shared, personal, metrics = tastes.play(recipe, [(0, nobody), (0, 1)])
    assert float(metrics["split"]) == 0  # not yet in the second round
    assert separated(groups(shared, personal)[:2].repeat(3)[[0, 3, 1, 4, 2, 5]])


PROFILES = np.stack([1.0 - ODD, ODD, 0.1 * np.arange(USERS)], 1)


def test_profiles_part_two_tastes_from_the_first_round():
    recipe = clustered_by_profile(tastes.one_model(), 2, PROFILES)
    shared, personal, _ = tastes.play(recipe, [EVERYBODY] * 60)
    group = np.asarray(personal[CLUSTER]).argmax(1)
    assert separated(group)
    np.testing.assert_array_equal(group, group_by_profile(PROFILES, 2))
    table = np.asarray(shared["item"].values)[..., 0]
    for s in (0, 1):
        np.testing.assert_allclose(
            table[:, group[s]], tastes.shares(s == ODD), atol=1e-3
        )
    # Also who never came is ranked by its group's model.
    away, personal, _ = tastes.play(recipe, [(0, 1, 2, 3)] * 30)
    own = jax.tree.map(lambda x: x[5], personal)
    scores = recipe.model.score(Params(shared=away, personal=own), (), {}, None)
    assert set(np.argsort(-np.asarray(scores))[:3] // 4) == {1}


@pytest.mark.parametrize("by", ["update", "profile"])
def test_one_cluster_is_the_recipe_itself(by):
    plain = tastes.one_model()._replace(server_optimizer=lambda h: optax.adam(0.1))
    if by == "update":
        recipe = wrap(ClusteredByUpdate(clusters=1, warm_rounds=2, sketch=16), plain)
    else:
        recipe = clustered_by_profile(plain, 1, PROFILES)
    shared, _, _ = tastes.play(recipe, [EVERYBODY] * 5)
    expected, _, _ = tastes.play(plain, [EVERYBODY] * 5)
    models = {name: shared[name] for name in expected}
    got = select(models, 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got,
        expected,
    )


def test_settings_that_cannot_separate_clients_are_refused():
    recipe = tastes.one_model()
    with pytest.raises(ValueError, match="without a message transform"):
        wrap(ClusteredByUpdate(), recipe._replace(transform=object()))
    with pytest.raises(ValueError, match="at least 1"):
        ClusteredByUpdate(warm_rounds=0)
    with pytest.raises(ValueError, match="2 clients have a profile"):
        clustered_by_profile(recipe, 3, np.eye(4)[[0, 1]] * [[1], [1]])
    made = by_update(clusters=4, sketch=8)
    shared = made.model.init(jax.random.key(0)).shared
    with pytest.raises(ValueError, match="cohort of 3"):
        made.aggregator.init(shared, 3)
