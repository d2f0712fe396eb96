"""Codecs: what shrinks a client's message, with its exact size in bits."""

from collections.abc import Callable

from fedjax_rec.codecs.dgc import dgc
from fedjax_rec.codecs.feedback import ef21, error_feedback
from fedjax_rec.codecs.links import bf16, chain, float32
from fedjax_rec.codecs.quantize import block_int, qsgd, terngrad
from fedjax_rec.codecs.signs import drive, rotate, sign
from fedjax_rec.codecs.sparsify import random_k, row_top_k, threshold, top_k
from fedjax_rec.codecs.whole import joined, leafwise
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core.messages import MessageTransform

__all__ = [
    "CODECS",
    "bf16",
    "block_int",
    "chain",
    "dgc",
    "drive",
    "ef21",
    "error_feedback",
    "float32",
    "joined",
    "leafwise",
    "num_bits",
    "qsgd",
    "random_k",
    "rotate",
    "row_top_k",
    "sign",
    "terngrad",
    "threshold",
    "top_k",
]

CODECS: dict[str, Callable[[], MessageTransform]] = {
    "float32": leafwise,
    "bf16": lambda: leafwise(bf16()),
    "int8": lambda: leafwise(block_int(8)),
    "int4": lambda: leafwise(block_int(4)),
    "qsgd": lambda: leafwise(qsgd(bits=4)),
    "rotated_qsgd": lambda: leafwise(rotate(), qsgd(bits=4, bucket=256)),
    "terngrad": lambda: leafwise(terngrad()),
    "drive": lambda: leafwise(drive()),
    "sign": lambda: error_feedback(leafwise(sign())),
    "top_k": lambda: error_feedback(leafwise(top_k(0.1))),
    "global_top_k": lambda: error_feedback(joined(top_k(0.1))),
    "top_k_qsgd": lambda: error_feedback(
        leafwise(top_k(0.1), qsgd(bits=4, norm="max"))
    ),
    "random_k": lambda: leafwise(random_k(0.1)),
    "threshold": lambda: error_feedback(leafwise(threshold(1e-3))),
    "row_top_k": lambda: error_feedback(leafwise(row_top_k(0.25))),
    "ef21": lambda: ef21(leafwise(top_k(0.1))),
    "dgc": dgc,
}
"""Codecs by name, as a run names them; what loses without bias needs no feedback."""
