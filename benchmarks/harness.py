"""Child processes, facts about the machine, and output, for all benchmarks."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def run_child(file: str, *arguments: str) -> dict[str, Any]:
    """Runs `FILE --child ARGUMENTS...` and returns the JSON of its last line.

    In a separate process a peak of memory belongs to one workload, and nothing is
    compiled yet.
    """
    command = [sys.executable, file, "--child", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def progress(text: str) -> None:
    """Prints to stderr at once."""
    print(text, file=sys.stderr, flush=True)


def machine(*packages: str) -> dict[str, Any]:
    """Processor, device and versions. Starts JAX.

    Args:
        *packages: packages in addition to JAX; the version is `None` if one is missing.
    """
    import jax

    from fedjax_rec.runs.session import cores

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(report: Mapping[str, Any], path: pathlib.Path | None) -> None:
    """Prints a report as JSON, and also writes it to `path` if there is one."""
    text = json.dumps(report, indent=2)
    print(text)
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(path)
