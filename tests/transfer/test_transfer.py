import dataclasses
import json
import re
import shlex
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    IFCA,
    BackboneConfig,
    EmbeddingAdapter,
    Execution,
    Experiment,
    FedAdam,
    FedFM,
    FedMF,
    FileData,
    History,
    LeaveLast,
    LoRA,
    Novelty,
    Protocol,
    SyntheticData,
    UserVector,
    VectorAndHistory,
)
from fedjax_rec.cli import main
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.rows import Table
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.evaluation.targets import make_targets
from fedjax_rec.experiment.build import build
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.models.two_tower import VECTORS
from fedjax_rec.runs.folder import read_run
from fedjax_rec.transfer import run as transfer
from fedjax_rec.transfer.audiences import (
    Audience,
    client_data,
    load_target,
    shuffled,
    source_audience,
    target_audience,
)
from fedjax_rec.transfer.config import FewShot, Target, check
from fedjax_rec.transfer.ranking import Ranker, lifted_recipe, tune_client

ALGORITHM = FedFM(
    adapter=LoRA(rank=2),
    dim=8,
    users=History(length=5, heads=1),
    batch_size=100_000,
    server_optimizer=FedAdam(lr=1e-3),
)
RANKER = Ranker(algorithm=ALGORITHM)
TARGET = Target(
    data=SyntheticData(num_users=90, num_items=70, num_interactions=900, seed=5),
    users=80,
)


def experiment(**fields):
    return Experiment(
        name="small",
        data=SyntheticData(num_users=40, num_items=60, num_interactions=500),
        algorithm=ALGORITHM,
        backbone=BackboneConfig(name="tiny"),
        execution=Execution(max_buckets=1),
        rounds=2,
        eval_every=1,
        **fields,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDJAX_REC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(cache):
    simulation = build(experiment())
    return simulation, transfer.train_source(simulation)


@pytest.fixture(scope="module")
def held(cache):
    return load_target(experiment(), TARGET)


@pytest.fixture(scope="module")
def lifted_target(source, held):
    """The target, and the trained parameters lifted to it."""
    _, trained = source
    versions = {"trained": trained.trained}
    audience, lifted = target_audience(experiment(), held, versions)
    return audience, lifted["trained"]


def hand_made():
    """Two users, four items in the plane; a user is the mean of its history."""
    embedding = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    users = Entities(ids=["a", "b"])
    items = Entities(ids=list("wxyz"))
    data = make_interactions(
        user=np.array([0, 0, 1, 1, 1]),
        item=np.array([0, 1, 1, 2, 0]),
        users=users,
        items=items,
    )
    split = LeaveLast().split(data)
    protocol = Protocol(cutoffs=(1, 2), selection="last")
    targets = make_targets(
        positives=(split.test.user, split.test.item),
        known=[(split.train.user, split.train.item)],
        num_users=2,
        num_items=4,
        protocol=protocol,
    )
    frozen = {"embedding": embedding, "history": jnp.array([[0, 4], [2, 1]])}
    lifted = {
        "common": {"user": jnp.array([0.0, 0.1]), "bias": jnp.float32(0)},
        "history": {
            "query": jnp.zeros((2, 1)),
            "recency": jnp.zeros((2, 1)),
            "value": jnp.eye(2)[None],
            "bias": jnp.zeros(2),
        },
        VECTORS: Table(values=embedding, per_row=False),
    }
    data = client_data(split.train, np.arange(2), 20)
    return Audience(targets, data, frozen, protocol), lifted


def test_lifted_parameters_do_for_every_setting_of_training():
    _, lifted = hand_made()
    plain = dataclasses.replace(ALGORITHM, dim=2, users=History(length=2, heads=1))
    other = dataclasses.replace(
        plain, fixed=("lora_a", "head"), adapter=EmbeddingAdapter()
    )
    for algorithm in (plain, other):
        recipe = lifted_recipe(algorithm, lifted, 4, ("common",))
        assert recipe.model.init(jax.random.key(0)).personal.keys() == {"common"}


def test_scores_by_hand():
    audience, lifted = hand_made()
    algorithm = dataclasses.replace(ALGORITHM, dim=2, users=History(length=2, heads=1))
    model = lifted_recipe(algorithm, lifted, 4).model
    params = Params(shared=lifted, personal={})
    # User a: w + (0, .1) = (1, .1). User b: (y + x) / 2 + (0, .1) = (.4, .9).
    for user, vector in ((0, (1.0, 0.1)), (1, (0.4, 0.9))):
        scores = model.score(params, audience.frozen, {"user": jnp.int32(user)}, None)
        expected = audience.frozen["embedding"] @ jnp.array(vector)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
    # a looks for x among x, y, z and puts it first; b for w among w and z: first.
    ranker = Ranker(algorithm=algorithm)
    metrics = ranker.zero_shot(audience, lifted)
    np.testing.assert_array_equal(metrics["hr@1"], [1, 1])
    # Texts of w and z exchanged: a is (-1, .1), y comes before x, and x before z; b is
    # as it was, and z comes before w.
    swapped = jnp.array([3, 1, 2, 0])
    mixed = {**lifted, VECTORS: Table(values=lifted[VECTORS].values[swapped])}
    audience = audience._replace(
        frozen={**audience.frozen, "embedding": audience.frozen["embedding"][swapped]}
    )
    metrics = ranker.zero_shot(audience, mixed)
    np.testing.assert_array_equal(metrics["hr@1"], [0, 0])
    np.testing.assert_array_equal(metrics["auc"], [0.5, 0])


def test_lifted_scores_are_those_of_the_whole_model(source):
    simulation, trained = source
    audience = source_audience(simulation, 20, 0, 0)
    lifted = jax.jit(simulation.recipe.model.lift)(trained.trained, simulation.frozen)
    metrics = transfer.means(RANKER.zero_shot(audience, lifted))
    last = trained.result["metrics"]["val"]
    assert metrics["ndcg@10"] == pytest.approx(last["ndcg@10"], abs=1e-6)
    assert metrics["auc"] == pytest.approx(last["auc"], abs=1e-6)


def test_parameters_are_those_of_the_selected_round(source):
    simulation, trained = source
    state = simulation.state
    simulation.state = dataclasses.replace(state, shared=trained.trained)
    value = simulation.evaluate("val")["ndcg@10"]
    simulation.state = dataclasses.replace(state, shared=trained.untrained)
    before = simulation.evaluate("val")["ndcg@10"]
    simulation.state = state
    assert value == pytest.approx(trained.result["metrics"]["val"]["ndcg@10"])
    assert before == pytest.approx(trained.untrained_val["ndcg@10"])


def test_texts_carry_over_and_shuffled_ones_fall_to_chance(lifted_target, held):
    audience, lifted = lifted_target
    metrics = transfer.means(RANKER.zero_shot(audience, lifted))
    assert metrics["auc"] > 0.6
    mixed = [
        transfer.means(RANKER.zero_shot(*shuffled(audience, lifted, seed)))
        for seed in range(8)
    ]
    assert np.mean([m["auc"] for m in mixed]) == pytest.approx(0.5, abs=0.05)
    # The same texts as BackboneConfig.shuffle_texts gives.
    train = held.split.train
    plain, texts = (
        Corpus(BackboneConfig(name="tiny", shuffle_texts=mixed), train).texts
        for mixed in (False, True)
    )
    order = np.random.default_rng(0).permutation(len(plain))
    assert texts == [plain[i] for i in order]
    other, _ = shuffled(audience, lifted, 0)
    np.testing.assert_array_equal(
        other.frozen["embedding"], audience.frozen["embedding"][order]
    )


def test_a_ranking_knows_the_users_own_history_and_no_more(lifted_target, held, source):
    audience, lifted = lifted_target
    users = held.users[::9]
    fewer = held._replace(
        users=users,
        split=dataclasses.replace(
            held.split,
            train=held.split.train.take(np.isin(held.split.train.user, users)),
            test=held.split.test.take(np.isin(held.split.test.user, users)),
        ),
    )
    versions = {"trained": source[1].trained}
    without, again = target_audience(experiment(), fewer, versions)
    rows = np.isin(held.users, users)
    for run in (RANKER.zero_shot, lambda *a: RANKER.tuned(*a, steps=2, lr=0.1)):
        everyone = run(audience, lifted)
        few = run(without, again["trained"])
        for name in few:
            np.testing.assert_allclose(everyone[name][rows], few[name], atol=1e-6)


def test_few_shot(lifted_target, held):
    audience, lifted = lifted_target
    zero = RANKER.zero_shot(audience, lifted)
    none = RANKER.tuned(audience, lifted, steps=0, lr=1.0)
    three = RANKER.tuned(audience, lifted, steps=3, lr=0.3)
    for name in zero:
        np.testing.assert_allclose(zero[name], none[name], atol=1e-6)
    assert any((zero[name] != three[name]).any() for name in zero)

    # A step is plain SGD on the loss over the client's own pairs.
    recipe = lifted_recipe(ALGORITHM, lifted, held.split.train.num_items, ("common",))
    train = tune_client(recipe, ALGORITHM, ("common",), audience.data.widths[0])
    shared = {k: v for k, v in lifted.items() if k != "common"}
    own, key = {"common": lifted["common"]}, jax.random.key(3)
    examples = audience.data.examples(jnp.int32(held.users[0]), 0)
    once = train(shared, own, audience.frozen, examples, jnp.int32(1), 0.5, key)
    draw_key = jax.random.split(jax.random.fold_in(key, 0), 3)[0]
    assert recipe.local.draw is not None
    batch = recipe.local.draw(examples, draw_key)
    number = batch["item"]
    gradient = jax.grad(
        lambda own: recipe.model.loss(
            Params(shared=shared, personal=own),
            audience.frozen,
            {**batch, "item": jnp.minimum(number, held.split.train.num_items - 1)},
            key,
            {},
        )[0]
    )(own)
    expected = jax.tree.map(lambda x, g: x - 0.5 * g, own, gradient)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_clients_never_see_held_out_items(lifted_target, held):
    audience, _ = lifted_target
    train, test = held.split.train, held.split.test
    for user in held.users[:10]:
        examples = audience.data.examples(jnp.int32(user), 0)
        items = np.asarray(examples["item"])[np.asarray(examples["mask"])]
        np.testing.assert_array_equal(items, train.item[train.user == user][-20:])
        hidden = test.item[test.user == user]
        assert not np.isin(hidden, items).any()
        assert not np.isin(hidden, np.asarray(examples["exclude"])).any()
    # Only the targets depend on the held-out items.
    other = client_data(train, held.users, 20)
    jax.tree.map(np.testing.assert_array_equal, audience.data, other)


def test_a_client_trains_on_a_window_but_draws_nothing_it_holds(held):
    train = held.split.train
    data = client_data(train, held.users, 3)
    assert data.widths == (3,)
    user = int(np.bincount(train.user).argmax())
    data = client_data(train, np.array([user]), 3)
    examples = data.examples(jnp.int32(user), 0)
    history = train.item[train.user == user]
    np.testing.assert_array_equal(examples["item"], history[-3:])
    np.testing.assert_array_equal(examples["exclude"], np.sort(history))


def test_validation_of_the_source_chooses_the_rate(source):
    simulation, trained = source
    audience = source_audience(simulation, 20, 30, 0)
    assert audience.targets.user.shape == (30,)
    lifted = jax.jit(simulation.recipe.model.lift)(trained.trained, simulation.frozen)
    few = FewShot(lr=(1e-9, 0.1), steps=(1, 3))
    metric = transfer.selection_metric(experiment())
    rate, values = transfer.choose_rate(RANKER, audience, lifted, few, metric)
    assert list(values) == ["1e-09", "0.1"]
    best = max(values, key=lambda name: sum(values[name].values()))
    assert f"{rate:g}" == best
    zero = RANKER.zero_shot(audience, lifted)["ndcg@10"].mean()
    assert values["1e-09"]["3"] == pytest.approx(zero, abs=1e-6)


def test_differences_are_taken_user_by_user():
    rankings = {
        "zero_shot": {"ndcg@10": np.array([1.0, 0.5])},
        "random": {"ndcg@10": np.array([0.0, 0.5])},
    }
    gap = transfer.differences(rankings, "ndcg@10")["random"]
    assert gap == pytest.approx({"mean": 0.5, "standard_error": 0.5 / 2**0.5})


def changed(**fields):
    return dataclasses.replace(
        experiment(), algorithm=dataclasses.replace(ALGORITHM, **fields)
    )


@pytest.mark.parametrize(
    ("source_of", "target", "words"),
    [
        (
            dataclasses.replace(experiment(), algorithm=FedMF()),
            TARGET,
            "FedMF trains a table of the source's items",
        ),
        (changed(users=UserVector()), TARGET, "users=History()"),
        (changed(users=VectorAndHistory()), TARGET, "no vectors of their own"),
        (changed(id_residual=True), TARGET, "id_residual"),
        (changed(personal=("lora_b",)), TARGET, "no target user has these groups"),
        (experiment(), Target(data=experiment().data), "the source's own data"),
        (
            dataclasses.replace(experiment(), protocol=Protocol(metric=Novelty())),
            TARGET,
            "protocol.metric is not computed in a transfer",
        ),
    ],
)
def test_systems_that_cannot_transfer_are_refused(source_of, target, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check(source_of, target)


@pytest.mark.parametrize(
    ("settings", "fields", "words"),
    [
        (Target, {"users": -1}, "target.users=-1"),
        (FewShot, {"steps": (3, 1)}, "increasing"),
        (FewShot, {"steps": (0, 1)}, "zero-shot row"),
        (FewShot, {"lr": ()}, "at least one positive rate"),
        (FewShot, {"tune": ("head",)}, "encode the whole catalog"),
        (FewShot, {"window": 0}, "window=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, fields, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        settings(**fields)


def test_a_source_of_several_models_is_refused(cache):
    algorithm = dataclasses.replace(ALGORITHM, adapter=None)
    several = dataclasses.replace(experiment(wrapper=IFCA()), algorithm=algorithm)
    with pytest.raises(ValueError, match="several models"):
        transfer.check_source(build(several), FewShot())


def test_a_source_without_validation_cannot_choose(cache):
    simulation = build(
        experiment(split=LeaveLast(), protocol=Protocol(selection="last"))
    )
    with pytest.raises(ValueError, match="Give one rate"):
        transfer.check_source(simulation, FewShot())
    transfer.check_source(simulation, FewShot(lr=(0.1,)))


CONFIG = """
    '''What to expect.'''
    from fedjax_rec import (
        BackboneConfig, Execution, Experiment, FedAdam, FedFM, History, SyntheticData
    )

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=40, num_items=60, num_interactions=500),
            algorithm=FedFM(
                adapter=None, dim=8, users=History(length=5, heads=1),
                batch_size=100_000, server_optimizer=FedAdam(lr=1e-3),
            ),
            backbone=BackboneConfig(name="tiny"),
            execution=Execution(max_buckets=1),
            rounds=1,
            eval_every=1,
        )
"""
FLAGS = shlex.split(
    "--target synthetic --target.data.num-users 50 --target.data.num-items 70 "
    "--target.data.num-interactions 500 --target.data.seed 5 --target.users 30 "
    "--few-shot.lr 0.1 --few-shot.steps 1 2 --output out"
)


def test_the_command_writes_a_folder(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "small.py"
    config.write_text(textwrap.dedent(CONFIG))
    assert main(["transfer", str(config), *FLAGS, "--seed", "1"]) == 0
    shown = capsys.readouterr()
    for text in (
        "popularity (sees the target)",
        "few-shot, 2 local steps",
        "zero-shot",
    ):
        assert text in shown.out
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert list(result["rankers"]) == [
        "random", "popularity", "shuffled", "untrained", "zero_shot", "few_shot_1",
        "few_shot_2", "untrained_1", "untrained_2",
    ]  # fmt: skip
    assert result["data"]["evaluated"] == 30
    assert result["few_shot"]["lr"] == 0.1
    seconds = read_run(tmp_path / "out").seconds
    assert seconds.keys() >= {"train", "encode", "rank", "choose", "total"}
    saved = json.loads((tmp_path / "out/config.json").read_text())
    assert saved["seed"] == 1
    assert saved["target"]["users"] == 30
    report = (tmp_path / "out/report.md").read_text()
    assert "which no other row sees" in " ".join(report.split())
    assert (tmp_path / "out/few_shot.png").exists()
    # A transfer can be compared with other runs.
    assert main(["report", "out"]) == 0
    # The same again does not overwrite.
    assert main(["transfer", str(config), *FLAGS, "--seed", "1"]) == 2
    assert "finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "amazom"], "Did you mean amazon?"),
        (["--target", "amazon"], "Pass --target.data.dir DIR"),
        (["--target.data.dir", "nowhere"], "nowhere"),
        (["--algorithm", "fedmf"], "expected a system that reads texts"),
        (["--algorithm.users", "vector"], "users=History()"),
        (["--target.template", "{colour}", *FLAGS], "colour"),
    ],
)
def test_mistakes_are_reported_before_anything_is_computed(
    cache, tmp_path, monkeypatch, capsys, flags, words
):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "small.py"
    config.write_text(textwrap.dedent(CONFIG))
    monkeypatch.setattr(
        "fedjax_rec.cli.transferring.build", lambda *a, **k: pytest.fail("built")
    )
    assert main(["transfer", str(config), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs")) + list(tmp_path.glob("out"))


def test_a_missing_folder_is_reported():
    spec = FileData(source="movielens-1m", dir="nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        load_target(experiment(), Target(data=spec))
