"""Precision of float32 products.

By default JAX computes them from TF32 or bfloat16 inputs on accelerators, which keeps
8 to 11 bits: enough for a neural network, too few for ranks, aggregates and
orthogonalization. On a CPU all precisions are the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from fedjax_rec.core.backbone import Adapter, Backbone


def at_precision(precision: str | None, function: Callable) -> Callable:
    """`function`, traced with products of this precision unless they state their own.

    Args:
        precision: `highest`, `high` or `default`, as in `jax.lax.Precision`; `None` is
            JAX's own setting.
        function: any function of arrays.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(precision):  # pyright: ignore
            return function(*args, **kwargs)

    return traced


def with_precision(backbone: Backbone, precision: str) -> Backbone:
    """A backbone with products of its own precision.

    An adapter inside of it keeps the precision of the caller.

    Args:
        backbone: the backbone.
        precision: as in `at_precision`.
    """

    def run(stack, hidden, layout, adapter, adapter_params):
        adapter = _at_callers_precision(adapter)
        inner = at_precision(precision, backbone.run)
        return inner(stack, hidden, layout, adapter, adapter_params)

    def after(stack, states, adapter, adapter_params):
        assert backbone.last is not None
        adapter = _at_callers_precision(adapter)
        inner = at_precision(precision, backbone.last.after)
        return inner(stack, states, adapter, adapter_params)

    last = backbone.last
    if last is not None:
        last = last._replace(before=at_precision(precision, last.before), after=after)
    exact = precision == "highest"
    return backbone._replace(
        fingerprint=backbone.fingerprint + ("" if exact else f"-{precision}"),
        embed=at_precision(precision, backbone.embed),
        pool=at_precision(precision, backbone.pool),
        run=run,
        last=last,
    )


def _at_callers_precision(adapter: Adapter | None) -> Adapter | None:
    """The adapter's hooks at the precision that is set now."""
    if adapter is None:
        return None
    precision = jax.config.values["jax_default_matmul_precision"]
    return adapter._replace(
        linear=at_precision(precision, adapter.linear),
        block=at_precision(precision, adapter.block),
        prefix=at_precision(precision, adapter.prefix),
    )
