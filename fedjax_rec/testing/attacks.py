"""Laws of attacks, in addition to those of systems."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.core.messages import Sender
from fedjax_rec.testing.compare import check_close, require
from fedjax_rec.testing.law import NotApplicable
from fedjax_rec.testing.system import System


def some_messages_change(system: System) -> str:
    """Attackers send something else, and honest clients their message bit for bit"""
    if system.recipe.transform is None:
        raise NotApplicable("messages stay as they are: the attack acts elsewhere")
    changed = [
        not _same(*_message(system, client)) for client in system.base.everyone.tolist()
    ]
    n, attackers = len(changed), sum(changed)
    require(attackers, f"none of {n} clients sends anything else than its delta")
    require(
        attackers < n,
        f"all {n} clients send something else: an honest client's message has to stay "
        "as it is, bit for bit",
    )
    return f"{attackers} of {n} clients attack"


def compiled_messages_agree(system: System) -> None:
    """Compiled and eager computation of a message agree"""
    if system.recipe.transform is None:
        raise NotApplicable("messages stay as they are: the attack acts elsewhere")
    for client in system.base.everyone.tolist():
        check_close(
            _message(system, client)[1],
            _message(system, client, jit=True)[1],
            f"the message of client {client} without jax.jit, and with",
            atol=1e-6,
            rtol=1e-5,
        )


def the_model_changes(system: System) -> None:
    """The attack changes the shared parameters of a round"""
    pairs = zip(
        jax.tree.leaves(_honest(system)),
        jax.tree.leaves(system.base(system.base.everyone, rounds=1)[0].shared),
        strict=True,
    )
    require(
        any(np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-7 for a, b in pairs),
        "shared parameters after a round with the attack are those without it",
    )


def without_attackers_nothing_changes(system: System) -> None:
    """With `share=0` a round is that without the attack"""
    attack = system.experiment.attack
    if "share" not in {field.name for field in dataclasses.fields(attack)}:
        raise NotApplicable("the attack has no field `share`")
    nobody = System(
        dataclasses.replace(
            system.experiment, attack=dataclasses.replace(attack, share=0.0)
        )
    )
    check_close(
        nobody.base(nobody.base.everyone, rounds=1)[0].shared,
        _honest(system),
        "shared parameters after a round with share=0, and without the attack",
        atol=1e-6,
        rtol=1e-5,
    )


@functools.lru_cache(maxsize=1)
def _honest(system: System) -> Any:
    """Shared parameters after a round without the attack."""
    honest = System(dataclasses.replace(system.experiment, attack=None))
    return honest.base(honest.base.everyone, rounds=1)[0].shared


def _message(system: System, client: int, jit: bool = False) -> tuple[Any, Any]:
    """A client's delta, each row once, and its message."""
    run, recipe = system.base, system.recipe
    key = jax.random.key(client)
    own = system.personal_of(client)
    result = system.train(jnp.int32(client), own, recipe.hparams, key)
    delta = jax.tree.map(
        lambda table, sent: (
            rows.merge_repeats(sent, len(table.values)) if rows.is_rows(sent) else sent
        ),
        {name: run.start.shared[name] for name in result.delta},
        result.delta,
        is_leaf=rows.is_table,
    )
    sender = Sender(
        id=jnp.int32(client),
        key=key,
        round_key=jax.random.key(0),
        weight=result.weight,
        personal=result.personal,
    )
    transform = recipe.transform
    assert transform is not None
    state = transform.init(run.start.shared)
    encode = jax.jit(transform.encode) if jit else transform.encode
    return delta, encode(delta, state, sender)[0]


def _same(delta: Any, message: Any) -> bool:
    pairs = zip(jax.tree.leaves(delta), jax.tree.leaves(message), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


LAWS = (
    some_messages_change,
    compiled_messages_agree,
    the_model_changes,
    without_attackers_nothing_changes,
)
