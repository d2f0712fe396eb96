"""Adapters on a toy backbone, against NumPy and counts by hand."""

import functools
import math
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.backbone import Backbone, Layout
from fedjax_rec.models.adapters.describe import describe
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.adapters.in_layers import Bottleneck, LoRA, PrefixTuning

D, KV, F, LAYERS = 6, 5, 11, 3
SITES = {
    "attention/query": (D, KV),
    "attention/key": (D, KV),
    "attention/value": (D, KV),
    "attention/output": (KV, D),
    "ffn/up": (D, F),
    "ffn/down": (F, D),
}
ADAPTERS: dict[str, Any] = {
    "lora": LoRA(rank=2, alpha=4.0),
    "bottleneck": Bottleneck(size=3),
    "prefix_tuning": PrefixTuning(length=4),
}
ROWS, TOKENS = 2, 7


def toy_weights(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "layers": {
            path: {
                "w": jnp.asarray(rng.normal(0, n**-0.5, (LAYERS, n, m)), dtype),
                "b": jnp.asarray(rng.normal(0, 0.1, (LAYERS, m)), dtype),
            }
            for path, (n, m) in SITES.items()
        }
    }


@functools.partial(jax.jit, static_argnames="adapter")
def run(stack, hidden, layout, adapter=None, params=None):
    """Single-head attention and an MLP, with all hooks of an adapter."""
    del layout

    def layer(x, slices):
        weights, own = slices

        def linear(path, inputs):
            y = inputs @ weights[path]["w"] + weights[path]["b"]
            return y if adapter is None else adapter.linear(own, path, inputs, y)

        def add(path, y):
            return x + (y if adapter is None else adapter.block(own, path, y))

        query = linear("attention/query", x)
        key, value = linear("attention/key", x), linear("attention/value", x)
        pairs = None if adapter is None else adapter.prefix(own)
        if pairs is not None:
            shape = (*x.shape[:-2], *pairs[0].shape)
            more = [jnp.broadcast_to(p, shape).astype(x.dtype) for p in pairs]
            key = jnp.concatenate([more[0], key], -2)
            value = jnp.concatenate([more[1], value], -2)
        scores = jnp.einsum("...td,...sd->...ts", query, key) / math.sqrt(KV)
        found = jax.nn.softmax(scores, -1) @ value
        x = add("attention", linear("attention/output", found))
        up = jax.nn.gelu(linear("ffn/up", x))
        return add("ffn", linear("ffn/down", up)), None

    return jax.lax.scan(layer, hidden, (stack, params))[0]


def unused(*_):
    raise AssertionError("the adapter needs none of it")


TOY = Backbone(
    name="toy",
    width=D,
    kv_width=KV,
    num_layers=LAYERS,
    max_tokens=TOKENS,
    sites=SITES,
    blocks=("attention", "ffn"),
    fingerprint="",
    tokenize=unused,
    embed=unused,
    run=run,
    pool=unused,
)
LAYOUT = Layout(
    segment=jnp.ones((ROWS, TOKENS), jnp.int32),
    position=jnp.broadcast_to(jnp.arange(TOKENS), (ROWS, TOKENS)),
)


def some_hidden(seed=1, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(ROWS, TOKENS, D)), dtype)


def randomised(params, seed=2):
    """The same tree with every leaf random, as after some training."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
    )


def random_layer(adapter, seed=2):
    """One layer's slice of random parameters."""
    params = adapter.init(jax.random.key(0), TOY, 1, jnp.float32)
    return jax.tree.map(lambda p: p[0], randomised(params, seed))


def changed(adapter, params, weights, hidden):
    """How far the adapted hidden states lie from the backbone's."""
    plain = run(weights["layers"], hidden, LAYOUT)
    return jnp.abs(run(weights["layers"], hidden, LAYOUT, adapter, params) - plain)


# Laws of every adapter.


def test_settings_have_a_name_and_know_whether_they_are_inside_the_layers():
    assert [a.kind for a in ADAPTERS.values() if a.in_layers] == list(ADAPTERS)
    assert not EmbeddingAdapter().in_layers


def test_settings_load_without_heavy_packages():
    """The command line checks arguments before anything heavy is loaded."""
    modules = ("embedding", "in_layers")
    imports = "; ".join(f"import fedjax_rec.models.adapters.{m}" for m in modules)
    heavy = "{'jax', 'numpy', 'flax', 'optax'}"
    code = f"{imports}; import sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["lora", "bottleneck"])
def test_the_first_step_is_the_backbones(name):
    adapter = ADAPTERS[name].build()
    params = adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32)
    assert float(changed(adapter, params, toy_weights(), some_hidden()).max()) == 0
    trained = randomised(params)
    assert float(changed(adapter, trained, toy_weights(), some_hidden()).max()) > 0.1


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_first_gradient_is_not_zero_in_any_layer(name):
    adapter = ADAPTERS[name].build()
    params = adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32)
    stack, hidden = toy_weights()["layers"], some_hidden()

    def loss(params):
        return jnp.square(run(stack, hidden, LAYOUT, adapter, params) - 1).mean()

    gradient = jax.grad(loss)(params)
    total = sum(
        np.abs(leaf).reshape(LAYERS, -1).sum(1) for leaf in jax.tree.leaves(gradient)
    )
    assert (np.asarray(total) > 1e-4).all()
    # One step of descent helps.
    stepped = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)
    assert loss(stepped) < loss(params)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("layers", [1, LAYERS])
def test_leaves_have_a_slice_a_layer_and_the_dtype_asked_for(name, layers):
    adapter = ADAPTERS[name].build()
    params = adapter.init(jax.random.key(0), TOY, layers, jnp.bfloat16)
    for leaf in jax.tree.leaves(params):
        assert leaf.shape[0] == layers
        assert leaf.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ADAPTERS)
def test_float32_adapters_leave_bfloat16_activations_bfloat16(name):
    adapter = ADAPTERS[name].build()
    params = randomised(adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32))
    weights, hidden = toy_weights(dtype=jnp.bfloat16), some_hidden(dtype=jnp.bfloat16)
    # A scan would refuse a carry that changes dtype, so running at all shows it.
    assert run(weights["layers"], hidden, LAYOUT, adapter, params).dtype == jnp.bfloat16
    gradient = jax.grad(
        lambda p: run(weights["layers"], hidden, LAYOUT, adapter, p).sum().astype(float)
    )(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ADAPTERS)
def test_clients_of_a_vmap_equal_clients_alone(name):
    adapter = ADAPTERS[name].build()
    stack, hidden = toy_weights()["layers"], some_hidden()
    clients = [
        randomised(adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32), seed)
        for seed in (3, 4)
    ]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *clients)
    together = jax.vmap(lambda p: run(stack, hidden, LAYOUT, adapter, p))(both)
    for client, found in zip(clients, together, strict=True):
        alone = run(stack, hidden, LAYOUT, adapter, client)
        np.testing.assert_allclose(found, alone, rtol=2e-5, atol=1e-5)


# LoRA.


def test_lora_equals_the_dense_update():
    adapter = LoRA(rank=2, alpha=5.0, targets=("*",)).build()
    params = randomised(adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32))
    weights, hidden = toy_weights(), some_hidden()
    dense = {
        path: {
            "w": w["w"] + 2.5 * params["lora_a"][path] @ params["lora_b"][path],
            "b": w["b"],
        }
        for path, w in weights["layers"].items()
    }
    found = run(weights["layers"], hidden, LAYOUT, adapter, params)
    np.testing.assert_allclose(found, run(dense, hidden, LAYOUT), rtol=1e-3, atol=1e-3)


def test_lora_of_one_linear_map_in_numpy():
    adapter = LoRA(rank=2, alpha=3.0).build()
    layer = random_layer(adapter)
    x, w = some_hidden(), np.asarray(toy_weights()["layers"]["attention/query"]["w"])[0]
    found = adapter.linear(layer, "attention/query", x, x @ w)
    a, b = (np.asarray(layer[g]["attention/query"], np.float64) for g in layer)
    np.testing.assert_allclose(
        found, np.asarray(x, np.float64) @ (w + 3 / 2 * a @ b), rtol=1e-5, atol=1e-5
    )
    y = x @ w
    assert adapter.linear(layer, "ffn/up", x, y) is y
    assert adapter.block(layer, "ffn", y) is y
    assert adapter.prefix(layer) is None


def test_loras_base_is_a_dense_correction_scaled_as_the_product_is():
    adapter = LoRA(rank=2, alpha=6.0, targets=("ffn/up",)).build(base=True)
    params = adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32)
    assert params["lora_base"]["ffn/up"].shape == (LAYERS, D, F)
    assert not np.asarray(params["lora_base"]["ffn/up"]).any()
    own = random_layer(adapter)
    a, b, c = (np.asarray(own[f"lora_{g}"]["ffn/up"]) for g in ("a", "b", "base"))
    x = np.asarray(some_hidden())
    y = np.zeros((*x.shape[:-1], F), np.float32)
    got = adapter.linear(own, "ffn/up", jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got, 3 * x @ (c + a @ b), rtol=1e-4, atol=1e-4)


def test_lora_targets_and_groups():
    adapter = LoRA(rank=2, targets=("attention/*", "ffn/up")).build()
    params = adapter.init(jax.random.key(0), TOY, 2, jnp.float32)
    assert list(params) == ["lora_a", "lora_b"]
    for group in params.values():
        assert group.keys() == SITES.keys() - {"ffn/down"}
    assert params["lora_a"]["ffn/up"].shape == (2, D, 2)
    assert params["lora_b"]["ffn/up"].shape == (2, 2, F)


def test_lora_draws_each_map_anew_within_its_bound():
    adapter = LoRA(rank=50, targets="*").build()  # pyright: ignore
    a = adapter.init(jax.random.key(0), TOY, 2, jnp.float32)["lora_a"]
    assert len({float(leaf.ravel()[0]) for leaf in a.values()}) == len(SITES)
    for path, leaf in a.items():
        bound = SITES[path][0] ** -0.5
        assert np.abs(leaf).max() <= bound
        np.testing.assert_allclose(leaf.std(), bound / math.sqrt(3), rtol=0.1)
        assert not np.array_equal(leaf[0], leaf[1])


def test_lora_of_many_clients_never_forms_a_matrix_a_client():
    clients, fan_in, fan_out = 5, 13, 17
    wide = TOY._replace(sites={"ffn/up": (fan_in, fan_out)})
    adapter = LoRA(rank=2, targets=("ffn/up",)).build()
    params = adapter.init(jax.random.key(0), wide, 1, jnp.float32)
    chunk = jax.tree.map(lambda p: jnp.stack([p[0]] * clients), params)
    w, x = jnp.ones((fan_in, fan_out)), jnp.ones((clients, 3, fan_in))

    def losses(w, chunk, x):
        def one(params, x):
            return adapter.linear(params, "ffn/up", x, x @ w).sum()

        return jax.vmap(jax.value_and_grad(one))(chunk, x)

    def dense(w, chunk, x):
        def one(params, x):
            a, b = params["lora_a"]["ffn/up"], params["lora_b"]["ffn/up"]
            return (x @ (w + a @ b)).sum()

        return jax.vmap(jax.value_and_grad(one))(chunk, x)

    def shapes(function):
        return jax.jit(function).lower(w, chunk, x).compile().as_text() or ""

    forms = (f"[{clients},{fan_in},{fan_out}]", f"[{clients},{fan_out},{fan_in}]")
    assert not any(form in shapes(losses) for form in forms)
    assert any(form in shapes(dense) for form in forms)


# Bottleneck.


def test_bottleneck_in_numpy():
    adapter = Bottleneck(size=3).build()
    layer = random_layer(adapter)
    y = some_hidden()
    part = jax.tree.map(lambda p: np.asarray(p, np.float64), layer["bottleneck"]["ffn"])
    z = np.asarray(y, np.float64) @ part["down"]["w"] + part["down"]["b"]
    gelu = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    expected = y + gelu @ part["up"]["w"] + part["up"]["b"]
    found = adapter.block(layer, "ffn", y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert adapter.linear(layer, "ffn/up", y, y) is y
    assert adapter.prefix(layer) is None


def test_bottleneck_on_chosen_blocks():
    adapter = Bottleneck(size=3, blocks=("ffn",)).build()
    layer = random_layer(adapter)
    assert list(layer["bottleneck"]) == ["ffn"]
    y = some_hidden()
    assert adapter.block(layer, "attention", y) is y


# Prefix.


def test_a_new_prefix_only_takes_mass_from_the_text():
    """The attention's output shrinks by `Z / (Z + Z_P)`, and is else the same."""
    rng = np.random.default_rng(0)
    adapter = PrefixTuning(length=4).build()
    layer = jax.tree.map(
        lambda p: p[0], adapter.init(jax.random.key(0), TOY, 1, jnp.float32)
    )
    more_keys, more_values = (np.asarray(p) for p in adapter.prefix(layer) or ())
    assert not more_values.any()
    assert more_keys.any()
    query, key, value = rng.normal(size=(3, TOKENS, KV))
    ours = np.exp(query @ key.T).sum(1, keepdims=True)
    theirs = np.exp(query @ more_keys.T).sum(1, keepdims=True)
    np.testing.assert_allclose(theirs, 4, rtol=0.2)
    plain = jax.nn.softmax(query @ key.T) @ value
    scores = query @ np.concatenate([more_keys, key]).T
    found = jax.nn.softmax(scores) @ np.concatenate([more_values, value])
    np.testing.assert_allclose(found, plain * ours / (ours + theirs), rtol=1e-4)


def test_a_new_prefix_changes_the_backbones_output():
    adapter = PrefixTuning(length=4).build()
    params = adapter.init(jax.random.key(0), TOY, LAYERS, jnp.float32)
    assert float(changed(adapter, params, toy_weights(), some_hidden()).max()) > 0
    y = some_hidden()
    assert adapter.linear(params, "ffn/up", y, y) is y
    assert adapter.block(params, "ffn", y) is y


# On the final embedding.


@pytest.mark.parametrize("options", [{"rank": 3}, {"hidden": 4}])
def test_the_embedding_adapter_starts_as_identity_and_learns(options):
    init, apply = EmbeddingAdapter(**options).build()
    params = init(jax.random.key(0), D, jnp.float32)
    e = some_hidden()
    np.testing.assert_array_equal(apply(params, e), e)
    gradient = jax.grad(lambda p: jnp.square(apply(p, e) - 1).sum())(params)
    assert float(jnp.abs(gradient["embedding_adapter"]["up"]["w"]).max()) > 1e-2
    half = apply(params, e.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_the_embedding_adapter_in_numpy():
    e = some_hidden()
    init, apply = EmbeddingAdapter(rank=3).build()
    params = randomised(init(jax.random.key(0), D, jnp.float32))
    p = jax.tree.map(np.asarray, params["embedding_adapter"])
    expected = e @ (np.eye(D) + p["down"]["w"] @ p["up"]["w"])
    np.testing.assert_allclose(apply(params, e), expected, rtol=1e-4, atol=1e-4)

    init, apply = EmbeddingAdapter(hidden=4).build()
    params = randomised(init(jax.random.key(0), D, jnp.float32))
    p = jax.tree.map(np.asarray, params["embedding_adapter"])
    inside = jax.nn.gelu(e @ p["down"]["w"] + p["down"]["b"])
    expected = e + inside @ p["up"]["w"] + p["up"]["b"]
    np.testing.assert_allclose(apply(params, e), expected, rtol=1e-4, atol=1e-4)


def test_the_linear_form_about_keeps_the_norm():
    params = (
        EmbeddingAdapter(rank=256).build().init(jax.random.key(0), 384, jnp.float32)
    )
    e = np.random.default_rng(0).normal(size=384)
    inside = e @ np.asarray(params["embedding_adapter"]["down"]["w"])
    np.testing.assert_allclose(np.linalg.norm(inside), np.linalg.norm(e), rtol=0.15)


# Sizes and errors.


def test_counts_by_hand():
    def groups_of(adapter):
        return adapter.init(jax.random.key(0), TOY, 2, jnp.float32)

    def sizes(adapter):
        return describe(groups_of(adapter))

    lora = groups_of(LoRA(rank=4).build())
    # 2 layers, 2 maps, rank 4: A has 6 rows, B 5 columns.
    assert describe(lora["lora_a"]) == {"parameters": 96, "bits": 96 * 32}
    assert describe(lora["lora_b"]) == {"parameters": 80, "bits": 80 * 32}
    assert describe(lora) == {"parameters": 176, "bits": 176 * 32}
    # 2 layers, 2 blocks: 6 * 3 + 3 down, 3 * 6 + 6 up.
    assert sizes(Bottleneck(size=3).build())["parameters"] == 2 * 2 * (21 + 24)
    # 2 layers, a key and a value of 5 numbers, 4 times.
    assert sizes(PrefixTuning(length=4).build())["parameters"] == 2 * 2 * 5 * 4
    linear = EmbeddingAdapter(rank=2).build().init(jax.random.key(0), D, jnp.float32)
    assert describe(linear)["parameters"] == 24
    deep = EmbeddingAdapter(hidden=2).build().init(jax.random.key(0), D, jnp.float32)
    assert describe(deep)["parameters"] == 12 + 2 + 12 + 6


def test_sizes_at_other_dtypes_and_of_shapes_alone():
    def init(key):
        return LoRA(rank=4).build().init(key, TOY, 2, jnp.bfloat16)

    shapes = jax.eval_shape(init, jax.random.key(0))
    assert describe(shapes) == {"parameters": 176, "bits": 176 * 16}
    assert describe(shapes, jnp.float32)["bits"] == 176 * 32
    assert describe(shapes, jnp.int4)["bits"] == 176 * 4


def test_targets_that_match_nothing_name_what_there_is():
    for adapter in (
        LoRA(targets=("attention/q",)).build(),
        LoRA(targets=("*", "mlp")).build(),
    ):
        with pytest.raises(
            ValueError, match=r"targets .* attention/query, .* ffn/down"
        ):
            adapter.init(jax.random.key(0), TOY, 1, jnp.float32)
    with pytest.raises(ValueError, match="targets is empty"):
        LoRA(targets=()).build().init(jax.random.key(0), TOY, 1, jnp.float32)
    with pytest.raises(ValueError, match=r"blocks has 'mlp'.* attention, ffn"):
        Bottleneck(blocks=("mlp",)).build().init(jax.random.key(0), TOY, 1, jnp.float32)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (LoRA, {"rank": 0}),
        (LoRA, {"layers": -1}),
        (Bottleneck, {"size": 0}),
        (PrefixTuning, {"length": 0}),
        (EmbeddingAdapter, {"rank": 0}),
        (EmbeddingAdapter, {"hidden": -1}),
    ],
)
def test_sizes_below_their_bound_are_refused(settings, options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} must be at least .*, got {value}"):
        settings(**options)
