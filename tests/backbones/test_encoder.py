"""The encoder against a plain NumPy one, and laws of packing and adapters."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.backbones import bert
from fedjax_rec.backbones.checkpoint import load
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.backbone import Adapter, Layout

HEADS = 4
TEXTS = ["red shoes for men", "a", "wooden garden table and a blue chair", ""]


def norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * weight + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def erf_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def oracle(tensors, ids, layers):
    """Hidden states of one text `[T]` in float64, with PyTorch's names and layout."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def normed(x, name):
        return norm(x, t[f"{name}.weight"], t[f"{name}.bias"])

    hidden = (
        t["embeddings.word_embeddings.weight"][ids]
        + t["embeddings.position_embeddings.weight"][: len(ids)]
        + t["embeddings.token_type_embeddings.weight"][0]
    )
    hidden = normed(hidden, "embeddings.LayerNorm")
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            linear(hidden, f"{layer}.attention.self.{name}")
            for name in ("query", "key", "value")
        )
        size, mixed = q.shape[-1] // HEADS, []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            mixed.append(softmax(scores) @ v[:, part])
        y = linear(np.concatenate(mixed, -1), f"{layer}.attention.output.dense")
        hidden = normed(hidden + y, f"{layer}.attention.output.LayerNorm")
        y = erf_gelu(linear(hidden, f"{layer}.intermediate.dense"))
        y = linear(y, f"{layer}.output.dense")
        hidden = normed(hidden + y, f"{layer}.output.LayerNorm")
    return hidden


def hidden_states(backbone, weights, ids, layout):
    hidden = backbone.embed(weights, ids, layout)
    return backbone.run(weights["layers"], hidden, layout, None, None)


def with_hooks(linear=None, block=None, prefix=None):
    return Adapter(
        init=lambda key, backbone, n, dtype: {},
        linear=linear or (lambda params, path, x, y: y),
        block=block or (lambda params, path, y: y),
        prefix=prefix or (lambda params: None),
    )


@pytest.fixture
def packed(place):
    """A tiny backbone with four texts: two packed rows, and a row each."""
    backbone, weights = tiny(num_layers=3)
    tokens = backbone.tokenize(TEXTS)
    together = place(tokens, [[0, 1, 3], [2]], 16)
    apart = place(tokens, [[0], [1], [2], [3]], 16)
    return backbone, weights, together, apart


def test_the_checkpoint_gives_what_numpy_gives(write, tensors_of, place):
    folder = write()
    backbone, weights = load(folder)
    tensors = tensors_of({"vocab_size": 24, **CONFIG})
    tokens = backbone.tokenize(TEXTS)
    for row in tokens:
        ids, layout = place([row], [[0]], len(row))
        found = hidden_states(backbone, weights, ids, layout)[0]
        expected = oracle(tensors, row, 3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
        vector = backbone.pool(weights, found[None], layout, 1)[0, 0]
        np.testing.assert_allclose(vector, expected.mean(0), rtol=0, atol=5e-6)


CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}


def test_packed_rows_equal_rows_of_their_own(packed):
    backbone, weights, (ids, layout), (alone, lone) = packed
    hidden = hidden_states(backbone, weights, ids, layout)
    vectors = backbone.pool(weights, hidden, layout, 3)
    single = backbone.pool(
        weights, hidden_states(backbone, weights, alone, lone), lone, 1
    )[:, 0]
    order = [vectors[0, 0], vectors[0, 1], vectors[1, 0], vectors[0, 2]]
    np.testing.assert_allclose(jnp.stack(order), single, rtol=0, atol=1e-6)
    assert not vectors[1, 1:].any()


def test_what_padding_holds_changes_nothing(packed):
    backbone, weights, (ids, layout), _ = packed
    other = jnp.where(layout.segment == 0, 7, ids)
    a, b = (hidden_states(backbone, weights, i, layout) for i in (ids, other))
    real = np.asarray(layout.segment) > 0
    np.testing.assert_array_equal(np.asarray(a)[real], np.asarray(b)[real])
    nothing = Layout(segment=layout.segment * 0, position=layout.position * 0)
    assert jnp.isfinite(hidden_states(backbone, weights, ids, nothing)).all()


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_first_layers_then_last_layers_are_all_layers(packed, last):
    backbone, weights, (ids, layout), _ = packed
    stack, hidden = weights["layers"], backbone.embed(weights, ids, layout)
    whole = backbone.run(stack, hidden, layout, None, None)
    cut = backbone.num_layers - last
    first = jax.tree.map(lambda leaf: leaf[:cut], stack)
    rest = jax.tree.map(lambda leaf: leaf[cut:], stack)
    half = backbone.run(first, hidden, layout, None, None)
    both = backbone.run(rest, half, layout, None, None)
    np.testing.assert_allclose(both, whole, rtol=0, atol=5e-6)


def test_every_site_and_block_is_offered_once_a_layer_with_its_shapes(packed):
    backbone, weights, (ids, layout), _ = packed
    seen = []

    def linear(params, path, x, y):
        seen.append((path, x.shape[-1], y.shape[-1], params["p"].shape))
        return y

    def block(params, path, y):
        seen.append((path, y.shape[-1], params["p"].shape))
        return y

    hidden = backbone.embed(weights, ids, layout)
    params = {"p": jnp.zeros((3, 5))}
    backbone.run(weights["layers"], hidden, layout, with_hooks(linear, block), params)
    expected = {(path, *io, (5,)) for path, io in backbone.sites.items()}
    expected |= {(path, backbone.width, (5,)) for path in backbone.blocks}
    assert set(seen) == expected


@pytest.mark.parametrize("site", ["attention/value", "ffn/up", "ffn/down"])
def test_an_added_product_equals_a_changed_kernel(packed, site):
    """`x W + (x A) B` is `x (W + A B)`, in each layer with its own A and B."""
    backbone, weights, (ids, layout), _ = packed
    hidden = backbone.embed(weights, ids, layout)
    inner, outer = backbone.sites[site]
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 2, max(inner, outer))) / 5
    params = {"a": jnp.swapaxes(a[..., :inner], 1, 2), "b": b[..., :outer]}

    def linear(layer, path, x, y):
        return y + (x @ layer["a"]) @ layer["b"] if path == site else y

    adapted = backbone.run(
        weights["layers"], hidden, layout, with_hooks(linear), params
    )
    stack = jax.tree.map(lambda leaf: leaf, weights["layers"])
    block, name = site.split("/")
    stack[block][name]["kernel"] += params["a"] @ params["b"]
    merged = backbone.run(stack, hidden, layout, None, None)
    np.testing.assert_allclose(adapted, merged, rtol=0, atol=1e-5)
    plain = backbone.run(weights["layers"], hidden, layout, None, None)
    assert jnp.abs(plain - merged).max() > 1e-2


def test_a_layer_in_two_parts_is_the_layer(packed):
    backbone, weights, (ids, layout), _ = packed
    path, (width, out) = "ffn/down", backbone.sites["ffn/down"]
    hidden = backbone.embed(weights, ids, layout)
    kernel = jax.random.normal(jax.random.key(0), (1, width, out)) * width**-0.5
    adapter = with_hooks(lambda p, at, x, y: y + x @ p if at == path else y)
    one = jax.tree.map(lambda leaf: leaf[:1], weights["layers"])
    whole = backbone.run(one, hidden, layout, adapter, kernel)
    states = backbone.last.before(one, hidden, layout)
    assert states.shape == (*hidden.shape[:2], out + width)
    parts = backbone.last.after(one, states, adapter, kernel)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)
    assert jnp.abs(whole - backbone.run(one, hidden, layout, None, None)).max() > 1e-2


def test_a_small_change_in_the_last_map_is_not_rounded_away(place):
    """In bfloat16, a change of .001 in a number near 1 would be."""
    backbone, weights = tiny(num_layers=1, dtype="bfloat16")
    ids, layout = place(backbone.tokenize(TEXTS), [[0, 1, 3], [2]], 16)
    add = with_hooks(lambda p, at, x, y: y + 1e-3 * p if at == "ffn/down" else y)
    push = jax.random.normal(jax.random.key(0), (1, backbone.width))
    hidden, last = backbone.embed(weights, ids, layout), backbone.last
    assert last is not None
    states = last.before(weights["layers"], hidden, layout)
    found = last.after(weights["layers"], states, add, push)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), weights["layers"])
    exact = last.after(wide, states.astype(jnp.float32), add, push)
    assert found.dtype == states.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_a_block_hook_sees_what_the_residual_is_about_to_get(packed):
    """With zeros added in every sublayer, only the normalizations remain."""
    backbone, weights, (ids, layout), _ = packed
    hidden = backbone.embed(weights, ids, layout)
    silent = with_hooks(block=lambda params, path, y: 0 * y)
    found = backbone.run(weights["layers"], hidden, layout, silent, {})
    np.testing.assert_allclose(found, hidden, rtol=0, atol=1e-5)


def test_a_prefix_acts_like_tokens_that_every_text_sees(place):
    """Two rows of keys and values: checked in one layer against NumPy's softmax."""
    random = np.random.default_rng(0)
    q, k, v = random.normal(size=(3, 1, 5, 2, 3)).astype(np.float32)
    pk, pv = random.normal(size=(2, 2, 2, 3)).astype(np.float32)
    segment = np.array([[1, 1, 2, 2, 2]])
    visible = jnp.asarray(segment[:, None, :, None] == segment[:, None, None, :])
    prefix = (jnp.asarray(pk), jnp.asarray(pv))
    query, key, value = map(jnp.asarray, (q, k, v))
    found = bert.attend(query, key, value, visible, prefix)
    for i in range(5):
        for h in range(2):
            own = segment[0] == segment[0, i]
            keys = np.concatenate([pk[:, h], k[0, own, h]])
            values = np.concatenate([pv[:, h], v[0, own, h]])
            shares = softmax(keys @ q[0, i, h] / math.sqrt(3))
            np.testing.assert_allclose(found[0, i, h], shares @ values, atol=1e-5)


def test_a_prefix_reaches_every_text_and_keeps_packing_exact(packed):
    backbone, weights, (ids, layout), (alone, lone) = packed
    adapter = with_hooks(prefix=lambda layer: (layer["k"], layer["v"]))
    k, v = jax.random.normal(jax.random.key(1), (2, 3, 4, backbone.width))

    def states(ids, layout):
        hidden = backbone.embed(weights, ids, layout)
        params = {"k": k, "v": v}
        return backbone.run(weights["layers"], hidden, layout, adapter, params)

    vectors = backbone.pool(weights, states(ids, layout), layout, 3)
    single = backbone.pool(weights, states(alone, lone), lone, 1)[:, 0]
    np.testing.assert_allclose(vectors[0, 2], single[3], rtol=0, atol=1e-6)
    plain = backbone.pool(
        weights, hidden_states(backbone, weights, ids, layout), layout, 3
    )
    assert (jnp.abs(vectors - plain).max(-1)[0] > 1e-2).all()


def test_jit_and_vmap_change_nothing(packed):
    backbone, weights, (ids, layout), _ = packed
    plain = hidden_states(backbone, weights, ids, layout)
    run = partial(hidden_states, backbone)
    np.testing.assert_allclose(jax.jit(run)(weights, ids, layout), plain, atol=5e-6)
    twice = jax.vmap(run, in_axes=(None, 0, None))(
        weights, jnp.stack([ids, ids[::-1]]), layout
    )
    np.testing.assert_allclose(twice[0], plain, atol=5e-6)


def test_bfloat16_is_kept_throughout_and_close(place):
    backbone, weights = tiny(dtype="bfloat16")
    exact, precise = tiny()
    tokens = backbone.tokenize(TEXTS)
    ids, layout = place(tokens, [[0, 1], [2], [3]], 16)
    hidden = hidden_states(backbone, weights, ids, layout)
    assert hidden.dtype == jnp.bfloat16
    vectors = backbone.pool(weights, hidden, layout, 2)
    expected = exact.pool(
        precise, hidden_states(exact, precise, ids, layout), layout, 2
    )
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=0.02)
