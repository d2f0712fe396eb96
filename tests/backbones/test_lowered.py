"""Operations that the compiled program of a client's step must not have."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.backbone import Adapter

# Numbers that occur nowhere else, so that a shape identifies an array.
WIDTH, FFN, RANK, CLIENTS, ROWS, TOKENS, LAYERS = 44, 92, 3, 5, 2, 16, 2


@pytest.fixture(scope="module")
def program(place):
    """A step of LoRA for a chunk of clients: what XLA makes of it, as text."""
    backbone, weights = tiny(
        width=WIDTH, ffn_width=FFN, num_layers=LAYERS, vocab_size=113
    )
    texts = ["red shoes", "blue chair", "garden table", "men"] * CLIENTS
    pairs = [[2 * i, 2 * i + 1] for i in range(CLIENTS * ROWS)]
    ids, layout = place(backbone.tokenize(texts), pairs, TOKENS)
    ids, layout = jax.tree.map(
        lambda leaf: leaf.reshape(CLIENTS, ROWS, TOKENS), (ids, layout)
    )
    adapter = Adapter(
        init=lambda key, backbone, n, dtype: {},
        linear=lambda layer, path, x, y: y + (x @ layer[path][0]) @ layer[path][1],
        block=lambda layer, path, y: y,
        prefix=lambda layer: None,
    )
    params = {
        path: (
            jnp.full((CLIENTS, LAYERS, inner, RANK), 0.01),
            jnp.full((CLIENTS, LAYERS, RANK, outer), 0.01),
        )
        for path, (inner, outer) in backbone.sites.items()
    }

    def loss(params, weights, ids, layout):
        hidden = backbone.embed(weights, ids, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, adapter, params)
        return (backbone.pool(weights, hidden, layout, 2) ** 2).sum()

    step = jax.jit(jax.vmap(jax.grad(loss), in_axes=(0, None, 0, 0)))
    args = (params, weights, ids, layout)
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(step(*args)))
    assert finite
    return step.lower(*args).compile().as_text(), weights


def dots(text):
    """Shapes of the products: `(result, left, right)`, each a tuple."""
    shape = re.compile(r"f32\[([\d,]*)\]")
    named = dict(re.findall(r"(%[\w.\-]+) = f32\[([\d,]*)\]", text))
    found = []
    for line in text.splitlines():
        match = re.search(r"= f32\[([\d,]*)\]\S* dot\(([^)]*)\)", line)
        custom = re.search(r"= f32\[([\d,]*)\]\S* custom-call\(([^)]*)\)", line)
        match = match or (custom if "matmul" in line else None)
        if match is None:
            continue
        inner = shape.findall(match[2]) or [
            named[name] for name in re.findall(r"%[\w.\-]+", match[2])
        ]
        found.append(
            tuple(
                tuple(map(int, s.split(","))) if s else () for s in (match[1], *inner)
            )
        )
    return found


def test_no_gradient_of_a_frozen_weight_is_computed(program):
    text, _ = program
    results = [shape for shape, *_ in dots(text)]
    assert len(results) > 20
    kernels = [{WIDTH, FFN}, {WIDTH}]
    for shape in results:
        # A kernel's gradient has its two sides, and neither clients nor tokens.
        big = [n for n in shape if n not in (1, CLIENTS, LAYERS)]
        assert not (len(big) == 2 and set(big) in kernels), shape


def test_shared_products_are_one_for_all_clients(program):
    text, _ = program
    tokens = CLIENTS * ROWS * TOKENS
    shared = [
        (result, left, right)
        for result, left, right in dots(text)
        if sorted(right) in ([WIDTH, WIDTH], [WIDTH, FFN])
    ]
    forward = len({"query", "key", "value", "output", "up", "down"})
    assert len(shared) >= 2 * forward - 1  # forward and, but for the lowest, back
    for result, left, _ in shared:
        assert np.prod(left[:-1]) == tokens
        assert np.prod(result[:-1]) == tokens


def test_weights_are_parameters_of_the_program_and_not_constants(program):
    text, weights = program
    entry = text[text.index("ENTRY") :]
    parameters = re.findall(r"= f32\[([\d,]*)\]\S* parameter\(", entry)
    for leaf in jax.tree.leaves(weights["layers"]):
        assert ",".join(map(str, leaf.shape)) in parameters
    constants = re.findall(r"= f32\[([\d,]+)\]\S* constant\(", text)
    assert all(np.prod(list(map(int, c.split(",")))) < 1000 for c in constants)
