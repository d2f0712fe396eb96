"""Signals that end a process, delayed until a run can be stopped and continued."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


class Stopped(Exception):
    """A run stopped after a signal, and wrote a checkpoint.

    Args:
        done: rounds done at the checkpoint.
        number: the signal's number.
    """

    def __init__(self, done: int, number: int):
        super().__init__(f"stopped after round {done}")
        self.done, self.number = done, number


@contextlib.contextmanager
def put_off() -> Iterator[Callable[[], int]]:
    """Within the block the first SIGINT, SIGTERM or SIGUSR1 is only recorded.

    A SIGINT after it stops at once, as a KeyboardInterrupt. Batch systems send SIGTERM,
    perhaps twice, before they kill, and on request SIGUSR1 some time before a limit.

    Yields:
        A function that returns the number of the signal received, or 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread receives signals
        return
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        received.append(number)
        # Not `print`: this may come while the progress bar is being written.
        os.write(
            2, b"\nstopping after the current rounds; another Ctrl-C stops at once\n"
        )

    names = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            # A handler that was not installed from Python reads as `None`.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
