"""The backbone that needs no file."""

import itertools

import jax
import numpy as np
import pytest

from fedjax_rec.backbones.tiny import CLS, SEP, tiny
from fedjax_rec.storage.errors import FileError

TOPICS = [
    ["red running shoes", "red leather shoes", "shoes for running, leather"],
    ["a wooden garden table", "garden chair, wooden", "the garden table"],
    ["space opera film", "a film about space", "opera film"],
    ["戦争 映画", "戦争 と 平和", "平和 映画"],
]


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_share_words_are_more_similar(vectors, seed):
    texts = list(itertools.chain(*TOPICS))
    topic = np.repeat(np.arange(len(TOPICS)), 3)
    found = vectors(*tiny(seed=seed), texts)
    cosine = found @ found.T
    np.testing.assert_allclose(np.diag(cosine), 1, rtol=1e-5)
    alike = (topic[:, None] == topic) & ~np.eye(len(texts), dtype=bool)
    other = topic[:, None] != topic
    assert cosine[alike].mean() > cosine[other].mean() + 0.1
    # The nearest other text is mostly of the same topic; by chance, 2 in 11.
    nearest = np.where(np.eye(len(texts), dtype=bool), -2, cosine).argmax(-1)
    assert (topic[nearest] == topic).mean() > 0.7


def test_tokens_are_words_between_two_special_ones():
    tokenize = tiny(max_tokens=6)[0].tokenize
    empty, one, same, long = tokenize(["", "Heat!", "heat !", "a b c d e f g"])
    assert empty.tolist() == [CLS, SEP]
    np.testing.assert_array_equal(one, same)
    assert len(one) == 4
    assert len(long) == 6
    assert long[-1] == SEP
    assert all(row.dtype == np.int32 for row in (empty, one, long))
    # crc32(b"heat") = 0xba44e6f8 on every machine
    assert one[1] == 3 + 0xBA44E6F8 % 1021


def test_the_seed_decides_and_nothing_else():
    (a, first), (b, again), (c, other) = tiny(), tiny(), tiny(seed=1)
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.fingerprint != tiny(dtype="bfloat16")[0].fingerprint
    leaves = [jax.tree.leaves(tree) for tree in (first, again, other)]
    assert all(map(np.array_equal, leaves[0], leaves[1]))
    assert not all(map(np.array_equal, leaves[0], leaves[2]))
    # NumPy promises its stream: the same numbers tomorrow and elsewhere.
    assert first["embeddings"]["token"][5, 0] == pytest.approx(2.6582766)


@pytest.mark.parametrize(
    "options", [{"max_tokens": 2}, {"dtype": "int8"}, {"width": 30, "num_heads": 4}]
)
def test_options_that_make_no_sense(options):
    with pytest.raises(FileError, match="expected"):
        tiny(**options)
