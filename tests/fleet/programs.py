"""Sizes of the arrays of a traced program."""

import math

import numpy as np


def longest(jaxpr):
    """The most elements of any array that a program makes, and of its constants."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [math.prod(v.aval.shape) for v in equation.outvars]
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "consts"):
                    sizes += [np.size(c) for c in inner.consts]
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    sizes.append(longest(inner))
    return max(sizes)
