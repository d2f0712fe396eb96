"""A run's events in Weights & Biases; the only module that imports wandb.

It reads its own environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE
(`offline` needs no network), WANDB_API_KEY and the others.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from fedjax_rec.runs.tracking import scalars
from fedjax_rec.runs.writer import RunFolder

FILE = "wandb.json"
ADVICE = (
    "Log in with `wandb login`, or set WANDB_MODE=offline, which needs no account and "
    "no network; `wandb sync` sends such a run later"
)


class WeightsAndBiases:
    """Starts a run in Weights & Biases, or continues the one in `wandb.json`.

    Args:
        folder: the run's folder.
        config: the run's configuration, plain values.
        done: not used.
        group: name of a group of runs, or empty.
    """

    def __init__(
        self, folder: RunFolder, config: Mapping[str, Any], done: int, group: str
    ):
        path = folder.path / FILE
        previous = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # The program's output is not captured, unless the environment asks for it.
        settings = wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off"))
        self._run = run = wandb.init(
            dir=str(folder.path.absolute()),
            id=previous.get("id"),
            entity=previous.get("entity"),
            project=previous.get("project")
            or os.environ.get("WANDB_PROJECT", "fedjax_rec"),
            name=os.environ.get("WANDB_NAME", folder.path.name),
            group=os.environ.get("WANDB_RUN_GROUP", group) or None,
            config=dict(config),
            resume="allow",
            reinit="create_new",  # a sweep has several runs at once
            settings=settings,
        )
        ids = {"id": run.id, "project": run.project, "entity": run.entity or None}
        folder.write_json(FILE, ids)

    def log(self, event: Mapping[str, Any]) -> None:
        # Rounds computed again after a kill have the same numbers, so either copy of a
        # step is right.
        self._run.log(scalars(event), step=event["round"])

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
