"""Ctrl-C and SIGTERM, put off until a run can be left and continued."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


class Stopped(Exception):
    """A run was asked to stop, and left a checkpoint.

    Args:
        done: rounds that the checkpoint holds.
        number: of the signal.
    """

    def __init__(self, done: int, number: int):
        super().__init__(f"stopped after round {done}")
        self.done, self.number = done, number


@contextlib.contextmanager
def put_off() -> Iterator[Callable[[], int]]:
    """Within the block the first SIGINT or SIGTERM is only noted.

    The second stops at once, as a KeyboardInterrupt.

    Yields:
        Which signal came, or 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # signals reach the main thread alone
        return
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        del frame
        if came:
            raise KeyboardInterrupt
        came.append(number)
        # Not `print`: this may come while the progress bar is being written.
        os.write(2, b"\nstopping after what is under way; once more: at once\n")

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
