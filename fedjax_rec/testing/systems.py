"""Laws of federated systems: of algorithms, and of algorithms in a wrapper."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.contracts import Params, Recipe
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.fields import fields_of
from fedjax_rec.simulation.messages import without_state
from fedjax_rec.simulation.round import round_hparams
from fedjax_rec.testing.compare import (
    check_close,
    check_finite,
    check_same,
    check_shapes,
    require,
    shown,
)
from fedjax_rec.testing.law import LawBroken, NotApplicable
from fedjax_rec.testing.loop import round_is_a_loop_over_clients
from fedjax_rec.testing.system import Run, System, first


def builds(system: System) -> str:
    """The system of the part is built"""
    recipe = system.recipe
    require(
        isinstance(recipe, Recipe),
        f"it returned a {type(recipe).__name__}; expected a "
        "fedjax_rec.core.contracts.Recipe",
    )
    return system.remark


def builds_the_same_twice(system: System) -> None:
    """Building twice gives the same parameters and scalars"""
    again, recipe = make_recipe(system.experiment, system.context), system.recipe
    key = jax.random.key(0)
    one, two = (jax.jit(r.model.init)(key) for r in (again, recipe))
    check_same(one, two, "the first parameters of a second build, and of the first")
    check_same(again.hparams, recipe.hparams, "hparams of a second build, and of it")


def trains(system: System) -> None:
    """Three rounds give finite losses and parameters"""
    state, personal, metrics = system.three_rounds
    loss = float(metrics["loss"])
    require(
        np.isfinite(loss),
        f"the loss of the third round is {loss}: is a logarithm, a division or the "
        "learning rate the reason?",
    )
    check_finite(state.shared, "shared parameters after three rounds")
    check_finite(personal, "personal parameters after three rounds")


def same_outputs_outside_of_a_round(system: System) -> None:
    """Local training has the same outputs with and without the key of a round"""
    # Tuned scores and estimates of memory have no such key.
    run = system.base
    examples = run.data.examples(jnp.int32(0), 0)
    personal = without_state(first(run.personal))
    params = Params(shared=run.start.shared, personal=personal)
    hparams = run.recipe.hparams
    inside = round_hparams(hparams, run.key, jnp.int32(0))
    one, other = (
        jax.eval_shape(
            run.recipe.client_update, params, run.recipe.frozen, examples, each, run.key
        )
        for each in (inside, hparams)
    )
    check_shapes(one, other, "client_update in a round, and with its hparams only")


def chunks_order_buckets_and_absent_clients_change_nothing(system: System) -> None:
    """Chunk size, order of clients, size buckets and absent clients change nothing"""
    run = system.base
    n = len(run.everyone)
    expected = run(run.everyone)
    other = Run(system, max_buckets=1, chunk=3)
    order = np.random.default_rng(1).permutation(n)
    actual = other(np.concatenate([order[:2], [n], order[2:], [n + 3]]))
    what = (
        "{} after two rounds in chunks of 3, in another order with absent clients, "
        "and in chunks of 2"
    )
    wide = {"atol": 2e-5, "rtol": 1e-3}
    check_close(
        actual[0].shared, expected[0].shared, what.format("shared parameters"), **wide
    )
    check_close(actual[1], expected[1], what.format("personal parameters"), **wide)
    check_close(actual[2], expected[2], what.format("metrics"), atol=1e-4, rtol=1e-3)


def same_inputs_give_the_same_bits(system: System) -> None:
    """The same inputs give the same bits"""
    run = system.base
    again = run(run.everyone, rounds=3)
    check_same(again, system.three_rounds, "three rounds, and the same again")


def rounds_keep_structure(system: System) -> None:
    """A round keeps the structure, shapes and types of all parameters"""
    run, (state, personal, _) = system.base, system.three_rounds
    check_shapes(state, run.start, "the server's state after three rounds")
    check_shapes(personal, run.personal, "personal parameters after three rounds")


def stopping_changes_nothing(system: System) -> None:
    """Stopping after a round and going on is the unbroken run, bit for bit"""
    run = system.base
    once = run(run.everyone, rounds=1)
    resumed = run(run.everyone, rounds=2, start=once[:2])
    check_same(resumed, system.three_rounds, "one round and then two, and three")


def the_seed_decides(system: System) -> None:
    """Another seed gives other negatives"""
    if not system.recipe.local.negatives:
        raise NotApplicable("local.negatives is 0")
    _only_if_finite(system)
    run = system.base
    other = run(run.everyone, rounds=3, key=jax.random.key(8))
    pairs = zip(
        jax.tree.leaves(other[0].shared),
        jax.tree.leaves(system.three_rounds[0].shared),
        strict=True,
    )
    require(
        not all(np.array_equal(a, b) for a, b in pairs),
        f"three rounds with another key give the same numbers, and local.negatives="
        f"{system.recipe.local.negatives}: are negatives drawn with the client's key?",
    )


def uninvited_clients_keep_what_they_had(system: System) -> None:
    """Clients that are not in a round keep their personal parameters"""
    run = system.base
    ids = run.everyone
    few = run(np.where(ids < 2, ids, len(ids)), rounds=1)
    check_same(
        jax.tree.map(lambda x: x[2:], few[1]),
        jax.tree.map(lambda x: x[2:], run.personal),
        "personal parameters of absent clients after a round, and before",
    )


def every_shared_group_learns(system: System) -> str:
    """Every shared group learns, unless `Model.fixed` has it"""
    _only_if_finite(system)
    run, state = system.base, system.three_rounds[0]
    moves = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
        state.shared,
        run.start.shared,
    )
    lazy = []
    for group, inner in moves.items():
        leaves = {
            shown((jax.tree_util.DictKey(group), *path)): moved
            for path, moved in jax.tree_util.tree_leaves_with_path(inner)
        }
        if group in system.recipe.model.fixed and not any(leaves.values()):
            continue
        require(
            max(leaves.values()) > 0 or group in (system.still or ()),
            f"{group!r} did not move in three rounds: does the loss read it, and a "
            "phase of local training train it? A group that is not trained belongs "
            "into Model.fixed",
        )
        lazy += [name for name, moved in leaves.items() if moved == 0]
        if system.still is not None:
            _check_moves(leaves, system.still)
    return f"these do not move: {', '.join(lazy)}" if lazy else ""


def _only_if_finite(system: System) -> None:
    try:
        trains(system)
    except LawBroken as error:
        raise NotApplicable("the loss or a parameter is not finite") from error


def _check_moves(moves: Mapping[str, float], still: Mapping[str, float]) -> None:
    for name, moved in moves.items():
        bounds = [x for path, x in still.items() if f"{name}.".startswith(f"{path}.")]
        if bounds:
            require(moved <= bounds[0], f"{name} moved by {moved:.3g}")
        else:
            require(moved > 0, f"{name} did not move in three rounds")


def one_program(system: System) -> None:
    """A round compiles once, whatever the clients, the round and the key"""
    run = system.base
    system.three_rounds  # noqa: B018
    ids = run.everyone
    run(np.where(ids < 2, ids, len(ids)), rounds=1, key=jax.random.key(8))
    require(
        run.traces == {len(ids): 1},
        f"the round was traced {run.traces[len(ids)]} times: does its state change "
        "shape or type, or does a Python value depend on the round?",
    )


def other_scalars_compile_nothing(system: System) -> None:
    """Another value of each scalar in `hparams` compiles nothing"""
    run, hparams = system.base, system.recipe.hparams
    if not hparams:
        raise NotApplicable("the recipe has no hparams")
    system.three_rounds  # noqa: B018
    before = run.traces[len(run.everyone)]
    changed = {name: 0.9 * value for name, value in hparams.items()}
    changed = {name: type(hparams[name])(x) for name, x in changed.items()}
    run(run.everyone, rounds=1, hparams=changed)
    require(
        run.traces[len(run.everyone)] == before,
        f"the round was compiled again for other values of {', '.join(hparams)}: they "
        "have to be numbers or arrays of one type",
    )


def hparams_are_fields(system: System) -> None:
    """Each name in `hparams` is a field of the algorithm, with its value"""
    fields = fields_of(system.experiment.algorithm)
    for name, value in system.recipe.hparams.items():
        if name not in fields:
            raise LawBroken(
                f"hparams has {name!r}, and the fields are {', '.join(fields)}: a "
                "sweep finds a scalar by the name of its field"
            )
        require(
            np.isclose(float(value), float(fields[name].value)),
            f"hparams[{name!r}] is {value}, and the field is {fields[name].value}",
        )


LAWS = (
    builds,
    builds_the_same_twice,
    trains,
    same_outputs_outside_of_a_round,
    round_is_a_loop_over_clients,
    chunks_order_buckets_and_absent_clients_change_nothing,
    same_inputs_give_the_same_bits,
    rounds_keep_structure,
    stopping_changes_nothing,
    the_seed_decides,
    uninvited_clients_keep_what_they_had,
    every_shared_group_learns,
    other_scalars_compile_nothing,
    hparams_are_fields,
    one_program,
)
