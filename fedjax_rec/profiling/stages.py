"""Stages of a round and an evaluation, named in the compiled programs.

A `jax.named_scope` changes no result: XLA keeps it in the description of each
operation, from which the profiler reads it.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax

SAMPLING = "sampling"
ENCODING = "encoding_items"
LOCAL_TRAINING = "local_training"
SENDING = "sending"
AGGREGATION = "aggregation"
SERVER_UPDATE = "server_update"
GATHERING = "gathering_clients"
EVALUATION = "evaluation"

STAGES = (
    SAMPLING,
    ENCODING,
    LOCAL_TRAINING,
    SENDING,
    AGGREGATION,
    SERVER_UPDATE,
    GATHERING,
    EVALUATION,
)

ROUNDS_HERE, EVALUATION_HERE = "rounds", "evaluation"
"""Names of the host's work in a trace."""

_F = TypeVar("_F", bound=Callable)
_B = TypeVar("_B", bound=tuple)


def staged(stage: str, function: _F) -> _F:
    """`function`, with the name of a stage on its operations."""
    return jax.named_scope(stage)(function)


def all_staged(stage: str, bundle: _B) -> _B:
    """A bundle of functions (a NamedTuple), each of them `staged`."""
    kind: Any = type(bundle)
    return kind(*(staged(stage, f) if callable(f) else f for f in bundle))


def on_host(name: str) -> Callable[[_F], _F]:
    """Decorates a function of the host, so that a trace shows when it ran."""
    decorate: Any = functools.partial(jax.profiler.annotate_function, name=name)
    return decorate


def stage_of(op_name: str) -> str:
    """The stage of an operation by its name in a program, or "" for none.

    The innermost stage counts, but stages inside an evaluation belong to it.

    >>> stage_of("jit(run)/while/gathering_clients/vmap(local_training)/dot")
    'local training'
    >>> stage_of("jit(run)/evaluation/local_training/mul")
    'evaluation: local training'
    >>> stage_of("jit(run)/while/body/add")
    ''
    """
    stages = [word for word in re.findall(r"\w+", op_name) if word in STAGES]
    if not stages:
        return ""
    inner = stages[-1].replace("_", " ")
    nested = EVALUATION in stages and stages[-1] != EVALUATION
    return f"{EVALUATION}: {inner}" if nested else inner
