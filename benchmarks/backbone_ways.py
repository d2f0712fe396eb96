"""One round of a backbone with an adapter, in several ways: for `backbone.py`.

Each client takes local steps of SGD on 8 labelled texts at a time, which train a LoRA
(or a net on the embedding), the map from embeddings to item vectors, a vector common to
all users, and its own user vector; the server averages the shared parameters. Every way
has the same texts, labels and start.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.aggregators import means
from fedjax_rec.backbones import load_backbone
from fedjax_rec.backbones.prefix import build_embeddings, build_prefix
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import batch_packing, packing
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.core.contracts import Model, Recipe
from fedjax_rec.core.packing import Lists
from fedjax_rec.core.rounds import Cohort, ServerState
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.pairs import explicit_pairs
from fedjax_rec.data.partition import PerUser
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.adapters.in_layers import LoRA
from fedjax_rec.models.item_tower import adapted_tower, cached_tower
from fedjax_rec.models.two_tower import two_tower
from fedjax_rec.simulation.chunks import chunk_sizes, default_examples_per_chunk
from fedjax_rec.simulation.round import federated

BATCH, STEPS, RANK, ALPHA, DIM, RATE = 8, 2, 8, 16.0, 32, 0.1
TARGETS = ("attention/query", "attention/value")
TOKENS = 32
_LORA = LoRA(rank=RANK, alpha=ALPHA, targets=TARGETS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """Inputs of every way.

    Attributes:
        name: name of the backbone.
        backbone: its functions.
        weights: its arrays.
        tokens: tokens of each text.
        items: `[C, STEPS * BATCH]` ids of the texts a client trains on.
        labels: `[C, STEPS * BATCH]`, 0 or 1.
        shared: initial shared groups by name; both matrices of the LoRA in every layer
            are away from zero.
        user: `[C, DIM]`, initial user vectors.
        root: folder of prefix caches.
    """

    name: str
    backbone: Backbone
    weights: Tree
    tokens: Lists
    items: np.ndarray
    labels: np.ndarray
    shared: dict[str, Any]
    user: np.ndarray
    root: Any = None

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self.tokens.length)


def workload(
    name: str,
    clients: int,
    lengths: np.ndarray,
    *,
    dtype: str = "float32",
    root: Any = None,
) -> Workload:
    """Clients with random texts of these lengths, from a random start."""
    backbone, weights = load_backbone(name, dtype=dtype)
    rng = np.random.default_rng(0)
    vocabulary = weights["embeddings"]["token"].shape[0]
    texts = [rng.integers(0, vocabulary, n).astype(np.int32) for n in lengths]
    shape = (clients, STEPS * BATCH)
    layers = backbone.num_layers
    groups = _LORA.build().init(jax.random.key(0), backbone, layers, jnp.float32)

    def normal(std, *shape):
        return rng.normal(0, std, shape).astype(np.float32)

    shared = {
        "lora_a": groups["lora_a"],
        "lora_b": {k: normal(0.02, *b.shape) for k, b in groups["lora_b"].items()},
        "head": {
            "w": normal(0.3, backbone.width, DIM),
            "b": normal(0.1, DIM),
        },
        "common": {"user": normal(0.3, DIM), "bias": np.float32(0.1)},
    }
    return Workload(
        name=name,
        backbone=backbone,
        weights=weights,
        tokens=packing.make_lists(texts),
        items=_distinct(rng, shape, len(texts)),
        labels=(rng.random(shape) < 0.5).astype(np.float32),
        shared=shared,
        user=normal(0.5, clients, DIM),
        root=root,
    )


def _distinct(rng, shape: tuple[int, int], items: int) -> np.ndarray:
    rows = [rng.choice(items, shape[1], replace=False) for _ in range(shape[0])]
    return np.stack(rows).astype(np.int32)


class Path(NamedTuple):
    """One way through the engine.

    Attributes:
        layers: number of last layers with a LoRA; 0 is the embedding adapter.
        cached: whether the output of the layers before them is cached.
        per_row: texts in a packed row; 1 pads each to the longest.
        chunk: clients of one `vmap`; 0 is the default.
    """

    layers: int
    cached: bool = True
    per_row: int = 1
    chunk: int = 0


class Ours:
    """The engine: `local_update` of a two-tower model, chunks of clients, a mean."""

    def __init__(self, work: Workload, path: Path):
        self.clients = clients = len(work.items)
        train = make_interactions(
            user=np.repeat(np.arange(clients), STEPS * BATCH),
            item=work.items.reshape(-1),
            rating=work.labels.reshape(-1),
            users=Entities(ids=[str(u) for u in range(clients)]),
            items=Entities(ids=[str(i) for i in range(len(work.lengths))]),
        )
        self.data = make_client_data(train, PerUser().partition(train))
        model, self.frozen, shared = _model(work, path)
        self.recipe = Recipe(
            model=model,
            client_update=local_update(
                model,
                _text_pairs,
                (Phase(lambda h: optax.sgd(RATE)),),
                batch_size=BATCH,
                shuffle=False,
            ),
            aggregator=means.weighted_mean(uniform=True),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams={},
        )
        per_chunk = path.chunk * STEPS * BATCH
        per_chunk = per_chunk or default_examples_per_chunk(1, texts=bool(path.layers))
        self.chunks = chunk_sizes(self.data, per_chunk, clients)
        algorithm = federated(self.recipe, self.chunks)

        def one_round(state, personal, data, frozen):
            ids = jnp.arange(clients)
            cohort = Cohort(ids=ids, rows=ids, personal=personal)
            key = jax.random.key(0)
            out = algorithm.round(state, cohort, data, frozen, {}, key)
            state, cohort, metrics = out
            return state, cohort.personal, metrics["loss"]

        self.round = jax.jit(one_round, donate_argnums=(0, 1))
        shared = jax.tree.map(jnp.array, shared)
        self.state = ServerState(
            shared=shared,
            optimizer=optax.sgd(1.0).init(shared),
            round=jnp.zeros((), jnp.int32),
        )
        self.personal = {"user": jnp.array(work.user)}

    def step(self) -> None:
        self.state, self.personal, loss = self.round(
            self.state, self.personal, self.data, self.frozen
        )
        jax.block_until_ready((self.state, self.personal, loss))

    def losses(self) -> np.ndarray:
        """`[C, STEPS]` losses of the next round, from the engine's client update.

        An update returns a client's mean loss: here over the first step, then over all.
        """

        def mean_loss(examples, user):
            params: Any = dataclasses.replace(
                self.recipe.model.init(jax.random.key(0)),
                shared=self.state.shared,
                personal={"user": user},
            )
            update = self.recipe.client_update
            key = jax.random.key(0)
            return update(params, self.frozen, examples, {}, key).metrics["loss"]

        examples = {
            name: jax.vmap(lambda i, name=name: self.data.examples(i, 0)[name])(
                jnp.arange(self.data.num_clients)
            )
            for name in ("item", "user", "rating", "mask")
        }
        means = [
            jax.jit(jax.vmap(mean_loss))(
                {name: x[:, : steps * BATCH] for name, x in examples.items()},
                self.personal["user"],
            )
            for steps in range(1, STEPS + 1)
        ]
        sums = [n * np.asarray(mean) for n, mean in enumerate(means, 1)]
        return np.diff(np.stack(sums, axis=1), prepend=0)

    def parameters(self) -> dict[str, np.ndarray]:
        """The server's parameters by path, and the users' vectors."""
        leaves = jax.tree_util.tree_leaves_with_path(self.state.shared)
        shared = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
        return {**shared, "user": np.asarray(self.personal["user"])}

    def program_mib(self) -> float:
        """Temporary memory of the compiled round."""
        args = (self.state, self.personal, self.data, self.frozen)
        analysis: Any = self.round.lower(*args).compile().memory_analysis()
        return analysis.temp_size_in_bytes / 2**20


def _text_pairs(examples, key):
    pairs = explicit_pairs()(examples, key)
    return {**pairs, "text": pairs["item"]}


def _model(work: Workload, path: Path) -> tuple[Model, Tree, Tree]:
    """The two towers, frozen arrays, and the shared start."""
    backbone, weights, tokens = work.backbone, work.weights, work.tokens
    total, k = backbone.num_layers, path.layers
    shared = {name: work.shared[name] for name in ("head", "common")}
    common: Any = {
        "num_items": len(work.lengths),
        "projection": jnp.asarray(work.shared["head"]["w"]),
        "center": jnp.zeros(backbone.width),
        "group": 1,
        "loss": "bce",
    }
    if not k:
        net = EmbeddingAdapter(rank=16).build()
        shared |= net.init(jax.random.key(0), backbone.width, jnp.float32)
        embedding = build_embeddings(backbone, weights, tokens, root=work.root)
        frozen = {"embedding": jnp.asarray(embedding.astype(np.float32))}
        tower = cached_tower()
        return two_tower(tower, on_embedding=net, **common), frozen, shared
    suffix = {"head": weights["head"]}
    suffix["layers"] = jax.tree.map(lambda x: x[total - k :], weights["layers"])
    if k == total or not path.cached:
        suffix["embeddings"] = weights["embeddings"]
    else:
        tokens = build_prefix(backbone, weights, tokens, total - k, root=work.root)
    if k < total and not path.cached:
        suffix["before"] = jax.tree.map(lambda x: x[: total - k], weights["layers"])
    lengths, longest = work.lengths, int(work.lengths.max())
    width = longest
    if path.per_row > 1:
        width = batch_packing.fold_width(lengths, BATCH, path.per_row)
    tower = adapted_tower(
        backbone, _LORA.build(), k, per_row=path.per_row, width=width, longest=longest
    )
    for name in ("lora_a", "lora_b"):
        shared[name] = {s: x[total - k :] for s, x in work.shared[name].items()}
    text = {"lists": tokens, "plan": packing.plan(lengths), "weights": suffix}
    return two_tower(tower, **common), {"text": text}, shared
