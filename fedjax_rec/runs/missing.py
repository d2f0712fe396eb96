"""Reasons why a run has no parameters, and what to do."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.runs.folder import CONFIG, Run, read_run

SWEEP = "sweep.json"
"""Name of the file that a sweep has in its folder, above those of its points."""


def why_no_model(path: Path) -> str:
    """The reason why a folder holds no parameters, with advice.

    Args:
        path: a folder without parameters.
    """
    if not (path / CONFIG).is_file():
        return (
            f"{path} holds no model; expected the folder of a run, written by "
            "`fedjax-rec train`, or of an export, written by `fedjax-rec export`"
        )
    run = read_run(path)
    if "few_shot" in run.config:
        return f"{path} holds a transfer; only `train` keeps parameters"
    if (path.absolute().parent / SWEEP).is_file():
        return _of_point(run)
    if run.result is None:
        return (
            f"{path} has no selected round yet. Continue it with\n"
            f"  fedjax-rec train --resume {path}"
        )
    if not run.result.get("selected"):
        return f"{path} selected no round, since it diverged before an evaluation"
    return (
        f"{path} keeps no parameters: it was written by an earlier version, or its "
        "personal parameters lay on disk (store.location), and are not copied. Run it "
        "again with --overwrite, in another store.location"
    )


def _of_point(run: Run) -> str:
    problem = f"{run.path} is a point of a sweep, and sweeps keep no parameters"
    values = _values_of(run.path)
    command = _command(run, values) if values is not None else None
    if command is None:
        return (
            f"{problem}. Train its setting by `fedjax-rec train CONFIG`, with a flag "
            f"for each field in {run.path}/config.json that differs from CONFIG"
        )
    folder = run.versions.get("working_folder")
    where = f", in {folder}" if folder and folder != str(Path.cwd()) else ""
    return f"{problem}. Train its setting{where}:\n  {command}"


def _values_of(path: Path) -> dict[str, Any] | None:
    """The values of a point's fields; `None` if they cannot be read."""
    try:
        text = (path.absolute().parent / SWEEP).read_text(encoding="utf-8")
        return json.loads(text)["points"][path.absolute().name]["values"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _command(run: Run, values: Mapping[str, Any]) -> str | None:
    """The command that trains a point; `None` if flags cannot express it."""
    words = run.versions.get("command") or []
    plain = all(isinstance(value, str | int | float) for value in values.values())
    if words[:2] != ["fedjax-rec", "sweep"] or len(words) < 3 or not plain:
        return None
    if words[2].startswith("-") or "name" in values:  # one of several experiments
        return None
    flags = []
    for word in words[3:]:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            keeps = name.partition(".")[0] in {"plugin", *run.config}
            keeps = keeps and name not in values
        if keeps:
            flags.append(word)
    # Parts first, so that the line reads in the order in which flags apply.
    for name, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        flags += [f"--{name}", str(value)]
    return shlex.join(["fedjax-rec", "train", words[2], *flags])
