"""Whole runs under attack, through the engine."""

import functools

import numpy as np

import fedjax_rec
from fedjax_rec.aggregators.robust.coordinates import coordinate_median
from fedjax_rec.attacks import attackers, boost, popular, sign_flip

ITEMS, TARGET = 40, 39


@functools.cache
def run(attack: str, robust: bool):
    """The trained table, and the last round's metrics, of a small PFedRec."""
    config = fedjax_rec.Experiment(
        name="attacked",
        data=fedjax_rec.SyntheticData(
            num_users=60, num_items=ITEMS, num_interactions=1500
        ),
        algorithm=fedjax_rec.PFedRec(dim=4, client_lr=0.1, item_lr_scale=2.0),
        rounds=6,
        eval_every=6,
    )

    def make_recipe(**sizes):
        recipe = config.algorithm.build(**sizes)
        members = attackers(60, 0.1, seed=1)
        attacks = {
            "none": None,
            "sign flip": sign_flip(members, scale=30.0),
            "boost": boost(
                members, TARGET, num_items=ITEMS, toward=popular(range(5)), scale=20.0
            ),
        }
        if robust:
            recipe = recipe._replace(aggregator=coordinate_median(voting="diluted"))
        return recipe._replace(attack=attacks[attack])

    simulation = fedjax_rec.build(config, make_recipe=make_recipe)
    result = simulation.run()
    state = simulation.state
    return np.asarray(state.shared["item"].values), result
