"""Settings of every codec by name, for tests of the laws that all of them obey."""

from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.low_rank import SVD, PowerSGD
from fedjax_rec.codecs.quantize import BF16, QSGD, BlockInt, Float32, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, RotatedQSGD
from fedjax_rec.codecs.sparsify import RandomK, RowTopK, Threshold, TopK

CODECS = {
    "float32": Float32(),
    "bf16": BF16(),
    "int8": BlockInt(bits=8),
    "int4": BlockInt(bits=4),
    "qsgd": QSGD(bits=4),
    "rotated_qsgd": RotatedQSGD(bits=4),
    "terngrad": TernGrad(),
    "drive": Drive(),
    "sign": Sign(),
    "top_k": TopK(fraction=0.1),
    "global_top_k": TopK(fraction=0.1, scope="all"),
    "top_k_qsgd": TopK(fraction=0.1, then=QSGD(bits=4, norm="max")),
    "random_k": RandomK(fraction=0.1),
    "threshold": Threshold(least=1e-3),
    "row_top_k": RowTopK(fraction=0.25),
    "ef21": TopK(fraction=0.1, feedback="ef21"),
    "dgc": DGC(),
    "svd": SVD(rank=1),
    "power_sgd": PowerSGD(rank=1),
}
