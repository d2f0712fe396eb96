"""Three clients, and the arithmetic of their rounds in NumPy.

Only what is random comes from the package: initial values, negatives and the order of
pairs. Losses, gradients, phases, rates and means are written out here.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import Execution, Experiment, SyntheticData, build
from fedjax_rec.clients import local
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.simulation.round import client_key

ITEMS, SIZES = 12, (4, 7, 5)
CLIENTS = range(len(SIZES))
EXAMPLES = np.array(SIZES) - 2  # one for validation and one for the test


def interactions(titles=None, ratings=None):
    rng = np.random.default_rng(0)
    return make_interactions(
        user=np.repeat(CLIENTS, SIZES),
        item=np.concatenate([rng.choice(ITEMS, n, replace=False) for n in SIZES]),
        rating=ratings,
        users=Entities(ids=[f"u{u}" for u in CLIENTS]),
        items=Entities(ids=[f"i{i}" for i in range(ITEMS)], titles=titles),
    )


class World:
    """An experiment over the three clients.

    Attributes:
        simulation: the experiment.
    """

    def __init__(self, algorithm, titles=None, ratings=None, **parts: Any):
        experiment = Experiment(
            name="by hand",
            data=SyntheticData(),
            algorithm=algorithm,
            execution=Execution(max_buckets=1),
            eval_every=1,
            **{"rounds": 2, **parts},
        )
        self.simulation = build(experiment, data=interactions(titles, ratings))
        data = jax.tree.map(jnp.asarray, self.simulation.data)
        pairs: Any = self.simulation.recipe.local.draw
        root = self.simulation.key

        @jax.jit
        def draw(number, client):
            keys = jax.random.split(client_key(root, number, client), 3)
            return pairs(data.examples(client, 0), keys[0]), keys[1]

        self._draw = functools.cache(draw)

    @property
    def shared(self):
        """Shared parameters in float64."""
        return in_float64(self.simulation.state.shared)

    @property
    def personal(self):
        """Personal parameters `[N, ...]` in float64."""
        return in_float64(self.simulation.personal)

    def pairs(self, number, client):
        """Pairs of a client in a round as they were drawn, without padding."""
        pairs, _ = self._draw(number, client)
        mask = np.asarray(pairs["mask"])
        return {name: np.asarray(x)[mask] for name, x in pairs.items()}

    def batches(self, number, client, size=99, epochs=1):
        """Batches of a client in a round: dicts of columns, without padding."""
        pairs, order_key = self._draw(number, client)
        pairs = {name: np.asarray(x) for name, x in pairs.items()}
        real = pairs["mask"].sum()
        keys = [order_key] if epochs == 1 else jax.random.split(order_key, epochs)
        for key in keys:
            order = np.asarray(local._order(key, jnp.asarray(pairs["mask"]), True))
            for first in range(0, real, size):
                at = order[first : min(first + size, real)]
                yield {name: column[at] for name, column in pairs.items()}


def mean_metrics(simulation, part, scores, cutoff=5):
    """Mean metrics of the users of a part in a full ranking.

    Args:
        simulation: under pessimistic ties.
        part: `"val"` or `"test"`.
        scores: by user, of all items.
        cutoff: of HR and NDCG.
    """
    split, values = simulation.split, []
    held = getattr(split, part)
    query = split.info.get("query")
    parts = [split.train, *([split.val] if part == "test" else [])]
    parts += [] if query is None else [query]
    for user in np.unique(held.user):
        positives = held.item[held.user == user]
        known = np.concatenate([p.item[p.user == user] for p in parts])
        own = np.asarray(scores[user])
        others = own[np.setdiff1d(np.arange(len(own)), [*known, *positives])]
        best = sorted(own[positives], reverse=True)
        # Equal scores: the others come first.
        ranks = [(others >= s).sum() + j for j, s in enumerate(best, 1)]
        gain = sum(1 / np.log2(r + 1) for r in ranks if r <= cutoff)
        ideal = sum(1 / np.log2(j + 2) for j in range(min(len(best), cutoff)))
        auc = np.mean([(others < s).mean() for s in best])
        values.append((ranks[0] <= cutoff, gain / ideal, auc))
    names = f"hr@{cutoff}", f"ndcg@{cutoff}", "auc"
    return dict(zip(names, np.mean(values, 0), strict=True))


def in_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def of_client(tree, client):
    return jax.tree.map(lambda x: x[client].copy(), tree)


def slope_of(logits, labels):
    """Derivative of the mean binary cross-entropy with respect to the logits."""
    return (1 / (1 + np.exp(-logits)) - labels) / len(labels)


def factorization(table, user, batch):
    """Gradients of the table and of the user's vector: the logits are `Q_i . p`."""
    item, rows = batch["item"], np.zeros_like(table)
    slope = slope_of(table[item] @ user, batch["label"])
    np.add.at(rows, item, slope[:, None] * user)
    return rows, slope @ table[item]


def scorer(table, own, batch):
    """Gradients of the table and of the scorer: the logits are `Q_i . w + b`."""
    item, rows = batch["item"], np.zeros_like(table)
    slope = slope_of(table[item] @ own["w"] + own["b"], batch["label"])
    np.add.at(rows, item, slope[:, None] * own["w"])
    return rows, {"w": slope @ table[item], "b": slope.sum()}


def perceptron(mlp, user, rows):
    """Logits of `MLP([p, q])` with ReLU, and the inputs of all layers."""
    x, inputs = np.concatenate([np.broadcast_to(user, rows.shape), rows], 1), []
    for layer in mlp:
        x = np.maximum(x, 0) if inputs else x
        inputs.append(x)
        x = x @ layer["w"] + layer["b"]
    return x[:, 0], inputs


def perceptron_gradient(table, mlp, user, batch):
    """Gradients of the table, the layers, and the user's vector."""
    item, rows = batch["item"], np.zeros_like(table)
    logits, inputs = perceptron(mlp, user, table[item])
    slope, layers = slope_of(logits, batch["label"])[:, None], []
    for layer, x in zip(reversed(mlp), reversed(inputs), strict=True):
        layers.append({"w": x.T @ slope, "b": slope.sum(0)})
        slope = slope @ layer["w"].T
        if len(layers) < len(mlp):
            slope = slope * (x > 0)
    np.add.at(rows, item, slope[:, len(user) :])
    return rows, layers[::-1], slope[:, : len(user)].sum(0)


def close(got, wanted, atol=2e-5):
    """Asserts equal trees up to rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol)


def differences(function, tree, step=1e-5):
    """The gradient of `function(tree)`, by central differences in float64."""
    leaves, structure = jax.tree.flatten(tree)

    def derivative(leaf):
        gradient = np.zeros_like(leaf)
        for at in np.ndindex(leaf.shape):
            value, ends = leaf[at], []
            for sign in (1, -1):
                leaf[at] = value + sign * step
                ends.append(function(tree))
            leaf[at] = value
            gradient[at] = (ends[0] - ends[1]) / (2 * step)
        return gradient

    leaves = [np.array(leaf, np.float64) for leaf in leaves]
    tree = jax.tree.unflatten(structure, leaves)
    return jax.tree.unflatten(structure, [derivative(leaf) for leaf in leaves])
