"""A BERT encoder and its head as the pure functions of a `Backbone`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fedjax_rec.backbones import bert, pooling
from fedjax_rec.backbones.bert import BertConfig
from fedjax_rec.backbones.pooling import Head
from fedjax_rec.core.backbone import Backbone, LastMap
from fedjax_rec.storage.errors import FileError

DTYPES = ("float32", "bfloat16")


def encoder(
    config: BertConfig,
    head: Head,
    *,
    name: str,
    max_tokens: int,
    fingerprint: str,
    tokenize: Callable[[Any], list],
) -> Backbone:
    """Binds what is fixed; the weights stay an argument of every function."""
    return Backbone(
        name=name,
        width=config.width,
        kv_width=config.width,
        num_layers=config.num_layers,
        max_tokens=max_tokens,
        sites=config.sites,
        blocks=bert.BLOCKS,
        fingerprint=fingerprint,
        tokenize=tokenize,
        embed=partial(bert.embed, config),
        run=partial(bert.run, config),
        pool=partial(pooling.pool, head),
        last=LastMap(
            site=bert.LAST_MAP,
            before=partial(bert.before_last, config),
            after=partial(bert.after_last, config),
        ),
    )


def check_dtype(dtype: str) -> str:
    """`dtype`, where it is one that weights and activations may have.

    Raises:
        FileError: it is not.
    """
    if dtype not in DTYPES:
        raise FileError(f"unknown dtype {dtype!r}", expected=" or ".join(DTYPES))
    return dtype
