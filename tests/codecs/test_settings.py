"""Settings of codecs: the values they refuse, and the imports they cost."""

import subprocess
import sys

import numpy as np
import pytest

from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.low_rank import SVD, PowerSGD
from fedjax_rec.codecs.quantize import QSGD, BlockInt, Float32, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, RotatedQSGD, rotated
from fedjax_rec.codecs.sparsify import RandomK, RowTopK, Threshold, TopK
from tests.codecs.deltas import CONTEXT
from tests.codecs.every_codec import CODECS

LIGHT = (
    "fedjax_rec.codecs.dgc",
    "fedjax_rec.codecs.feedback",
    "fedjax_rec.codecs.low_rank",
    "fedjax_rec.codecs.quantize",
    "fedjax_rec.codecs.rotate",
    "fedjax_rec.codecs.sparsify",
    "fedjax_rec.contrib.colr",
    "fedjax_rec.wrappers.fetch_sgd",
)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (QSGD, {"bits": 1}, "bits=1: expected 2 to 16 bits a number"),
        (QSGD, {"bits": 17}, "bits=17: expected 2 to 16 bits a number"),
        (QSGD, {"norm": "l1"}, "norm='l1': expected one of .'l2', 'max'."),
        (QSGD, {"bucket": 0}, "bucket must be at least 1, got 0"),
        (QSGD, {"feedback": "auto"}, "feedback='auto': expected one of .'none', 'ef'"),
        (BlockInt, {"bits": 1}, "bits=1: expected 2 to 16 bits a number"),
        (BlockInt, {"block": 0}, "block must be at least 1, got 0"),
        (TernGrad, {"clip": 0.0}, "clip=0.0: expected a positive number of standard"),
        (Sign, {"scale": "max"}, "scale='max': expected one of .'mean', 'projection'."),
        (Sign, {"bucket": 0}, "bucket must be at least 1, got 0"),
        (RotatedQSGD, {"block": 100}, "block=100: expected a power of two"),
        (RotatedQSGD, {"bits": 1}, "bits=1: expected 2 to 16 bits a number"),
        (Drive, {"block": 100}, "block=100: expected a power of two"),
        (TopK, {"fraction": 0.0}, r"between 0\.0001 and 1, got 0"),
        (TopK, {"fraction": 1.5}, r"between 0\.0001 and 1, got 1\.5"),
        (TopK, {"scope": "tree"}, "scope='tree': expected one of .'leaf', 'all'."),
        (TopK, {"then": Sign()}, "then=Sign.*: expected a codec with feedback='none'"),
        (RowTopK, {"fraction": 2.0}, r"between 0\.0001 and 1, got 2"),
        (RandomK, {"fraction": np.nan}, "fraction must be finite and not negative"),
        (Threshold, {"least": 0.0}, "least=0.0: expected a positive threshold"),
        (Threshold, {"least": np.inf}, "least must be finite"),
        (Threshold, {"most": 0.0}, r"between 0\.0001 and 1, got 0"),
        (DGC, {"momentum": 1.0}, r"momentum=1.0: expected a number in \[0, 1\)"),
        (DGC, {"clip": 0.0}, "clip=0: expected a positive norm"),
        (DGC, {"scope": "tree"}, "scope='tree': expected one of .'leaf', 'all'."),
        (DGC, {"fractions": ()}, r"fractions=\(\): expected at least one share"),
        (DGC, {"fractions": (0.5, 2.0)}, "got 2"),
        (DGC, {"then": TopK()}, "then=TopK.*: expected a codec with feedback='none'"),
        (TopK, {"then": DGC()}, "then=DGC.*: expected a codec with feedback='none'"),
        (SVD, {"rank": 0}, "rank must be at least 1, got 0"),
        (PowerSGD, {"rank": 0}, "rank must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


@pytest.mark.parametrize("then", [RowTopK(feedback="none"), SVD(feedback="none")])
def test_codecs_of_rows_and_matrices_follow_no_other(then):
    with pytest.raises(ValueError, match="cannot follow another codec in `then`"):
        TopK(then=then).build(CONTEXT)


def test_a_block_that_is_no_power_of_two_is_not_rotated():
    with pytest.raises(ValueError, match="block=100: expected a power of two"):
        rotated(Float32().link(), 100)


def test_settings_are_values():
    assert TopK() == TopK(fraction=0.1, scope="leaf", then=None, feedback="ef")
    assert len(set(CODECS.values())) == len(CODECS)
    with pytest.raises(AttributeError):
        TopK().fraction = 0.2  # pyright: ignore


def test_settings_load_neither_jax_nor_numpy():
    code = (
        f"import importlib, sys\nfor name in {LIGHT}: importlib.import_module(name)\n"
        "from fedjax_rec.codecs.sparsify import TopK\n"
        "from fedjax_rec.codecs.rotate import RotatedQSGD\n"
        "TopK(then=RotatedQSGD())\n"
        "print([m for m in ('jax', 'numpy', 'optax') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"
