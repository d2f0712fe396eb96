"""Data, splits and partitions of one's own: what they return is checked."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.data.partition import labels_of
from fedjax_rec.data.returned import load_data
from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.experiment.prepared import load_prepared, prepare
from tests.own_rule import no_kinds  # noqa: F401

DATA = fr.SyntheticData(num_users=10, num_items=12, num_interactions=60).load()
TRAIN = fr.LeaveOneOut().split(DATA).train


def part(method, result):
    """Settings with one method that returns what is given."""

    @dataclasses.dataclass(frozen=True)
    class Mine:
        pass

    setattr(Mine, method, lambda self, *args: result(*args))
    return Mine()


def prepared(**changes):
    return prepare(fr.Experiment(name="x", **changes), DATA)


def replaced(data, **columns):
    return dataclasses.replace(data, **columns)


def test_a_split_by_masks_and_a_partition_by_labels():
    def by_parity(data):
        last = np.arange(len(data)) % 6
        return fr.split_by(data, val=last == 4, test=last == 5, name="every sixth")

    def by_genre(train):
        genre = np.array(train.items.attributes["genre"])
        return fr.partition_by(genre[train.item], train, "by_genre")

    split, partition = part("split", by_parity), part("partition", by_genre)
    laid_out = prepared(split=split, partition=partition)
    assert [len(laid_out.split.val), len(laid_out.split.test)] == [10, 10]
    genres = np.array(DATA.items.attributes["genre"])
    items = laid_out.split.train.item
    assert laid_out.clients.num_clients == len(set(genres[items]))
    sizes = [int((genres[items] == g).sum()) for g in sorted(set(genres[items]))]
    assert laid_out.holdings.examples.tolist() == sizes
    assert not laid_out.single


@pytest.mark.parametrize("labels", [TRAIN.user, [f"u{u:02}" for u in TRAIN.user]])
def test_a_label_for_each_user_is_one_client_for_each(labels):
    partition = fr.partition_by(labels, TRAIN, "mine")
    expected = fr.PerUser().partition(TRAIN)
    assert expected.user_of_client is not None
    np.testing.assert_array_equal(partition.client, expected.client)
    np.testing.assert_array_equal(partition.user_of_client, expected.user_of_client)


def test_labels_that_part_or_join_users_have_no_user_of_a_client():
    for labels in (
        TRAIN.user // 2,
        labels_of(TRAIN),
        TRAIN.user * 100 + TRAIN.item % 2,
    ):
        assert fr.partition_by(labels, TRAIN, "mine").user_of_client is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3), r"labels have shape \(3,\), expected \(40,\)"),
        (np.zeros((40, 1)), r"labels have shape \(40, 1\)"),
        (np.where(np.arange(40) == 7, np.nan, 1), "label 7 is NaN"),
    ],
)
def test_labels_of_another_shape_are_refused(labels, message):
    assert len(TRAIN) == 40
    with pytest.raises(ValueError, match=message):
        fr.partition_by(labels, TRAIN, "mine")


ALL = np.ones(60, bool)


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (ALL[:3], ~ALL, r"val is bool\[3\], expected bool\[60\]"),
        (~ALL, np.arange(60), r"test is int64\[60\], expected bool\[60\]"),
        (ALL, ALL, "val, test overlap; expected each interaction in one part"),
    ],
)
def test_masks_that_are_no_split_are_refused(val, test, message):
    with pytest.raises(ValueError, match=message):
        fr.split_by(DATA, val=val, test=test, name="mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": part("split", lambda data: data)}, "Mine.split returned a Interact"),
        (
            {
                "split": part(
                    "split", lambda d: fr.split_by(d, val=~ALL, test=ALL, name="m")
                )
            },
            "Mine: train has no interactions",
        ),
        (
            {"partition": part("partition", lambda train: train.user)},
            "Mine.partition returned a ndarray; expected a Partition, such as from",
        ),
    ],
)
def test_other_types_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(**changes)


PARTITION = fr.PerUser().partition(TRAIN)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"client": PARTITION.client[1:]},
            r"client is int32\[39\]; expected int32\[40\]",
        ),
        ({"client": PARTITION.client * 1.0}, r"client is float64\[40\]"),
        ({"num_clients": 9}, r"clients lie in \[0, 9\]; expected \[0, 9\)"),
        ({"user_of_client": np.arange(9, -1, -1)}, "user_of_client has to be the only"),
    ],
)
def test_broken_partitions_are_refused(columns, message):
    broken = replaced(PARTITION, **columns)
    with pytest.raises(ValueError, match=f"Mine: {message}"):
        prepared(partition=part("partition", lambda train: broken))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (None, r"Source.load\(...\) is a NoneType; expected Interactions"),
        ([1], r"Source.load\(...\) is a list; expected Interactions"),
        (DATA.take(np.arange(59, -1, -1)), "is not sorted by user, timestamp and pos"),
        (
            replaced(DATA, item=DATA.item + 1),
            r"has item in \[1, 12\]; expected \[0, 12\)",
        ),
        (replaced(DATA, item=DATA.item / 2), "has item of float64; expected int32"),
        (replaced(DATA, item=DATA.item[1:]), "columns of different lengths"),
    ],
)
def test_broken_interactions_are_refused(broken, message):
    @dataclasses.dataclass(frozen=True)
    class Source:
        def load(self, progress=False):
            return broken

    with pytest.raises(ValueError, match=message):
        load_prepared(fr.Experiment(name="x", data=Source()))
    with pytest.raises(ValueError, match=message):
        load_data(Source())


def test_a_frame_in_place_of_interactions_is_refused(tmp_path):
    frame: Any = {"user": ["a"], "item": ["b"]}
    experiment = fr.Experiment(name="x")
    with pytest.raises(ValueError, match="data is a dict; expected Interactions, such"):
        fr.build(experiment, data=frame)
    with pytest.raises(ValueError, match=r"expected .* from fedjax_rec.from_frame"):
        fr.train(experiment, tmp_path / "run", data=frame)


def test_a_part_of_other_items_is_refused():
    def split(data):
        whole = fr.LeaveOneOut().split(data)
        items = whole.test.items.take(np.arange(11))
        few = whole.test.take(whole.test.item < 11)
        return dataclasses.replace(whole, test=replaced(few, items=items))

    with pytest.raises(
        ValueError, match="Mine: test has 10 users and 11 items, the da"
    ):
        prepared(split=part("split", split))


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name):
    return load_module(EXAMPLES / f"{name}.py")


@pytest.mark.usefixtures("no_kinds")
def test_the_example_of_data_has_titles_and_dates():
    data = example("own_data").Diaries(readers=20, books=30).load(False)
    assert data.items.titles is not None
    for title, genre in zip(
        data.items.titles, data.items.attributes["genre"], strict=True
    ):
        assert title.startswith(f"The {genre} number ")
    dates = data.timestamp.astype("datetime64[ns]")
    assert {str(date)[:4] for date in dates} == {"2024"}
    own = example("own_data").GENRES[data.user % 4]  # readers in order of their ids
    same = np.array(data.items.attributes["genre"])[data.item] == own
    assert same.mean() > 0.4  # a fourth by chance


@pytest.mark.usefixtures("no_kinds")
def test_the_example_of_a_partition_knows_the_days_of_the_week():
    partition = example("own_partition").Weekday().partition(TRAIN)
    for time, client in zip(TRAIN.timestamp.tolist(), partition.client, strict=True):
        date = datetime.datetime.fromtimestamp(time, datetime.UTC)
        assert date.weekday() == client
    assert partition.user_of_client is None
    dated = replaced(TRAIN, timestamp=TRAIN.timestamp * 10**9)  # as from_frame has it
    same = example("own_partition").Weekday(unit="ns").partition(dated)
    np.testing.assert_array_equal(same.client, partition.client)
    recent = replaced(dated, timestamp=dated.timestamp + 1_700_000_000 * 10**9)
    with pytest.raises(ValueError, match="unit='s': the days lie after 2380"):
        example("own_partition").Weekday().partition(recent)


def test_a_split_without_a_mask_for_validation_has_none():
    last = np.arange(len(DATA)) % 6 == 5
    parts = fr.split_by(DATA, test=last, name="every sixth")
    assert [len(parts.val), len(parts.test)] == [0, int(last.sum())]
    assert len(parts.train) == len(DATA) - last.sum()


@pytest.mark.usefixtures("no_kinds")
def test_the_example_of_a_split_leaves_one_of_each_user_out():
    cls = example("own_split").RandomOne
    parts = cls(seed=1).split(DATA)
    assert not parts.by_time
    for part in (parts.val, parts.test):
        np.testing.assert_array_equal(part.user, np.arange(10))
    same, other = cls(seed=1).split(DATA), cls(seed=2).split(DATA)
    np.testing.assert_array_equal(same.test.item, parts.test.item)
    assert (other.test.item != parts.test.item).any()
    few = cls(least=7).split(DATA)
    enough = np.flatnonzero(np.bincount(DATA.user) >= 7)
    np.testing.assert_array_equal(few.test.user, enough)


@pytest.mark.usefixtures("no_kinds")
def test_the_example_of_a_metric_counts_genres():
    genres = [set(text.split("|")) for text in DATA.items.attributes["genre"]]
    items, scores = np.arange(12), np.arange(12.0)[::-1]
    ranking = fr.Ranking(
        user=jnp.int32(0),
        items=jnp.asarray(items),
        scores=jnp.asarray(scores),
        candidates=jnp.asarray(items != 1),
        positives=jnp.zeros(12, bool),
    )
    for k in (1, 3, 20):
        metric = example("own_metric").Variety(k=k)
        shown = [genres[i] for i in [0, *range(2, 12)][:k]]
        expected = len(set().union(*shown)) / len(set().union(*genres))
        value = metric.build(TRAIN)(ranking)[f"variety@{k}"]
        assert float(value) == pytest.approx(expected)
