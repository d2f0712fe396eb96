"""Writes docs/api.md: the public names, grouped by kind, with their summaries.

python scripts/api.py
"""

import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fedjax_rec  # noqa: E402
from fedjax_rec.experiment import registry  # noqa: E402

PAGE = ROOT / "docs" / "api.md"
HEAD = """\
# Public names

`import fedjax_rec as fr; dir(fr)` lists them, and `help(fr.NAME)` explains one. A name
in brackets is that of the kind in flags, such as `--codec top_k`. `scripts/api.py`
writes this page.
"""
TITLES = {
    "experiment": "Experiment and its parts",
    "functions": "Functions, and what they return",
    "data": "Data",
    "split": "Splits",
    "partition": "Partitions",
    "algorithm": "Algorithms",
    "model": "Models of `FedAvg`",
    "client_optimizer": "Client optimizers",
    "server_optimizer": "Server optimizers",
    "adapter": "Adapters of `FedFM`",
    "users": "Users of `FedFM`",
    "training": "Training of `FedFM`",
    "wrapper": "Wrappers",
    "aggregation": "Aggregation rules",
    "codec": "Codecs",
    "attack": "Attacks",
    "cohort": "Cohorts",
    "metric": "Metrics",
}


def page() -> str:
    """The text of docs/api.md."""
    groups: dict[str, list[str]] = {title: [] for title in TITLES}
    names = [name for name in dir(fedjax_rec) if not name.startswith("_")]
    for name in names:
        value = getattr(fedjax_rec, name)
        slot, kind = _kind(name)
        if not slot:
            frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", 0)
            slot = "experiment" if frozen else "functions"
        summary = re.split(r"\n\s*\n", inspect.getdoc(value) or "")[0]
        label = f"`{name}`" + (f" (`{kind}`)" if kind else "")
        groups[slot].append(f"- {label}: {' '.join(summary.split())}")
    lines = [HEAD]
    for slot, entries in groups.items():
        lines += [f"## {TITLES[slot]}\n", *entries, ""]
    return "\n".join(lines)


def _kind(name: str) -> tuple[str, str]:
    """The slot of a class of settings, and its name there; empty for other names."""
    for slot, kinds in registry.SLOTS.items():
        for kind, location in kinds.items():
            if location.rpartition(":")[2] == name and slot in TITLES:
                return slot, kind
    return "", ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
