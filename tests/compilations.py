"""Counts what JAX traces and compiles."""

import contextlib
import dataclasses
from collections.abc import Iterator

from jax import monitoring

TRACE = "/jax/core/compile/jaxpr_trace_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Counted:
    """Names of the functions that were traced and compiled."""

    traced: list[str] = dataclasses.field(default_factory=list)
    compiled: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def counted() -> Iterator[Counted]:
    """What JAX traces and compiles in the block."""
    counts = Counted()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        name = str(kwargs.get("fun_name"))
        if event == TRACE:
            counts.traced.append(name)
        elif event == COMPILE:
            counts.compiled.append(name)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        monitoring.unregister_event_duration_listener(listen)
