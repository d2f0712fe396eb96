"""Bottleneck adapters: a small MLP after each sublayer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_rec.core.backbone import Adapter
from fedjax_rec.models.adapters.hooks import no_prefix, same_linear
from fedjax_rec.models.adapters.patterns import matching


def bottleneck(*, size: int = 32, blocks: Sequence[str] = ("*",)) -> Adapter:
    """`y + GELU(y W_down + b_down) W_up + b_up` on what a sublayer adds.

    `W_up` and `b_up` are zero at first: the adapted model starts equal to the backbone,
    and the gradient reaches them at once. (Houlsby et al. draw both matrices small,
    which is near to it and not equal.) Dtypes are as in `lora`: cast to the
    activations' where it is used.

    Args:
        size: width of the bottleneck.
        blocks: patterns (as for a shell) over the backbone's `blocks`.

    Returns:
        An adapter of one named group: `{"bottleneck": {path: {"down": {"w": [layers, D,
        size], "b": [layers, size]}, "up": {"w": [layers, size, D], "b": [layers,
        D]}}}}`.

    Raises:
        ValueError: `size` is below 1; in `init`, a pattern matches no block.

    References:
        Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019.
    """
    if size < 1:
        raise ValueError(f"size={size}, expected at least 1")

    def init(key, backbone, num_layers, dtype):
        paths = matching(blocks, backbone.blocks, "blocks")
        width, parts = backbone.width, {}
        keys = jax.random.split(key, len(paths))
        for path, path_key in zip(paths, keys, strict=True):
            shape = (num_layers, width, size)
            down = width**-0.5 * jax.random.normal(path_key, shape, dtype)
            parts[path] = {
                "down": {"w": down, "b": jnp.zeros((num_layers, size), dtype)},
                "up": {
                    "w": jnp.zeros((num_layers, size, width), dtype),
                    "b": jnp.zeros((num_layers, width), dtype),
                },
            }
        return {"bottleneck": parts}

    def block(params, path, y):
        if path not in params["bottleneck"]:
            return y
        part = jax.tree.map(lambda p: p.astype(y.dtype), params["bottleneck"][path])
        inside = jax.nn.gelu(y @ part["down"]["w"] + part["down"]["b"])
        return y + (inside @ part["up"]["w"] + part["up"]["b"])

    return Adapter(init, same_linear, block, no_prefix)
