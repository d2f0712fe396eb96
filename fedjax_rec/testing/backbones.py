"""Laws of backbones: frozen models that turn texts into vectors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.backbone import Adapter, Backbone, Layout
from fedjax_rec.testing.compare import check_close, check_finite, require
from fedjax_rec.testing.law import NotApplicable

TEXTS = ["red shoes for men", "a", "wooden garden table and a blue chair", "Sea!"]


class Frozen:
    """The backbone of some settings, and texts in packed rows.

    Attributes:
        backbone: the functions.
        weights: their arrays.
        together: token ids and layout of four texts in two rows.
        apart: the same with a row for each text.
    """

    def __init__(self, settings: Any) -> None:
        loaded = settings.load(False)
        self.backbone: Backbone = loaded[0]
        self.weights: Any = loaded[1]

    @functools.cached_property
    def tokens(self) -> list[np.ndarray]:
        """The tokens of the texts."""
        return self.backbone.tokenize(TEXTS)

    @functools.cached_property
    def together(self) -> Any:
        """Two rows: three texts, and one."""
        return place(self.tokens, [[0, 1, 3], [2]])

    @functools.cached_property
    def apart(self) -> Any:
        """A row for each text."""
        return place(self.tokens, [[0], [1], [2], [3]])

    def hidden(self, ids: Any, layout: Layout) -> Any:
        """The last hidden states."""
        hidden = self.backbone.embed(self.weights, ids, layout)
        return self.backbone.run(self.weights["layers"], hidden, layout, None, None)

    def vectors(self, placed: Any, num_texts: int) -> Any:
        """Vectors `[R, num_texts, D]` of placed texts."""
        ids, layout = placed
        hidden = self.hidden(ids, layout)
        return self.backbone.pool(self.weights, hidden, layout, num_texts)


def place(tokens: list[np.ndarray], rows: list[list[int]], more: int = 3) -> Any:
    """Tokens `[R, W]` and their layout; `more` tokens of padding at least."""
    longest = max(sum(len(tokens[i]) for i in row) for row in rows)
    return lay_out(tokens, rows, longest + more)


def lay_out(tokens: list[np.ndarray], rows: list[list[int]], width: int) -> Any:
    """Tokens `[R, W]` and layout of lists: `rows` holds each row's list numbers."""
    ids, segment, position = np.zeros((3, len(rows), width), np.int32)
    for r, numbers in enumerate(rows):
        at = 0
        for g, number in enumerate(numbers, 1):
            n = len(tokens[number])
            ids[r, at : at + n] = tokens[number]
            segment[r, at : at + n] = g
            position[r, at : at + n] = np.arange(n)
            at += n
    layout = Layout(segment=jnp.asarray(segment), position=jnp.asarray(position))
    return jnp.asarray(ids), layout


def builds(frozen: Frozen) -> None:
    """`load(progress)` returns a Backbone and its weights"""
    require(
        isinstance(frozen.backbone, Backbone),
        f"it returned a {type(frozen.backbone).__name__}; expected a "
        "fedjax_rec.core.backbone.Backbone, and its weights",
    )
    print_of = frozen.backbone.fingerprint
    require(
        isinstance(print_of, str) and print_of, f"fingerprint={print_of!r}: no text"
    )


def layers_are_stacked(frozen: Frozen) -> None:
    """`weights["layers"]` has arrays with one entry for each layer"""
    weights, n = frozen.weights, frozen.backbone.num_layers
    require(
        isinstance(weights, dict) and "layers" in weights,
        "the weights are a dict with `layers`, and others for `embed` and `pool`",
    )
    for leaf in jax.tree.leaves(weights["layers"]):
        require(
            np.shape(leaf)[:1] == (n,),
            f"num_layers={n}, and an array of weights['layers'] has shape "
            f"{np.shape(leaf)}",
        )


def tokens_are_lists(frozen: Frozen) -> None:
    """`tokenize` gives 1 to `max_tokens` int32 tokens for each text, also a long one"""
    longest = frozen.backbone.max_tokens
    texts = [*TEXTS, "word " * (longest + 5), ""]
    tokens = frozen.backbone.tokenize(texts)
    require(len(tokens) == len(texts), f"{len(tokens)} lists for {len(texts)} texts")
    for text, row in zip(texts, tokens, strict=True):
        row = np.asarray(row)
        require(
            row.dtype == np.int32 and row.ndim == 1 and 1 <= len(row) <= longest,
            f"the tokens of {text[:20]!r} are {row.dtype}{list(row.shape)}; expected "
            f"int32 and 1 to {longest} of them",
        )


def vectors_have_the_width(frozen: Frozen) -> None:
    """A text has a finite vector of `width` numbers"""
    vectors = frozen.vectors(frozen.apart, 1)
    expected = (len(TEXTS), 1, frozen.backbone.width)
    require(
        vectors.shape == expected,
        f"pool gave the shape {vectors.shape}; expected {expected}",
    )
    check_finite(vectors, "the vectors of four texts")


def packed_texts_are_as_alone(frozen: Frozen) -> None:
    """A text's vector is the same in a row with others and in a row of its own"""
    packed = frozen.vectors(frozen.together, 3)
    rows = [packed[0, 0], packed[0, 1], packed[1, 0], packed[0, 2]]
    check_close(
        jnp.stack(rows),
        frozen.vectors(frozen.apart, 1)[:, 0],
        "the vectors of four texts in two rows, and in a row each: tokens may read "
        "those of their own `segment` only",
        atol=1e-4,
        rtol=1e-4,
    )
    empty = np.asarray(packed[1, 1:])
    require(not empty.any(), "the vector of a segment without a text is not zero")


def padding_changes_nothing(frozen: Frozen) -> None:
    """What padding holds changes nothing, and a row of padding is finite"""
    ids, layout = frozen.together
    other = jnp.where(layout.segment == 0, jnp.max(ids), ids)
    real = np.asarray(layout.segment) > 0
    states = [np.asarray(frozen.hidden(i, layout))[real] for i in (other, ids)]
    check_close(
        *states, what="states with other tokens in the padding, and with 0", atol=1e-6
    )
    nothing = Layout(segment=layout.segment * 0, position=layout.position * 0)
    check_finite(frozen.hidden(ids, nothing), "the states of a row of padding")


def layers_run_one_after_the_other(frozen: Frozen) -> None:
    """The first layers and then the others are all layers"""
    ids, layout = frozen.together
    stack = frozen.weights["layers"]
    cut = frozen.backbone.num_layers - 1
    hidden = frozen.backbone.embed(frozen.weights, ids, layout)
    for part in (slice(None, cut), slice(cut, None)):
        some = jax.tree.map(lambda x, part=part: x[part], stack)
        hidden = frozen.backbone.run(some, hidden, layout, None, None)
    real = np.asarray(layout.segment) > 0
    check_close(
        np.asarray(hidden)[real],
        np.asarray(frozen.hidden(ids, layout))[real],
        f"states after {cut} layers and then one, and after all",
        atol=1e-5,
        rtol=1e-5,
    )


def adapters_are_called(frozen: Frozen) -> None:
    """An adapter's hook changes the states at each of `sites` and `blocks`"""
    backbone = frozen.backbone
    places = [("sites", "linear", path) for path in backbone.sites]
    places += [("blocks", "block", path) for path in backbone.blocks]
    if not places:
        raise NotApplicable("the backbone has neither sites nor blocks")
    ids, layout = frozen.together
    stack = frozen.weights["layers"]
    hidden = backbone.embed(frozen.weights, ids, layout)
    real = np.asarray(layout.segment) > 0

    @jax.jit
    def run(stack: Any, hidden: Any, factors: dict[str, Any]) -> Any:
        def linear(layer: Any, path: str, x: Any, y: Any) -> Any:
            return y * layer[f"sites:{path}"].astype(y.dtype)

        def block(layer: Any, path: str, y: Any) -> Any:
            return y * layer[f"blocks:{path}"].astype(y.dtype)

        adapter = Adapter(lambda *_: {}, linear, block, lambda layer: None)
        return backbone.run(stack, hidden, layout, adapter, factors)

    ones = {
        f"{where}:{path}": jnp.ones(backbone.num_layers) for where, _, path in places
    }
    before = np.asarray(run(stack, hidden, ones))[real]
    for where, hook, path in places:
        name = f"{where}:{path}"
        after = run(stack, hidden, {**ones, name: ones[name].at[0].set(2.0)})
        require(
            not np.array_equal(np.asarray(after)[real], before),
            f"{where} has {path!r}, and an adapter that doubles the output there in "
            f"the first layer changes no state: does `run` call adapter.{hook}("
            f"layer_params, {path!r}, ...) and use its result?",
        )


def compiles(frozen: Frozen) -> None:
    """Vectors are the same under jax.jit"""
    ids, layout = frozen.apart

    def vectors(weights: Any, ids: Any, layout: Layout) -> Any:
        backbone = frozen.backbone
        hidden = backbone.embed(weights, ids, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, None, None)
        return backbone.pool(weights, hidden, layout, 1)

    check_close(
        jax.jit(vectors)(frozen.weights, ids, layout),
        frozen.vectors(frozen.apart, 1),
        "the vectors under jax.jit, and without",
        atol=1e-4,
        rtol=1e-4,
    )


LAWS = (
    builds,
    layers_are_stacked,
    tokens_are_lists,
    vectors_have_the_width,
    packed_texts_are_as_alone,
    padding_changes_nothing,
    layers_run_one_after_the_other,
    adapters_are_called,
    compiles,
)
