"""What a run's folder gives later: lists, an export, a start for another run."""

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedjax_rec as fr
from fedjax_rec.cli import main
from fedjax_rec.storage.errors import FileError

CONFIG = '''
    """Small."""
    from fedjax_rec import Execution, Experiment, PFedRec, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=60, num_items=80, num_interactions=900),
            algorithm=PFedRec(dim=4, negatives=1),
            execution=Execution(max_buckets=1),
            rounds=2,
            eval_every=1,
        )
'''


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a config, a cache, and a run of it."""
    root = tmp_path_factory.mktemp("after")
    (root / "small.py").write_text(textwrap.dedent(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("FEDJAX_REC_CACHE", str(root / "cache"))
        assert main(["train", "small.py", "--output", "run", "--quiet"]) == 0
    return root


@pytest.fixture
def inside(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(trained / "cache"))
    return trained


def test_another_process_recommends_the_same_and_changes_nothing(inside, shows):
    before = contents(inside / "run")
    model = fr.load("run")
    users = model.simulation.served_users()
    assert len(users) == 60
    lists = model.recommend(users, k=5)
    test = model.simulation.evaluate("test")
    assert test == pytest.approx(model.result["metrics"]["test"], abs=1e-6)
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec", "recommend", "run", "--users", "all",
         "-k", "5", "--output", "lists.csv"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "written: lists.csv" in done.stdout
    with open("lists.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [
        (user, str(place), x.item, x.title)
        for user, items in zip(users, lists, strict=True)
        for place, x in enumerate(items, 1)
    ]
    names = ("user", "rank", "item", "title")
    assert [tuple(line[name] for name in names) for line in lines] == expected
    scores = [x.score for items in lists for x in items]
    np.testing.assert_allclose([float(x["score"]) for x in lines], scores, rtol=1e-5)
    assert contents(inside / "run") == before
    text = shows("recommend", "run", "--user", "u7", "-k", "2")
    first, second = lists[users.index("u7")][:2]
    assert first.title in text
    assert f"{second.score:.4f}" in text


def test_parquet_holds_the_same_table(inside, shows):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    words = ("recommend", "run", "--user", "u7", "u9", "-k", "3", "--output")
    shows(*words, "few.csv")
    shows(*words, "few.parquet")
    frame = pandas.read_parquet("few.parquet")
    assert frame.user.tolist() == ["u7"] * 3 + ["u9"] * 3
    lines = pandas.read_csv("few.csv")
    assert frame.drop(columns="score").equals(lines.drop(columns="score"))


def test_an_export_is_read_without_the_package(inside, shows, fails):
    shows("export", "run", "--output", "out")
    arrays = load_file("out/parameters.safetensors")
    ids = json.loads((inside / "out" / "ids.json").read_text())
    assert json.loads((inside / "out" / "config.json").read_text())["rounds"] == 2
    assert (
        ids["round"] == json.loads((inside / "run/result.json").read_text())["selected"]
    )
    assert {name: array.shape for name, array in arrays.items()} == {
        "shared.item": (80, 4),
        "personal.scorer.w": (60, 4),
        "personal.scorer.b": (60,),
    }
    assert ids["rows"] == {"shared.item": "item"}
    # The paper's score, by NumPy: the items' vectors times the client's own scorer.
    row = ids["clients"].index("u7")
    scores = arrays["shared.item"] @ arrays["personal.scorer.w"][row]
    scores += arrays["personal.scorer.b"][row]
    best = fr.load("run").recommend("u7", 3, exclude_seen=False)
    order = np.argsort(-scores)[:3]
    assert [x.item for x in best] == [ids["items"][i] for i in order]
    np.testing.assert_allclose([x.score for x in best], scores[order], rtol=1e-4)
    assert "is not empty" in fails("export", "run", "--output", "out")


def other_data():
    """Data with items i40 to i99 in reverse order, and users u30 to u69."""
    from fedjax_rec.data.interactions import Entities, make_interactions

    draw = np.random.default_rng(0)
    return make_interactions(
        user=np.repeat(np.arange(40), 10),
        item=np.concatenate([draw.permutation(60)[:10] for _ in range(40)]),
        users=Entities(ids=[f"u{i}" for i in range(30, 70)]),
        items=Entities(ids=[f"i{i}" for i in reversed(range(40, 100))]),
        name="other",
    )


def test_a_start_matches_items_and_users_by_their_ids(inside):
    experiment, data = fr.load("run").experiment, other_data()
    fresh = fr.build(experiment, data=data)
    sim = fr.build(experiment, data=data, start="run")
    note = sim.notes["started_from"]
    assert note["items"] == {"matched": 40, "new": 20, "unused": 40}
    assert note["users"] == {"matched": 30, "new": 10, "unused": 30}
    assert "40 items matched by id, 20 new, 40 of that run unused" in sim.why[-1]
    old = load_file("run/model/parameters.safetensors")
    ids = json.loads((inside / "run/model/ids.json").read_text())
    for row, item in enumerate(data.items.ids):
        expected = fresh.shared["item"][row]
        if item in ids["items"]:
            expected = old["shared.item"][ids["items"].index(item)]
        np.testing.assert_array_equal(sim.shared["item"][row], expected)
    for user in ("u30", "u59", "u60"):
        expected = fresh.client(user)["scorer"]["w"]
        if user in ids["clients"]:
            row = ids["clients"].index(user)
            expected = old["personal.scorer.w"][row]
        np.testing.assert_array_equal(sim.client(user)["scorer"]["w"], expected)
    assert len(sim.step()) == 2


def test_a_run_that_starts_from_another_reports_it(inside, shows, fails, capsys):
    words = ["train", "small.py", "--start-from", "run", "--rounds", "1", "--output"]
    assert main([*words, "more"]) == 0
    output = capsys.readouterr()
    assert "80 items matched by id, 0 new" in output.err
    result = json.loads((inside / "more/result.json").read_text())
    assert result["started_from"]["users"]["matched"] == 60
    versions = json.loads((inside / "more/versions.json").read_text())
    assert versions["started_from"] == str(inside / "run")
    text = fails(*words, "wide", "--algorithm.dim", "5")
    assert "scorer.w is [60, 4] there and [60, 5] here" in text
    text = fails(*words, "other", "--algorithm", "fedmf")
    assert "personal.scorer.b: [60] there, absent here" in text
    assert not (inside / "wide").exists()


def test_what_is_missing_is_said_before_any_data_are_read(inside, fails, monkeypatch):
    (inside / "empty").mkdir(exist_ok=True)
    for text, words in (
        ("holds no model", ("recommend", "empty", "--user", "u1")),
        ("holds no model", ("export", "absent")),
        ("holds no model", ("train", "small.py", "--start-from", "empty")),
        ("expected one of --user", ("recommend", "run")),
        ("-k 0", ("recommend", "run", "--user", "u1", "-k", "0")),
        ("FILE.csv", ("recommend", "run", "--user", "u1", "--output", "x.txt")),
        ("needs --output", ("recommend", "run", "--users", "all")),
        ("expected the folder of a run", ("recommend", "--user", "u1")),
        ("leave out --start-from",
         ("train", "--resume", "run", "--start-from", "run")),
    ):  # fmt: skip
        assert text in fails(*words)
    assert "'u99' not found" in fails("recommend", "run", "--user", "u99")
    assert "never fitted" in fails("recommend", "run", "--items", "i1,i2")


def test_train_in_python_returns_the_simulation_and_writes_a_folder(inside):
    experiment = dataclasses.replace(fr.load("run").experiment, name="python")
    data = other_data()
    result, sim = fr.train(experiment, "python", data=data, start="run")
    assert sim.selected is not None
    assert result["selected"] == sim.selected.round
    stored = json.loads((inside / "python/result.json").read_text())
    assert stored["metrics"] == result["metrics"]
    assert stored["started_from"]["items"]["matched"] == 40
    model = fr.load("python", data=data)
    assert model.recommend("u30") == sim.recommend("u30")
    config = json.loads((inside / "python/config.json").read_text())["data"]
    assert (config["type"], config["name"]) == ("GivenData", data.name)
    with pytest.raises(FileError, match=r"were given in Python.*load\(RUN, data="):
        fr.load("python")
    with pytest.raises(FileError, match=r"was trained on other data"):
        fr.load("python", data=data.take(data.user > 0))
    with pytest.raises(FileError, match=r"finished run of the same config"):
        fr.train(experiment, "python", data=data)
