"""Starts the trackers of a run, and keeps them from ending it.

`metrics.jsonl` is always written, by the run's folder. Trackers receive the same events
afterwards; what they do with them changes no result.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedjax_rec.runs.tracker import Tracker
from fedjax_rec.runs.writer import RunFolder

EXTRA = "pip install 'fedjax-rec[tracking]'"

# A tracker's package, its module here, and what of a folder shows that it was there.
_KNOWN = {
    "tensorboard": ("tensorboardX", "tensorboard_tracker", "tensorboard"),
    "wandb": ("wandb", "wandb_tracker", "wandb.json"),
}
KINDS = tuple(_KNOWN)


class TrackingError(ValueError):
    """A tracker that was asked for is not there or does not start."""


def kinds_of(asked: Iterable[str]) -> tuple[str, ...]:
    """The trackers that `--track` names, each once, if their packages are there.

    Args:
        asked: names, or lists of them separated by commas.

    Raises:
        TrackingError: there is no such tracker, or its package is not installed.

    >>> kinds_of([])
    ()
    """
    names = [part.strip() for text in asked for part in text.split(",")]
    for name in names:
        if name not in _KNOWN:
            raise TrackingError(
                f"--track {name or '(nothing)'}: expected {' or '.join(KINDS)}; "
                "metrics.jsonl is always written"
            )
        package = _KNOWN[name][0]
        if importlib.util.find_spec(package) is None:
            raise TrackingError(f"--track {name} needs {package}: {EXTRA}")
    return tuple(dict.fromkeys(names))


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event under the names that trackers show.

    A round's stand under `round/`, an evaluation's under the part's name, a baseline's
    under `baselines/ITS NAME/`; what took how long under `seconds/`.

    >>> scalars({"event": "evaluation", "round": 2, "val": {"hr@10": 0.5},
    ...          "rmse_val": 1.25, "seconds": 0.1})
    {'val/hr@10': 0.5, 'val/rmse': 1.25, 'seconds/evaluation': 0.1}
    """
    kind, found = event["event"], {}
    for name, value in event.items():
        if name in ("event", "round"):
            continue
        place = {"round": f"round/{name}", "baselines": f"baselines/{name}"}
        if name == "seconds":
            name = f"seconds/{kind}"
        elif name.startswith("rmse_"):
            name = f"{name.removeprefix('rmse_')}/rmse"
        else:
            name = place.get(kind, name)
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, number in parts.items():
            if isinstance(number, bool | int | float):
                found[f"{name}/{part}" if part else name] = float(number)
    return found


class Guard:
    """Any number of trackers, of which none can end the run: it only warns, once each.

    Args:
        trackers: by name.
        warn: is told what failed.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]
    ) -> None:
        self._trackers, self._warn = dict(trackers), warn

    def log(self, event: Mapping[str, Any]) -> None:
        """Tells all trackers that have not failed."""
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(event)
            except Exception as error:
                del self._trackers[name]
                self._failed(name, error, "gets no more of this run, which goes on")

    def close(self, finished: bool) -> None:
        """Ends all trackers that have not failed."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close(finished)
            except Exception as error:
                self._failed(name, error, "may lack the end of this run")
        self._trackers.clear()

    def _failed(self, name: str, error: Exception, what: str) -> None:
        self._warn(
            f"warning: {name} failed ({type(error).__name__}: {error}); it {what}. "
            "metrics.jsonl has everything"
        )


def start(
    kinds: Sequence[str],
    folder: RunFolder,
    config: Mapping[str, Any],
    warn: Callable[[str], None],
    history: Sequence[Mapping[str, Any]] = (),
    group: str = "",
) -> Guard:
    """Starts trackers for a run that is about to compute.

    One that was there in an earlier life of the run goes on after the last event of
    `history`; another is told all of it first.

    Args:
        kinds: of `kinds_of`.
        folder: of the run.
        config: of the run, plain values.
        warn: is told what fails later.
        history: the events before, where a run continues.
        group: of runs that belong together, or empty.

    Returns:
        All of them as one, to be closed in the end.

    Raises:
        TrackingError: one does not start.
    """
    started: dict[str, Tracker] = {}
    done = history[-1]["round"] if history else 0
    try:
        for kind in kinds:
            _, module, trace = _KNOWN[kind]
            before = (folder.path / trace).exists()
            opened = importlib.import_module(f"{__name__}.{module}")
            try:
                tracker = opened.start(folder, config, done, group)
                started[kind] = tracker
                for event in () if before else history:
                    tracker.log(event)
            except Exception as error:
                raise TrackingError(
                    f"--track {kind} does not start ({type(error).__name__}: "
                    f"{error}). {opened.ADVICE}"
                ) from error
    except TrackingError:
        Guard(started, warn).close(False)
        raise
    return Guard(started, warn)
