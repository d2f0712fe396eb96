"""One matrix-factorization workload in four ways: `mf256_*` of `rounds.py`.

6,040 clients with 64 labelled pairs each, 3,706 items, d = 32, batch 16, one epoch, a
cohort of 256, binary cross-entropy, plain SGD on the client's user vector and on the
items, and a server that takes the mean of the item tables. All ways have the same
pairs, initial values and cohorts, and have to end with the same parameters.
"""

import time
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.aggregators import means
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Cohort, ServerState
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.pairs import explicit_pairs
from fedjax_rec.data.partition import PerUser
from fedjax_rec.models.by_id import matrix_factorization
from fedjax_rec.simulation.chunks import chunk_sizes, default_examples_per_chunk
from fedjax_rec.simulation.round import federated

CLIENTS, PAIRS, ITEMS, DIM, BATCH, COHORT, RATE = 6040, 64, 3706, 32, 16, 256, 0.5


def workload() -> tuple[np.ndarray, ...]:
    """Items and labels `[N, PAIRS]`, initial item table `[I, d]`, users `[N, d]`."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.8
    keys = rng.exponential(size=(CLIENTS, ITEMS)) / popularity
    items = np.argpartition(keys, PAIRS, axis=1)[:, :PAIRS].astype(np.int32)
    labels = (rng.random((CLIENTS, PAIRS)) < 0.3).astype(np.float32)
    table = rng.normal(0, 0.1, (ITEMS, DIM)).astype(np.float32)
    users = rng.normal(0, 0.1, (CLIENTS, DIM)).astype(np.float32)
    return items, labels, table, users


def cohorts(rounds: int) -> list[np.ndarray]:
    """Client ids `[C]` of each round."""
    rng = np.random.default_rng(1)
    return [
        np.sort(rng.choice(CLIENTS, COHORT, replace=False)).astype(np.int32)
        for _ in range(rounds)
    ]


class Ours:
    """The engine: row tables, chunked `vmap`."""

    def __init__(self, items, labels, table, users):
        train = make_interactions(
            user=np.repeat(np.arange(CLIENTS), PAIRS),
            item=items.reshape(-1),
            rating=labels.reshape(-1),
            users=Entities(ids=[str(u) for u in range(CLIENTS)]),
            items=Entities(ids=[str(i) for i in range(ITEMS)]),
        )
        self.data = make_client_data(train, PerUser().partition(train))
        model = matrix_factorization(ITEMS, DIM)
        phase = Phase(lambda h: optax.sgd(RATE), row_rate=lambda h: RATE)
        recipe = Recipe(
            model=model,
            client_update=local_update(
                model, explicit_pairs(), (phase,), batch_size=BATCH, shuffle=False
            ),
            aggregator=means.weighted_mean(uniform=True),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams={},
        )
        chunks = chunk_sizes(self.data, default_examples_per_chunk(1), COHORT)
        algorithm = federated(recipe, chunks)

        def one_round(state, personal, data, ids):
            cohort = Cohort(ids=ids, rows=ids, personal=personal)
            state, cohort, _ = algorithm.round(
                state, cohort, data, (), {}, jax.random.key(0)
            )
            return state, cohort.personal

        self.round = jax.jit(one_round, donate_argnums=(0, 1))
        shared: Any = {"item": rows.Table(values=jnp.asarray(table))}
        self.state = ServerState(
            shared=shared,
            optimizer=optax.sgd(1.0).init(shared),
            round=jnp.zeros((), jnp.int32),
        )
        self.personal = {"user": jnp.asarray(users)}

    def step(self, ids):
        self.state, self.personal = self.round(
            self.state, self.personal, self.data, jnp.asarray(ids)
        )
        jax.block_until_ready(self.state.shared)

    def parameters(self):
        return np.asarray(self.state.shared["item"].values), self.personal["user"]


def whole_table_client(table, user, items, labels):
    """One client, which trains a copy of the whole table."""

    def loss(params, batch):
        table, user = params
        items, labels = batch
        logits = table[items] @ user
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    def step(params, batch):
        grads = jax.grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), None

    batches = (items.reshape(-1, BATCH), labels.reshape(-1, BATCH))
    (trained, user), _ = jax.lax.scan(step, (table, user), batches)
    return trained - table, user


class DenseVmap:
    """All clients of the cohort in one `vmap`, with a whole table for each."""

    def __init__(self, items, labels, table, users):
        self.items, self.labels = jnp.asarray(items), jnp.asarray(labels)
        self.table, self.users = jnp.asarray(table), jnp.asarray(users)
        self.round = jax.jit(self.make_round(), donate_argnums=(0, 1))

    def make_round(self):
        def one_round(table, users, items, labels, ids):
            deltas, trained = jax.vmap(whole_table_client, (None, 0, 0, 0))(
                table, users[ids], items[ids], labels[ids]
            )
            return table + deltas.mean(0), users.at[ids].set(trained)

        return one_round

    def step(self, ids):
        self.table, self.users = self.round(
            self.table, self.users, self.items, self.labels, jnp.asarray(ids)
        )
        jax.block_until_ready(self.table)

    def parameters(self):
        return np.asarray(self.table), np.asarray(self.users)


class DrJax(DenseVmap):
    """The same client in DrJAX's broadcast, map and reduce."""

    def make_round(self):
        import drjax  # pyright: ignore[reportMissingImports]

        @drjax.program(placements={"clients": COHORT})
        def train(table, users, items, labels):
            tables = drjax.broadcast(table)
            deltas, trained = drjax.map_fn(
                whole_table_client, (tables, users, items, labels)
            )
            return table + drjax.reduce_mean(deltas), trained

        def one_round(table, users, items, labels, ids):
            table, trained = train(table, users[ids], items[ids], labels[ids])
            return table, users.at[ids].set(trained)

        return one_round


class Torch:
    """A sequential loop over clients, as in published code."""

    def __init__(self, items, labels, table, users):
        import torch  # pyright: ignore[reportMissingImports]

        self.torch = torch
        self.items = torch.from_numpy(items.astype(np.int64))
        self.labels = torch.from_numpy(labels)
        self.table = torch.from_numpy(table.copy())
        self.users = torch.from_numpy(users.copy())

    def step(self, ids):
        torch = self.torch
        total = torch.zeros_like(self.table)
        criterion = torch.nn.BCEWithLogitsLoss()
        for client in ids.tolist():
            table = self.table.clone().requires_grad_(True)
            user = self.users[client].clone().requires_grad_(True)
            optimizer = torch.optim.SGD([table, user], lr=RATE)
            for first in range(0, PAIRS, BATCH):
                batch = slice(first, first + BATCH)
                optimizer.zero_grad()
                logits = table[self.items[client, batch]] @ user
                criterion(logits, self.labels[client, batch]).backward()
                optimizer.step()
            total += table.detach()
            self.users[client] = user.detach()
        self.table = total / len(ids)

    def parameters(self):
        return self.table.numpy(), self.users.numpy()


def compare(repeats: int) -> dict[str, float]:
    """Median seconds per round of each way, and ratios to ours."""
    data = workload()
    ways = {"ours": Ours, "dense_vmap": DenseVmap, "drjax": DrJax, "torch": Torch}
    running, seconds = {}, {}
    for name, way in ways.items():
        try:
            running[name] = way(*data)
            seconds[name] = []
        except ImportError as error:
            harness.progress(f"  {name} left out: {error}; install fedjax-rec[bench]")
    for ids in cohorts(repeats + 1):  # the first round compiles
        for name, way in running.items():
            started = time.perf_counter()
            way.step(ids)
            seconds[name].append(time.perf_counter() - started)
    expected = running["ours"].parameters()
    figures = {}
    for name, way in running.items():
        gap = max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(way.parameters(), expected, strict=True)
        )
        median = float(np.median(seconds[name][1:]))
        harness.progress(
            f"  {name}: {median:.4f} s a round, {COHORT / median:,.0f} clients/s, "
            f"final parameters differ from ours by {gap:.1e}"
        )
        if gap > 1e-5:
            raise SystemExit(f"{name} computed something else: {gap:.1e} > 1e-5")
        figures[f"mf256_{name}_round_s"] = median
        if name != "ours":
            ours = figures["mf256_ours_round_s"]
            figures[f"mf256_ratio_{name}"] = median / ours
            figures[f"mf256_gap_{name}"] = gap
    figures["mf256_clients_per_s"] = COHORT / figures["mf256_ours_round_s"]
    return figures
