"""A run's events for TensorBoard; the only module that imports tensorboardX.

Every record is written at once, so that a killed run loses no event. (tensorboardX's
own writer queues records, and renames metrics such as `hr@10`.)
"""

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

# The extra `tracking`; pyright may run without it.
from tensorboardX import record_writer  # pyright: ignore[reportMissingImports]
from tensorboardX.proto import event_pb2, summary_pb2  # pyright: ignore[reportMissingImports]

from fedjax_rec.runs.tracking import scalars
from fedjax_rec.runs.writer import RunFolder

_EVENTS: Any = event_pb2
_SUMMARIES: Any = summary_pb2
FOLDER = "tensorboard"
ADVICE = "Leave it out, or make the run's folder writable"


class TensorBoard:
    """Writes an event file into TensorBoard's folder of a run, new or continued.

    Args:
        folder: the run's folder.
        config: not used.
        done: rounds done before. TensorBoard drops later ones, which a killed process
            had written.
        group: not used.
    """

    def __init__(
        self, folder: RunFolder, config: Mapping[str, Any], done: int, group: str
    ):
        path = folder.path / FOLDER
        path.mkdir(exist_ok=True)
        continued = any("tfevents" in name for name in os.listdir(path))
        # Readers take the files of a folder in the order of their names.
        stamp = f"{time.time():.3f}.{platform.node()}.{os.getpid()}"
        self._file = record_writer.RecordWriter(
            os.path.join(path, f"events.out.tfevents.{stamp}")
        )
        self._write(file_version="brain.Event:2")
        if continued:
            restart = _EVENTS.SessionLog(status=_EVENTS.SessionLog.START)
            self._write(step=done + 1, session_log=restart)

    def log(self, event: Mapping[str, Any]) -> None:
        values = [
            _SUMMARIES.Summary.Value(tag=name, simple_value=value)
            for name, value in scalars(event).items()
        ]
        summary = _SUMMARIES.Summary(value=values)
        self._write(step=event["round"], summary=summary)

    def close(self, finished: bool) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = _EVENTS.Event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())
        self._file.flush()
