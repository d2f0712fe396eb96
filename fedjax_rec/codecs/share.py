"""Shares of a count, rounded up without error."""

from fractions import Fraction
from typing import Any, NamedTuple

from fedjax_rec.core.arrays import Array


class Share(NamedTuple):
    """A fraction `over / under`; both may be traced.

    In floating point `ceil(0.1 * 10)` can be 2, and differ between a count that is
    static and one that is traced.
    """

    over: Array | int
    under: Array | int

    def of(self, count: Array | int) -> Any:
        """`ceil(count * over / under)`, an int if all three are, for any int32 count.

        >>> share(0.1).of(10), share(0.1).of(11)
        (1, 2)
        """
        whole, rest = count // self.under, count % self.under
        return whole * self.over + (rest * self.over + self.under - 1) // self.under


def share(fraction: float) -> Share:
    """The nearest fraction with at most 4 digits below the line.

    Raises:
        ValueError: if `fraction` is not in [1e-4, 1].
    """
    if not 1e-4 <= fraction <= 1:
        raise ValueError(
            f"a share of what is sent lies between 0.0001 and 1, got {fraction}"
        )
    exact = Fraction(fraction).limit_denominator(10_000)
    return Share(exact.numerator, exact.denominator)
