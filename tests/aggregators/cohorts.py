"""Facts and small cohorts for tests of aggregation rules."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.clients.local import local_steps
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Aggregator, Local, Senders

C, LENGTH = 5, 6
N = np.array([1.0, 3, 0, 2, 4], np.float32)
LOSS = np.array([0.5, 2, 9, 1, 0.1], np.float32)
SHARED = {"item": rows.Table(values=jnp.zeros((LENGTH, 2))), "w": jnp.zeros(3)}
UNIFORM = (N > 0) / (N > 0).sum()
FEDAVG = N / N.sum()
LOCAL = Local(steps=local_steps(4), rate=lambda hparams: hparams["client_lr"])


def context(
    num_clients: int = C, local: Local = LOCAL, client_lr: float = 0.25, **facts: Any
) -> Context:
    """Facts about clients with one example each, unless `facts` say otherwise."""
    recipe: Any = SimpleNamespace(local=local, hparams={"client_lr": client_lr})
    more = {"examples": np.ones(num_clients), "recipe": recipe, **facts}
    return Context(
        num_items=LENGTH,
        num_users=num_clients,
        num_clients=num_clients,
        cohort_size=num_clients,
        dtype="float32",
        **more,
    )


@functools.cache
def built(settings: Any) -> Aggregator:
    """The aggregator of some settings; tests of the same ones share its programs."""
    return settings.build(context())


def sent(seed: int = 0) -> dict[str, Any]:
    """Deltas of `C` clients, with repeated rows and numbers in the padding."""
    rng = np.random.default_rng(seed)
    return {
        "item": rows.Rows(
            ids=jnp.asarray(rng.integers(0, LENGTH + 1, (C, 5))),
            values=jnp.asarray(rng.normal(size=(C, 5, 2)), jnp.float32),
        ),
        "w": jnp.asarray(rng.normal(size=(C, 3)), jnp.float32),
    }


def dense(deltas: dict[str, Any]) -> dict[str, np.ndarray]:
    """Each client's delta in NumPy: `{"item": [C, I, 2], "w": [C, 3]}`."""
    item = np.zeros((C, LENGTH + 1, 2))
    for client in range(C):
        np.add.at(
            item[client], deltas["item"].ids[client], deltas["item"].values[client]
        )
    return {"item": item[:, :LENGTH], "w": np.asarray(deltas["w"], np.float64)}


def run(rule, deltas=None, weights=N, loss=LOSS, ids=None, state=None, chunk=2):
    """`(delta, state, info)` of a round of settings or of an aggregator."""
    rule = rule if isinstance(rule, Aggregator) else built(rule)
    deltas = sent() if deltas is None else deltas
    state = rule.start(SHARED) if state is None else state
    acc = rule.begin(rule.init(SHARED, C), state)
    ids = np.arange(C) if ids is None else ids
    for first in range(0, C, chunk):
        part = slice(first, first + chunk)
        senders = Senders(
            slots=jnp.arange(C)[part],
            ids=jnp.asarray(ids)[part],
            loss=jnp.asarray(loss)[part],
        )
        clients = jax.tree.map(lambda x, part=part: x[part], deltas)
        acc = rule.update(acc, clients, jnp.asarray(weights)[part], senders)
    delta, state, info = rule.finish(acc, state, SHARED)
    return {"item": delta["item"].values, "w": delta["w"]}, state, info


def mean(part, deltas=None):
    """`sum_i part_i delta_i`."""
    each = dense(sent() if deltas is None else deltas)
    return jax.tree.map(lambda x: np.tensordot(part, x, 1), each)


def close(a, b, atol=1e-5):
    """Asserts that trees are equal up to rounding."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)
