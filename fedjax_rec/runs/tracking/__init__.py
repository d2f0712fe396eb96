"""Starts the trackers of a run, and keeps their failures from ending it.

The run's folder always writes `metrics.jsonl`. Trackers receive the same events
afterwards, and change no result.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedjax_rec.runs.writer import RunFolder, Tracker
from fedjax_rec.storage.errors import FileError

EXTRA = "pip install 'fedjax-rec[tracking]'"

# A tracker's package, its module and class here, and its name in a run's folder.
_TRACKERS = {
    "tensorboard": ("tensorboardX", "tensorboard_tracker:TensorBoard", "tensorboard"),
    "wandb": ("wandb", "wandb_tracker:WeightsAndBiases", "wandb.json"),
}
KINDS = tuple(_TRACKERS)


class TrackingError(FileError):
    """A tracker is not installed, or does not start."""


def kinds_of(names: Iterable[str]) -> tuple[str, ...]:
    """The trackers named by `--track`, each once.

    Args:
        names: names, or lists of them separated by commas.

    Raises:
        TrackingError: a tracker is unknown, or its package is not installed.

    >>> kinds_of([])
    ()
    """
    kinds = [part.strip() for text in names for part in text.split(",")]
    for kind in kinds:
        if kind not in _TRACKERS:
            raise TrackingError(
                f"--track {kind or '(nothing)'}: expected {' or '.join(KINDS)}; "
                "metrics.jsonl is always written"
            )
        package = _TRACKERS[kind][0]
        if importlib.util.find_spec(package) is None:
            raise TrackingError(f"--track {kind} needs {package}: {EXTRA}")
    return tuple(dict.fromkeys(kinds))


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event under the names that trackers show.

    A round's values are under `round/`, an evaluation's under the part's name, a
    baseline's under `baselines/NAME/`; durations are under `seconds/`.

    >>> scalars({"event": "evaluation", "round": 2, "val": {"hr@10": 0.5},
    ...          "rmse_val": 1.25, "seconds": 0.1})
    {'val/hr@10': 0.5, 'val/rmse': 1.25, 'seconds/evaluation': 0.1}
    """
    kind, numbers = event["event"], {}
    prefix = f"{kind}/" if kind in ("round", "baselines") else ""
    for name, value in event.items():
        if name in ("event", "round"):
            continue
        if name == "seconds":
            label = f"seconds/{kind}"
        elif name.startswith("rmse_"):
            label = f"{name.removeprefix('rmse_')}/rmse"
        else:
            label = f"{prefix}{name}"
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, number in parts.items():
            if isinstance(number, bool | int | float):
                numbers[f"{label}/{part}" if part else label] = float(number)
    return numbers


class Guard:
    """Passes events to trackers; one that fails is dropped with a warning.

    Args:
        trackers: trackers by name.
        warn: called with each warning.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]
    ) -> None:
        self._trackers, self._warn = dict(trackers), warn

    def log(self, event: Mapping[str, Any]) -> None:
        """Passes an event to all trackers that have not failed."""
        effect = "gets no more of this run, which goes on"
        self._each(lambda tracker: tracker.log(event), effect)

    def close(self, finished: bool) -> None:
        """Ends all trackers that have not failed."""
        effect = "may lack the end of this run"
        self._each(lambda tracker: tracker.close(finished), effect)
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None], effect: str) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                self._warn(
                    f"warning: {name} failed ({type(error).__name__}: {error}); it "
                    f"{effect}. metrics.jsonl has everything"
                )


def start(
    kinds: Sequence[str],
    folder: RunFolder,
    config: Mapping[str, Any],
    warn: Callable[[str], None],
    history: Sequence[Mapping[str, Any]] = (),
    group: str = "",
) -> Guard:
    """Starts trackers for a run that is about to train.

    A tracker that was started before the run was resumed goes on after the last event
    of `history`; a new one receives all of it first.

    Args:
        kinds: names of trackers, see `kinds_of`.
        folder: the run's folder.
        config: the run's configuration, plain values.
        warn: called with a warning if a tracker fails later.
        history: the events before, if a run continues.
        group: name of a group of runs, or empty.

    Returns:
        All trackers as one, to be closed at the end.

    Raises:
        TrackingError: a tracker does not start.
    """
    started: dict[str, Tracker] = {}
    done = history[-1]["round"] if history else 0
    for kind in kinds:
        _, location, trace = _TRACKERS[kind]
        name, _, cls = location.partition(":")
        continued = (folder.path / trace).exists()
        module = importlib.import_module(f"{__name__}.{name}")
        try:
            started[kind] = getattr(module, cls)(folder, config, done, group)
            for event in () if continued else history:
                started[kind].log(event)
        except Exception as error:
            Guard(started, warn).close(False)
            raise TrackingError(
                f"--track {kind} does not start ({type(error).__name__}: {error}). "
                f"{module.ADVICE}"
            ) from error
    return Guard(started, warn)
