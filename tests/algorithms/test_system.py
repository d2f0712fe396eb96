"""Systems of declared parameters against NumPy, and refusals."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Params
from fedjax_rec.experiment.fields import with_values
from fedjax_rec.sweep.grouping import DiffersError, common_recipe
from tests import by_hand
from tests.by_hand import CLIENTS, EXAMPLES, ITEMS, World
from tests.examples import example

CONTEXT = Context(
    num_items=5,
    num_users=4,
    num_clients=4,
    cohort_size=4,
    dtype=np.float32,
    examples=np.ones(4),
)


FedRAP = example("fedrap").FedRAP
HYPER = {"client_lr": 0.3, "item_lr": 2.0, "lam": 0.2, "mu": 0.05, "negatives": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alternating(FedRAP):
    phases: ClassVar = (("w", "b"), ("D", "C"))


def steps(c, d, w, b, batch, phases, h):
    """One batch of FedRAP: gradients of all names of a phase at the same point."""
    item, y = batch["item"], batch["label"]
    n = len(item)
    rate = {"C": h["item_lr"], "D": h["item_lr"], "w": h["client_lr"]}
    rate["b"] = h["client_lr"]
    for names in phases:
        x = (c[item] + d[item]) @ w + b
        slope = (1 / (1 + np.exp(-x)) - y) / n
        apart = 2 * (c[item] - d[item]) / c.shape[1] / n
        rows = slope[:, None] * w
        gradient = {"w": slope @ (c[item] + d[item]), "b": slope.sum()}
        gradient["C"], gradient["D"] = np.zeros_like(c), np.zeros_like(c)
        of_c = rows - h["lam"] * apart + h["mu"] * np.sign(c[item]) / n
        np.add.at(gradient["C"], item, of_c)
        np.add.at(gradient["D"], item, rows + h["lam"] * apart)
        c, d, w, b = (
            x - rate[name] * gradient[name] if name in names else x
            for name, x in (("C", c), ("D", d), ("w", w), ("b", b))
        )
    return c, d, w, b


@pytest.mark.parametrize("size", [5, 99])
@pytest.mark.parametrize("kind", [FedRAP, Alternating])
def test_fedrap_in_numpy(kind, size):
    """Two rounds: steps on the rows of a batch, both tables by item id, the mean."""
    world = World(kind(dim=3, batch_size=size, **HYPER))
    phases = kind.phases or (("C", "D", "w", "b"),)
    table, own = world.shared["C"].values, world.personal
    own: Any = [[own["D"].values[i], own["w"][i], own["b"][i]] for i in CLIENTS]
    for number in range(2):
        changes = []
        for client in CLIENTS:
            c = table.copy()
            for batch in world.batches(number, client, size):
                d, w, b = own[client]
                c, *own[client] = steps(c, d, w, b, batch, phases, HYPER)
            changes.append(c - table)
        table = table + np.mean(changes, axis=0)
        world.simulation.advance(1)
        by_hand.close(world.shared["C"].values, table)
        for client in CLIENTS:
            for x, y in zip(
                own[client],
                (world.personal["D"].values, world.personal["w"], world.personal["b"]),
                strict=True,
            ):
                by_hand.close(y[client], x)
    simulation = world.simulation
    own_arrays = jax.tree.map(lambda x: x[1], simulation.personal)
    params = Params(shared=simulation.state.shared, personal=own_arrays)
    scores = simulation.recipe.model.score(params, (), {"user": jnp.int32(1)}, None)
    d, w, b = own[1]
    by_hand.close(scores, (table + d) @ w + b)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(fr.System):
    """Matrix factorization with weight decay of all rows, and a bias table of rows."""

    decay: float = 0.1

    def parameters(self):
        return {
            "q": fr.table(2, scale=0.5, whole=True),
            "bias": fr.table(scale=0.5),
            "u": fr.dense(2, scale=0.5, personal=True),
        }

    def score(self, p):
        return p.q @ p.u + p.bias

    def loss(self, p, batch):
        square = jnp.square(p.all("q")).sum()
        by_id = batch.mean(1.0 * batch.item)
        return batch.bce(self.score(p)) + self.decay / 2 * square, {"item": by_id}


def test_a_whole_table_is_read_and_sent_by_each_client():
    world = World(Whole(client_lr=0.3, negatives=1), rounds=1)
    q, users = world.shared["q"], world.personal["u"]
    bias = world.shared["bias"].values
    tables, means = [], []
    for client in CLIENTS:
        (batch,) = world.batches(0, client)
        item = batch["item"]
        x = q[item] @ users[client] + bias[item]
        slope = (1 / (1 + np.exp(-x)) - batch["label"]) / len(item)
        gradient = 0.1 * q
        np.add.at(gradient, item, slope[:, None] * users[client])
        tables.append(q - 0.3 * gradient)
        means.append(item.mean())
    log = world.simulation.advance(1)
    by_hand.close(world.shared["q"], np.mean(tables, axis=0))
    by_hand.close(log["item"], np.average(means, weights=EXAMPLES))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rated(fr.System):
    """Ratings by a product of tables, for clients of several users."""

    ratings: ClassVar = True

    def parameters(self):
        return {"q": fr.table(2, scale=0.5), "p": fr.table(2, scale=0.5, rows="user")}

    def score(self, p):
        return (p.q * p.p).sum(-1)

    def loss(self, p, batch):
        return batch.squared_error(self.score(p))


def test_ratings_and_a_table_of_users():
    ratings = np.arange(16, dtype=np.float32)
    world = World(
        Rated(client_lr=0.02),
        ratings=ratings,
        partition=fr.IID(num_clients=2, seed=1),
        rounds=1,
    )
    q, p = world.shared["q"].values, world.shared["p"].values
    changes = {"q": [], "p": []}
    for client in range(2):
        batch = world.pairs(0, client)
        item, user = batch["item"], batch["user"]
        error = (q[item] * p[user]).sum(-1) - batch["label"]
        slope = (2 * error / len(item))[:, None]
        for name, table, at, other in (
            ("q", q, item, p[user]),
            ("p", p, user, q[item]),
        ):
            change = np.zeros_like(table)
            np.add.at(change, at, -0.02 * slope * other)
            changes[name].append(change)
    result = world.simulation.run()
    assert "rmse" in result["metrics"]["test"]
    by_hand.close(world.shared["q"].values, q + np.mean(changes["q"], axis=0))
    by_hand.close(world.shared["p"].values, p + np.mean(changes["p"], axis=0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled(Whole):
    init_scale: float = 0.5
    temperature: float = 1.0
    margin: float = 0.0

    static: ClassVar = ("margin",)

    def parameters(self):
        return {**super().parameters(), "bias": fr.table(scale=self.init_scale)}

    def score(self, p):
        return super().score(p) / self.temperature


def test_fields_that_shapes_or_scores_depend_on_are_not_traced():
    assert Scaled(decay=3.0).hparams == {"client_lr": 0.1, "decay": 3.0}


@pytest.mark.parametrize("field", ["lam", "mu", "client_lr", "item_lr"])
def test_points_of_a_sweep_over_floats_share_a_program(field):
    base = fr.Experiment(name="x", algorithm=FedRAP())
    points = [with_values(base, {f"algorithm.{field}": x}) for x in (0.5, 2.0)]
    assert common_recipe(points)(points[0], CONTEXT).hparams[field] == 0.5


def test_local_training_reads_traced_values_and_not_those_of_the_settings():
    world = World(FedRAP(dim=3))
    recipe, data = (
        world.simulation.recipe,
        jax.tree.map(jnp.asarray, world.simulation.data),
    )
    params = recipe.model.init(jax.random.key(0))
    rest = params, (), data.examples(jnp.int32(0), 0)
    update, key = jax.jit(recipe.client_update), jax.random.key(1)
    for field in ("lam", "mu", "client_lr", "item_lr"):
        traced = update(*rest, {**recipe.hparams, field: 2.0}, key)
        changed = FedRAP(dim=3, **{field: 2.0})
        build = changed.build(dataclasses.replace(CONTEXT, num_items=ITEMS))
        fixed = jax.jit(build.client_update)(*rest, build.hparams, key)
        jax.tree.map(np.testing.assert_array_equal, traced, fixed)
        before = update(*rest, recipe.hparams, key)
        assert not np.allclose(traced.delta["C"].values, before.delta["C"].values) or (
            field == "client_lr"
        )


def test_a_static_field_splits_a_sweep():
    base = fr.Experiment(name="x", algorithm=Scaled())
    points = [with_values(base, {"algorithm.temperature": x}) for x in (1.0, 2.0)]
    with pytest.raises(DiffersError):
        common_recipe(points)(points[0], CONTEXT)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"parameters": lambda s: [fr.table(2)]}, r"expected a dict of table\(...\)"),
        ({"parameters": lambda s: {"w": 2}}, r"Own.parameters\(\) returns"),
        (
            {"parameters": lambda s: {"w": fr.dense(personal=True)}},
            "declares nothing that clients share",
        ),
        (
            {"parameters": lambda s: {"w": fr.table(2), "all": fr.dense()}},
            "choose another name than 'all'",
        ),
        (
            {
                "parameters": lambda s: {
                    "w": fr.table(),
                    "u": fr.table(3, rows="user", personal=True),
                }
            },
            r"personal vector is dense\(3, personal=True\)",
        ),
        ({"rates": lambda s: {"W": 1.0, "*": 1.0}}, r"Own.rates\(\) names W; param"),
        ({"rates": lambda s: {}}, r"has no rate for w: name them, or add '\*'"),
        ({"phases": (("w",), ("v",))}, "Own.phases names v"),
        (
            {
                "phases": (("w",),),
                "parameters": lambda s: {"w": fr.table(), "v": fr.dense()},
            },
            "Own.phases leaves out v, which would not be trained",
        ),
        ({"score": lambda s, p: p.W}, "no parameter 'W'; declared: w"),
        (
            {"score": lambda s, p: p.all("w")},
            "a client holds only the rows of 'w' that it touches",
        ),
    ],
)
def test_declarations_that_cannot_be_are_refused(members, message):
    base = {"parameters": lambda s: {"w": fr.table()}, "score": lambda s, p: p.w}
    own = dataclasses.dataclass(frozen=True)(type("Own", (fr.System,), base | members))
    with pytest.raises((ValueError, AttributeError), match=message):
        own().build(CONTEXT)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        FedRAP(batch_size=0)
    assert FedRAP(lam=-1.0).lam == -1.0
