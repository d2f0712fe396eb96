"""What a command does to the process before anything is computed."""

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "tensorflow-datasets"
)  # fmt: skip


class UserError(ValueError):
    """What the user can put right: shown as it is, without a traceback."""


def cache_folder() -> Path:
    """Where prepared data and compiled programs are kept."""
    chosen = os.environ.get("FEDJAX_REC_CACHE") or "~/.cache/fedjax_rec"
    return Path(chosen).expanduser().absolute()


def set_up_jax(dtype: str = "float32", threads: bool = False) -> None:
    """Keeps compiled programs on disk, and allows float64 where it is asked for.

    A cache that the user chose (`JAX_COMPILATION_CACHE_DIR`) stays as it is, and so
    does a number of threads (`NPROC`, which XLA reads for its CPU client). A client's
    steps are too small to share between threads: one takes no longer than two, and
    half the processor time. A backbone's matrix products are not.

    Args:
        dtype: of the parameters.
        threads: leave the number of threads to XLA.
    """
    if not threads:
        os.environ.setdefault("NPROC", "1")
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        # What compiles faster than this loads no faster from disk.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def versions() -> dict[str, Any]:
    """What computes a run, for its folder."""
    import jax

    from fedjax_rec import __version__

    return {
        "fedjax_rec": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processor": _processor(),
        "threads": os.environ.get("NPROC") or str(os.cpu_count()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "command": ["fedjax-rec", *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _processor() -> str:
    """The processor's model: its vector units decide in which order sums are made."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(models, platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
