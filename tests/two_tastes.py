"""Clients of two opposite tastes, for wrappers that separate clients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.aggregators import means
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Local, Model, Params, Recipe
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import federated

USERS, ITEMS = 6, 8
EVERYBODY = range(USERS)


def data():
    """Users 0, 2, 4 chose items 0 to 3, the others 4 to 7; nobody chose all."""
    user = np.repeat(np.arange(USERS), 3)
    item = np.concatenate([4 * (u % 2) + (np.arange(3) + u) % 4 for u in range(USERS)])
    train = make_interactions(
        user=user,
        item=item,
        users=Entities(ids=[f"u{u}" for u in range(USERS)]),
        items=Entities(ids=[f"i{i}" for i in range(ITEMS)]),
    )
    return make_client_data(train, PerUser().partition(train), max_buckets=1)


def one_model():
    """Every client scores an item by a shared row; no part of it is personal."""

    def init(key):
        table = rows.Table(values=0.1 * jax.random.normal(key, (ITEMS, 1)))
        return Params(shared={"item": table, "w": jnp.ones(2)}, personal={})

    def loss(params, frozen, batch, key, hparams):
        del frozen, key
        score = rows.lookup(params.shared["item"], batch["item"])[:, 0]
        each = (score - batch["label"]) ** 2 + jnp.sum(params.shared["w"] ** 2)
        value = jnp.sum(jnp.where(batch["mask"], each, 0))
        return value / jnp.maximum(batch["mask"].sum(), 1), {}

    def score(params, frozen, query, candidates):
        del frozen, query
        return rows.lookup(params.shared["item"], candidates)[:, 0]

    def draw(examples, key):
        """All items, those of the client labelled 1."""
        del key
        item = jnp.arange(ITEMS)
        label = jnp.isin(item, examples["item"]).astype(jnp.float32)
        here = jnp.broadcast_to(examples["mask"].any(), (ITEMS,))
        return {"item": item, "label": label, "mask": here}

    model = Model(init, loss, score)
    return Recipe(
        model=model,
        client_update=local_update(
            model, draw, (Phase(lambda h: optax.sgd(h["lr"])),), batch_size=ITEMS
        ),
        aggregator=means.weighted_mean(),
        server_optimizer=lambda h: optax.sgd(1.0),
        hparams={"lr": 1.0},
        local=Local(draw=draw),
    )


def wrap(settings, recipe, num_clients=USERS, **build):
    """What a wrapper makes of a recipe."""
    context = Context(
        num_items=ITEMS,
        num_users=num_clients,
        num_clients=num_clients,
        cohort_size=num_clients,
        dtype=jnp.dtype("float32"),
        examples=np.full(num_clients, 3),
        recipe=recipe,
    )
    return settings.build(context, **build)


def play(recipe, cohorts):
    """Rounds with these clients each; an id of `USERS` is an absent one."""
    clients, key = data(), jax.random.key(3)
    algorithm = federated(recipe, (4,))
    step = jax.jit(algorithm.round)
    state, metrics = algorithm.init(key), {}
    personal = initial_personal(recipe, key, USERS)
    for present in cohorts:
        ids = jnp.asarray(list(present), jnp.int32)
        cohort = Cohort(ids=ids, rows=ids, personal=personal)
        state, cohort, metrics = step(state, cohort, clients, (), recipe.hparams, key)
        personal = cohort.personal
    return state.shared, personal, metrics


def shares(group):
    """`[ITEMS]`: of the users of a mask those that chose an item."""
    chosen = np.zeros((USERS, ITEMS))
    for user in range(USERS):
        chosen[user, 4 * (user % 2) + (np.arange(3) + user) % 4] = 1
    return chosen[group].mean(0)
