"""What a partition looks like: sizes, label divergence, popularity's tail."""

from fedjax_rec.data.describe.figure import plot
from fedjax_rec.data.describe.measure import Description, describe
from fedjax_rec.data.describe.table import to_text

__all__ = ["Description", "describe", "plot", "to_text"]
