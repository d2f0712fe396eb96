"""Identity of a run that continues: its config, software and machine."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from fedjax_rec.runs.folder import VERSIONS
from fedjax_rec.runs.writer import RunFolder

DECISIVE = (
    "fedjax_rec", "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices",
    "processor", "threads", "xla_flags",
)  # fmt: skip
"""Entries of `versions.json` that can change the bits of a result."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of the config without the number of rounds, which may grow."""
    fixed = {name: value for name, value in config.items() if name != "rounds"}
    text = json.dumps(fixed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decisive(versions: Mapping[str, Any]) -> dict[str, Any]:
    """The decisive entries of `versions.json` when the run was last computed."""
    latest = dict(versions)
    for life in versions.get("resumed", []):
        latest |= life["changed"]
    return {name: latest.get(name) for name in DECISIVE}


def record_life(
    folder: RunFolder,
    versions: Mapping[str, Any],
    done: int,
    changed: Mapping[str, Any],
) -> None:
    """Adds to `versions.json` that a process goes on from a checkpoint.

    Args:
        folder: the run's folder.
        versions: content of the file.
        done: finished rounds.
        changed: decisive values that differ from those before.
    """
    life = {
        "round": done,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["fedjax-rec", *sys.argv[1:]],
        "changed": dict(changed),
    }
    lives = [*versions.get("resumed", []), life]
    folder.write_json(VERSIONS, {**versions, "resumed": lives})
