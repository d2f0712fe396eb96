"""A FedFM of five clients on a small backbone, with all that an experiment adds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import Execution, Experiment, Protocol, SyntheticData
from fedjax_rec.backbones.settings import BackboneConfig
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.context import Context
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment.build import decide_lift
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import federated

ITEMS, SIZES = 13, [3, 1, 4, 2, 3]
USERS = len(SIZES)


def interactions(num_items=ITEMS, words=4):
    """Items of one to `words` words."""
    rng = np.random.default_rng(0)
    names = [f"{a}{b}" for a in ("red", "sea", "oak") for b in ("ship", "man", "s")]
    titles = [" ".join(rng.choice(names, 1 + i % words)) for i in range(num_items)]
    return make_interactions(
        user=np.repeat(np.arange(USERS), SIZES),
        item=np.concatenate([rng.choice(num_items, s, replace=False) for s in SIZES]),
        users=Entities(ids=[f"u{u}" for u in range(USERS)]),
        items=Entities(ids=[f"i{i}" for i in range(num_items)], titles=titles),
    )


@functools.cache
def backbone(num_layers=2, width=8, ffn_width=12, vocab_size=64):
    """A backbone with random weights."""
    return tiny(
        num_layers=num_layers,
        width=width,
        num_heads=2,
        ffn_width=ffn_width,
        vocab_size=vocab_size,
    )


class World:
    """An experiment's recipe, bound to a backbone and to five clients."""

    def __init__(
        self,
        algorithm,
        root,
        *,
        model=None,
        train=None,
        cohort_size=USERS * 10**6,
        encode: Any = "auto",
        prefix_cache=True,
        evaluated: Any = "aggregated",
        **parts,
    ):
        train = interactions() if train is None else train
        experiment = Experiment(
            name="small",
            data=SyntheticData(),
            algorithm=algorithm,
            protocol=Protocol(evaluated=evaluated),
            execution=Execution(encode=encode),
            **parts,
        )
        self.data = make_client_data(train, PerUser().partition(train), max_buckets=1)
        corpus: Any = Corpus(BackboneConfig(cache=str(root)), train, prefix_cache)
        corpus._loaded = (*(model or backbone()), "")
        context = Context(
            num_items=train.num_items,
            num_users=USERS,
            num_clients=USERS,
            cohort_size=cohort_size,
            dtype=jnp.dtype("float32"),
            examples=np.asarray(SIZES),
            split=Split(train=train, val=train, test=train, name="none", info={}),
            clients=self.data,
            corpus=corpus,
            lora_base=getattr(experiment.wrapper, "lora_base", False),
        )
        self.recipe = make_recipe(experiment, context)
        self.lifted, why = decide_lift(self.recipe, context, experiment)
        self.why = (*self.recipe.why, *why)
        self.facts = self.recipe.notes["backbone"]
        self.path = self.facts["path"]
        self.frozen = self.recipe.frozen
        self.key = jax.random.key(3)
        bound = federated(self.recipe, (USERS,), lifted=self.lifted)
        self.round, self.start = jax.jit(bound.round), bound.init(self.key)
        ids = jnp.arange(USERS, dtype=jnp.int32)
        personal = initial_personal(self.recipe, self.key, USERS)
        self.cohort = Cohort(ids=ids, rows=ids, personal=personal)

    @property
    def arguments(self):
        """Arguments of the first round."""
        return (
            self.start,
            self.cohort,
            self.data,
            self.frozen,
            self.recipe.hparams,
            self.key,
        )

    def play(self, rounds=2):
        """Server states and cohorts before, between and after rounds; last metrics."""
        state, cohort, *rest = self.arguments
        states, metrics = [(state, cohort)], {}
        for _ in range(rounds):
            state, cohort, metrics = self.round(state, cohort, *rest)
            states.append((state, cohort))
        return states, metrics

    def result(self, rounds=2):
        """Shared and personal parameters after some rounds: A of LoRA moves second."""
        state, cohort = self.play(rounds)[0][-1]
        return state.shared, cohort.personal
