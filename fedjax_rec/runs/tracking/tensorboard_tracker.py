"""A run's events as TensorBoard reads them; the only module that imports tensorboardX.

Records are written one by one and at once: a run that is killed has written what it
told. (tensorboardX's own writer queues them, and renames metrics such as `hr@10`.)
"""

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

# The extra `tracking`; pyright runs without it.
from tensorboardX.proto.event_pb2 import (  # pyright: ignore[reportMissingImports]
    Event,
    SessionLog,
)
from tensorboardX.proto.summary_pb2 import (  # pyright: ignore[reportMissingImports]
    Summary,
)
from tensorboardX.record_writer import (  # pyright: ignore[reportMissingImports]
    RecordWriter,
)

from fedjax_rec.runs.tracking import scalars
from fedjax_rec.runs.writer import RunFolder

PLACE = "tensorboard"
ADVICE = "Leave it out, or see to it that the run's folder can be written"


class TensorBoard:
    """Writes an event file into a folder.

    Args:
        path: of the folder.
        done: rounds that were done before: what TensorBoard knows of later ones, from a
            life of the run that was killed, it forgets.
    """

    def __init__(self, path: os.PathLike, done: int = 0):
        os.makedirs(path, exist_ok=True)
        again = any("tfevents" in name for name in os.listdir(path))
        # Readers take the files of a folder in the order of their names.
        stamp = f"{time.time():.3f}.{platform.node()}.{os.getpid()}"
        self._file = RecordWriter(os.path.join(path, f"events.out.tfevents.{stamp}"))
        self._write(file_version="brain.Event:2")
        if again:
            begins = SessionLog(status=SessionLog.START)
            self._write(step=done + 1, session_log=begins)

    def log(self, event: Mapping[str, Any]) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars(event).items()
        ]
        self._write(step=event["round"], summary=Summary(value=values))

    def close(self, finished: bool) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()


def start(
    folder: RunFolder, config: Mapping[str, Any], done: int, group: str
) -> TensorBoard:
    """TensorBoard's folder of a run, new or continued."""
    return TensorBoard(folder.path / PLACE, done)
