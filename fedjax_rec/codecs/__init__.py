"""Codecs: message transforms that shrink a client's message, with its size in bits."""

from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.low_rank import SVD, PowerSGD
from fedjax_rec.codecs.quantize import BF16, QSGD, BlockInt, Float32, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, RotatedQSGD
from fedjax_rec.codecs.sparsify import RandomK, RowTopK, Threshold, TopK

__all__ = [
    "BF16", "DGC", "QSGD", "SVD", "BlockInt", "Drive", "Float32", "PowerSGD", "RandomK",
    "RotatedQSGD", "RowTopK", "Sign", "TernGrad", "Threshold", "TopK",
]  # fmt: skip
