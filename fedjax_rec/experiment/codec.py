"""How messages shrink on their way to the server, as a frozen dataclass."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import codecs
from fedjax_rec.codecs.low_rank import colr, orthonormal, power_sgd, svd
from fedjax_rec.codecs.sketch import count_sketch
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Recipe

Name = Literal[
    "none",
    "float32",
    "bf16",
    "int8",
    "int4",
    "qsgd",
    "rotated_qsgd",
    "terngrad",
    "drive",
    "sign",
    "top_k",
    "global_top_k",
    "top_k_qsgd",
    "row_top_k",
    "random_k",
    "threshold",
    "dgc",
    "svd",
    "power_sgd",
    "colr",
    "colr_touched",
    "count_sketch",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What a client does to its delta before it sends it; docs/codecs.md tells each.

    Attributes:
        name: `none` counts what float32 would take without encoding anything;
            `float32` encodes nothing but the ids of rows. `top_k_qsgd` is a chain.
            `colr` trains in the basis it sends, and `count_sketch` brings its own
            aggregation, FetchSGD.
        fraction: of a client's numbers (of its rows: `row_top_k`) that are sent.
        bits: of a number, of `qsgd`, `rotated_qsgd` and `top_k_qsgd`.
        least: the smallest number that `threshold` sends.
        rank: of `svd`, `power_sgd`, `colr` and `colr_touched`.
        columns: of each of the five rows of `count_sketch`.
        momentum: of FetchSGD, on the server.
        feedback: what clients keep of what was not sent: `ef` adds it to the next
            delta, `ef21` sends what the server does not know yet; `auto` is `ef` for
            what loses with a bias.
    """

    name: Name = "none"
    fraction: float = 0.1
    bits: int = 4
    least: float = 1e-3
    rank: int = 4
    columns: int = 10_000
    momentum: float = 0.0
    feedback: Literal["auto", "none", "ef", "ef21"] = "auto"


BIASED = ("sign", "top_k", "global_top_k", "top_k_qsgd", "row_top_k", "threshold")
BIASED_LOW_RANK = ("svd", "power_sgd")
EXACT = ("none", "colr", "colr_touched", "count_sketch", "dgc")
"""What takes no feedback: nothing is lost, or it keeps what was lost itself."""


def check_codec(config: CodecConfig) -> None:
    """Raises a ValueError for options that no message could have."""
    if config.name not in get_args(Name):
        raise ValueError(
            f"codec.name={config.name!r}: expected one of {get_args(Name)}"
        )
    if not 0 < config.fraction <= 1:
        raise ValueError(f"codec.fraction must be in (0, 1], got {config.fraction}")
    for field in ("bits", "rank", "columns"):
        if getattr(config, field) < 1:
            raise ValueError(f"codec.{field} must be at least 1")
    if not (config.least > 0 and np.isfinite(config.least)):
        raise ValueError(f"codec.least must be positive, got {config.least}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"codec.momentum must be in [0, 1), got {config.momentum}")
    if config.name in EXACT and config.feedback in ("ef", "ef21"):
        raise ValueError(
            f"codec.name={config.name!r} takes no codec.feedback: leave it at 'auto'"
        )
    _link(config)  # raises for what its factory refuses


def with_codec(recipe: Recipe, config: CodecConfig) -> Recipe:
    """The recipe whose clients send encoded messages.

    Raises:
        ValueError: the codec needs a table that the recipe does not have.
    """
    name = config.name
    if name == "none":
        return recipe
    shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    sent = {k: part for k, part in shared.items() if k not in recipe.fixed}
    if name in ("colr", "colr_touched"):
        return _with_colr(recipe, config, sent)
    if name == "count_sketch":
        from fedjax_rec.aggregators.fetch_sgd import fetch_sgd

        codec = count_sketch(sent, columns=config.columns)
        rule = fetch_sgd(
            config.fraction, momentum=config.momentum, columns=config.columns
        )
        return recipe._replace(codec=lambda key: codec, aggregator=rule)
    codec = make_codec(config)
    return recipe._replace(codec=lambda key: codec)


def make_codec(config: CodecConfig) -> Codec:
    """A codec that needs to know nothing of what is trained."""
    name, feedback = config.name, config.feedback
    if name == "dgc":
        return codecs.dgc()
    if name == "svd":
        codec = svd(config.rank)
    elif name == "power_sgd":
        codec = power_sgd(config.rank)
    elif name == "global_top_k":
        codec = codecs.joined(*_link(config))
    else:
        codec = codecs.leafwise(*_link(config))
    if feedback == "auto":
        feedback = "ef" if name in BIASED + BIASED_LOW_RANK else "none"
    around: dict[str, Callable[[Codec], Codec]] = {
        "none": lambda codec: codec,
        "ef": codecs.error_feedback,
        "ef21": codecs.ef21,
    }
    return around[feedback](codec)


def _link(config: CodecConfig) -> tuple[Any, ...]:
    """The links of a chain."""
    fraction, bits = config.fraction, config.bits
    kept = config.feedback == "none"
    links: dict[str, Callable[[], tuple[Any, ...]]] = {
        "float32": lambda: (),
        "bf16": lambda: (codecs.bf16(),),
        "int8": lambda: (codecs.block_int(8),),
        "int4": lambda: (codecs.block_int(4),),
        "qsgd": lambda: (codecs.qsgd(bits=bits),),
        "rotated_qsgd": lambda: (codecs.rotate(), codecs.qsgd(bits=bits, bucket=256)),
        "terngrad": lambda: (codecs.terngrad(),),
        "drive": lambda: (codecs.drive(),),
        "sign": lambda: (codecs.sign(),),
        "top_k": lambda: (codecs.top_k(fraction),),
        "global_top_k": lambda: (codecs.top_k(fraction),),
        "top_k_qsgd": lambda: (
            codecs.top_k(fraction),
            codecs.qsgd(bits=bits, norm="max"),
        ),
        "row_top_k": lambda: (codecs.row_top_k(fraction),),
        # Under feedback, what is magnified grows without bound.
        "random_k": lambda: (
            codecs.random_k(fraction, unbiased=kept or config.feedback == "auto"),
        ),
        "threshold": lambda: (codecs.threshold(config.least),),
    }
    return links.get(config.name, tuple)()


def _with_colr(recipe: Recipe, config: CodecConfig, sent: dict[str, Any]) -> Recipe:
    widths = {
        name: leaf.values.shape[1]
        for name, leaf in sent.items()
        if rows.is_table(leaf) and leaf.space == "item" and leaf.values.ndim == 2
    }
    if not widths:
        raise ValueError(
            f"codec.name={config.name!r} sends the coordinates of an item table, and "
            f"this model shares none; it shares {', '.join(sent) or 'nothing'}"
        )
    for name, width in widths.items():
        if config.rank > width:
            raise ValueError(
                f"codec.rank={config.rank} is more than the width {width} of the table "
                f"{name!r}"
            )

    def bases(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(widths))
        return {
            name: orthonormal(own, config.rank, width, _dtype(sent[name]))
            for own, (name, width) in zip(keys, sorted(widths.items()), strict=True)
        }

    touched_only = config.name == "colr_touched"
    return recipe._replace(
        codec=lambda key: colr(bases(key), touched_only=touched_only),
        row_basis=bases,
    )


def _dtype(table: rows.Table) -> Any:
    return jnp.dtype(table.values.dtype)
