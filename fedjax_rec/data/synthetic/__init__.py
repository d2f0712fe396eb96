"""A synthetic data set of any size, embedded and deterministic from its key."""

from fedjax_rec.data.synthetic.generate import LIMITS, synthetic

__all__ = ["LIMITS", "synthetic"]
