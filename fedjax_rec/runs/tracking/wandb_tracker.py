"""A run's events in Weights & Biases; the only module that imports wandb.

It is set up by its own environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE
(`offline` needs no network), WANDB_API_KEY and the others.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from fedjax_rec.runs.tracking import scalars
from fedjax_rec.runs.writer import RunFolder

PLACE = "wandb.json"
ADVICE = (
    "Log in with `wandb login`, or set WANDB_MODE=offline, which needs no account and "
    "no network; `wandb sync` sends such a run later"
)


class WeightsAndBiases:
    """One run there."""

    def __init__(self, run: Any):
        self._run = run

    def log(self, event: Mapping[str, Any]) -> None:
        # Rounds that a run computes again after it was killed have the same numbers, so
        # whichever copy of a step is kept is right.
        self._run.log(scalars(event), step=event["round"])

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def start(
    folder: RunFolder, config: Mapping[str, Any], done: int, group: str
) -> WeightsAndBiases:
    """A run there, new or, where `wandb.json` has its id, continued."""
    place = folder.path / PLACE
    known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    # Output stays the program's own, unless somebody asks for it there.
    settings = wandb.Settings(console=os.environ.get("WANDB_CONSOLE", "off"))
    run = wandb.init(
        dir=str(folder.path.absolute()),
        id=known.get("id"),
        entity=known.get("entity"),
        project=known.get("project") or os.environ.get("WANDB_PROJECT", "fedjax_rec"),
        name=os.environ.get("WANDB_NAME", folder.path.name),
        group=os.environ.get("WANDB_RUN_GROUP", group) or None,
        config=dict(config),
        resume="allow",
        reinit="create_new",  # a sweep has a run a point, side by side
        settings=settings,
    )
    found = {"id": run.id, "project": run.project, "entity": run.entity or None}
    folder.write_json(PLACE, found)
    return WeightsAndBiases(run)
