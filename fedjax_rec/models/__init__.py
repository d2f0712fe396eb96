"""Recommenders, each written for one client."""

from collections.abc import Callable

from fedjax_rec.core.contracts import Model
from fedjax_rec.models.factorization import matrix_factorization
from fedjax_rec.models.neural_cf import neural_cf
from fedjax_rec.models.pfedrec import personal_scorer

MODELS: dict[str, Callable[..., Model]] = {
    "matrix_factorization": matrix_factorization,
    "neural_cf": neural_cf,
    "personal_scorer": personal_scorer,
}
"""Each takes the number of items first, then options by name."""
