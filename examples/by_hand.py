"""FedAvg step by step: a loop of one's own over the pure functions of a system.

    python examples/by_hand.py

`fr.build` prepares data and system; the loop draws cohorts, trains and ranks. It gives
the numbers of `fr.build(experiment).run()`. docs/after_training.md says how a
simulation evaluates a state made by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np

import fedjax_rec as fr

EXPERIMENT = fr.Experiment(
    name="by_hand",
    data=fr.SyntheticData(num_users=200, num_items=150, num_interactions=4000),
    algorithm=fr.FedAvg(
        model=fr.MatrixFactorization(dim=8),
        client_optimizer=fr.SGD(lr=20.0),
        batch_size=16,
    ),
    cohort=fr.Uniform(size=50),
    execution=fr.Execution(max_buckets=1),
    mesh=fr.MeshConfig(devices=1),
    rounds=12,
    eval_every=4,
)


def make_round(sim):
    """`(state, personal, data) -> (state, personal, loss)`, one compiled program."""
    system = fr.federated(sim.recipe, sim.chunks)
    sample, tables = sim.sampler.sample, jax.device_put(sim.sampler.tables)

    @jax.jit
    def one_round(state, personal, data):
        drawn = fr.draw_cohort(sample, tables, sim.key, state.round)
        cohort = fr.Cohort(ids=drawn.ids, rows=drawn.ids, personal=personal)
        hparams = sim.recipe.hparams  # learning rates and other scalars
        state, cohort, metrics = system.round(
            state, cohort, data, sim.frozen, hparams, sim.key
        )
        return state, cohort.personal, metrics["loss"]

    return system.init(sim.key), one_round


def make_scores(sim):
    """`(shared, personal, users [E]) -> scores [E, I]`, one compiled program."""

    @jax.jit
    def scores(shared, personal, users):
        def score(user):  # with one user per client, user and client have one number
            own = jax.tree.map(lambda x: x[user], personal)
            params = fr.Params(shared=shared, personal=own)
            return sim.recipe.model.score(params, sim.frozen, {"user": user}, None)

        return jax.vmap(score)(users)

    return scores


def hit_rate(scores, split, k=10):
    """Share of test users whose test item is among their `k` best unseen ones."""
    ranked = np.array(scores)  # [E, I]; leave-one-out has one test item per user
    for part in (split.train, split.val):
        row = np.searchsorted(split.test.user, part.user)
        held = row < len(split.test)
        held[held] = split.test.user[row[held]] == part.user[held]
        ranked[row[held], part.item[held]] = -np.inf
    rows = np.arange(len(split.test))
    target = ranked[rows, split.test.item]
    ranked[rows, split.test.item] = -np.inf
    rank = (ranked >= target[:, None]).sum(axis=1)  # an equal score ranks before it
    return float((rank < k).mean())


def main():
    """Trains, and returns the test's HR@10 by round and the last parameters."""
    sim = fr.build(EXPERIMENT)
    data, users = jax.device_put(sim.data), jnp.asarray(sim.split.test.user)
    state, one_round = make_round(sim)
    personal = fr.initial_personal(sim.recipe, sim.key, sim.data.num_clients)
    scores_of, hit_rates = make_scores(sim), {}
    for number in range(1, EXPERIMENT.rounds + 1):
        state, personal, loss = one_round(state, personal, data)
        if number % EXPERIMENT.eval_every == 0:
            scores = scores_of(state.shared, personal, users)
            hit_rates[number] = hit_rate(scores, sim.split)
            print(f"round {number:3}  loss {loss:.3f}  HR@10 {hit_rates[number]:.3f}")
    return hit_rates, state, personal


if __name__ == "__main__":
    main()
