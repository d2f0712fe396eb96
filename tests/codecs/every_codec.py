"""Settings of all codecs by name: each of the registry, and variants."""

from typing import Any

from fedjax_rec.codecs.low_rank import SVD, PowerSGD
from fedjax_rec.codecs.quantize import QSGD, BlockInt
from fedjax_rec.codecs.sparsify import RowTopK, TopK
from fedjax_rec.experiment import registry

CODECS: dict[str, Any] = {
    name: registry.load("codec", name)() for name in registry.SLOTS["codec"]
} | {
    "int4": BlockInt(bits=4),
    "global_top_k": TopK(scope="all"),
    "top_k_qsgd": TopK(then=QSGD()),
    "ef21": TopK(feedback="ef21"),
    # Small enough for the tables of the tests.
    "row_top_k": RowTopK(fraction=0.25),
    "svd": SVD(rank=1),
    "power_sgd": PowerSGD(rank=1),
}
