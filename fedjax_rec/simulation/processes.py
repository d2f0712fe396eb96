"""Agreement between the processes of a run; free of charge in a single process."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_rec.storage.errors import UserError

_LENGTH = 4096
"""Bytes of a text that processes exchange."""


class Refused(UserError):
    """One of the processes cannot go on; every process raises this."""


class Failed(RuntimeError):
    """One of the processes failed; every process raises this."""


def everyones(values: Any) -> np.ndarray:
    """`[P, ...]`: an array of each of the `P` processes, of one shape."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


def agree(text: str) -> str:
    """The text of the run's first process, on every process.

    Raises:
        Refused: another process left a block of `together` by an error.
        Failed: the same, by an error that is no `ValueError`.
    """
    return text if jax.process_count() == 1 else _exchange(text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the block on every process by an error if one of them raised one.

    Otherwise those without an error would wait for the others in their next
    collective operation, until it times out. Blocks may be nested, and may `agree`.

    Raises:
        Refused: a process raised a `ValueError`; all have its message.
        Failed: a process raised another error.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        if _is_known(error):
            raise
        kind = Refused if isinstance(error, ValueError) else Failed
        text = str(error) if kind is Refused else f"{type(error).__name__}: {error}"
        with contextlib.suppress(Refused, Failed):
            _exchange(error=text or kind.__name__, kind=kind)
        raise kind(text) from error
    _exchange()


def _is_known(error: BaseException | None) -> bool:
    """Whether an error came from another process, perhaps in other words."""
    while error is not None and not isinstance(error, Refused | Failed):
        error = error.__cause__
    return error is not None


def _exchange(text: str = "", error: str = "", kind: type[Exception] = Refused) -> str:
    """The first process's text, unless a process has an error."""
    sent = np.zeros((3, _LENGTH), np.uint8)
    for row, words in enumerate((text, error, kind.__name__)):
        data = words.encode()[:_LENGTH]
        sent[row, : len(data)] = np.frombuffer(data, np.uint8)
    received = [
        [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]
        for rows in everyones(sent)
    ]
    for process, (_, message, name) in enumerate(received):
        if message:
            if name == Refused.__name__:
                raise Refused(message)
            raise Failed(f"process {process}: {message}")
    return received[0][0]
