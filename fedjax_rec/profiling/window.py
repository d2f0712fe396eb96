"""Recording of some rounds of a run by the profiler."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

MARK = "profiled rounds"
"""Name of the span of all profiled rounds in the trace."""


class Window(NamedTuple):
    """The rounds after `first` up to `last`, with the evaluations among them.

    Attributes:
        first: rounds done at the begin.
        last: rounds done at the end.
        warm: whether rounds and evaluation are both compiled at the begin.
    """

    first: int
    last: int
    warm: bool


def choose_window(count: int, done: int, rounds: int, eval_every: int) -> Window:
    """Chooses `count` rounds after compilation that end with an evaluation.

    A process compiles the round at its first round, and the evaluation at its first
    evaluation. If too few rounds follow, the last ones after the first round are taken,
    fewer if need be, and an evaluation may have to be compiled.

    Args:
        count: rounds wanted.
        done: rounds done before this process began.
        rounds: total number of rounds.
        eval_every: rounds between evaluations.

    Raises:
        ValueError: fewer than two rounds are left.

    >>> choose_window(3, done=0, rounds=40, eval_every=5)
    Window(first=7, last=10, warm=True)
    >>> choose_window(3, done=0, rounds=4, eval_every=4)
    Window(first=1, last=4, warm=False)
    """
    if rounds - done < 2:
        raise ValueError(
            f"profiling starts after the round that compiles, so it needs 2 rounds; "
            f"{max(0, rounds - done)} of {rounds} are left. Train more, or leave "
            "--profile out"
        )
    evaluated = min((done // eval_every + 1) * eval_every, rounds)
    if evaluated + count <= rounds:
        last = min(-(-(evaluated + count) // eval_every) * eval_every, rounds)
        return Window(last - count, last, True)
    return Window(max(done + 1, rounds - count), rounds, False)


class Recording:
    """Records a trace of a window while a simulation runs, as its `profiler`.

    Args:
        window: the rounds to record.
        folder: output folder, in the profiler's own layout; `None` only
            shortens programs alike, so that several processes take the same steps.
        recorded: called with the seconds recorded, when the trace is written.
        failed: called with the reason if no trace can be written; the run goes on.
    """

    def __init__(
        self,
        window: Window,
        folder: Path | None,
        recorded: Callable[[float], None],
        failed: Callable[[str], None],
    ):
        self._window, self._folder = window, folder
        self._recorded, self._failed = recorded, failed
        self._mark: jax.profiler.TraceAnnotation | None = None
        self._started = 0.0

    def __call__(self, done: int) -> int:
        """Begins or ends the trace if due.

        Args:
            done: rounds done.

        Returns:
            The largest number of rounds in the next program.
        """
        first, last, _ = self._window
        if done >= last:
            self.close()
            return 1 << 30
        if done < first:
            return first - done
        if done == first and self._folder is not None:
            try:
                self._begin(self._folder)
            except Exception as error:  # such as another profiler in this process
                self._failed(f"{type(error).__name__}: {error}")
        return last - done

    def _begin(self, folder: Path) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the run down
        folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(folder, profiler_options=options)
        self._started = time.perf_counter()
        self._mark = jax.profiler.TraceAnnotation(MARK)
        self._mark.__enter__()

    def close(self, finished: bool = True) -> None:
        """Ends a trace that is being recorded; an unfinished one is not reported."""
        if self._mark is None:
            return
        mark, self._mark = self._mark, None
        seconds = time.perf_counter() - self._started
        mark.__exit__(None, None, None)
        try:
            jax.profiler.stop_trace()
            if finished:
                self._recorded(seconds)
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
