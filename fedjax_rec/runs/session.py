"""What a command does to the process before anything is computed."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from fedjax_rec.storage.errors import UserError

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "tensorflow-datasets"
)  # fmt: skip


def set_up_jax(dtype: str = "float32", devices: int = 0) -> None:
    """Keeps compiled programs on disk, makes devices of cores, allows float64.

    A cache that the user chose (`JAX_COMPILATION_CACHE_DIR`) stays as it is, and so
    does a number of threads (`NPROC`, which XLA reads for its CPU client). A client's
    steps are too small to share between threads, so every core is a device with a
    single one.

    Args:
        dtype: of the parameters.
        devices: of a CPU; 0 is one a core.
    """
    os.environ.setdefault("NPROC", "1")
    # Tracing makes many small objects that live on: looking for garbage among them
    # again and again took a tenth of it.
    gc.set_threshold(100_000, 20, 100)
    import jax

    from fedjax_rec.storage.cache import cache_root

    if jax.config.values["jax_num_cpu_devices"] < 0:
        # Too late where the process has used JAX already: then it stays as it is.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices or cores())

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        # What compiles faster than this loads no faster from disk.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Several processes, on one or many hosts, as one run.

    Attributes:
        coordinator: HOST:PORT of process 0, which the others must reach; empty where
            Slurm, Open MPI, Kubernetes or a TPU pod tells (see docs/clusters.md).
        processes: how many; with a coordinator.
        process_id: which one this is, from 0; with a coordinator.
    """

    coordinator: str = ""
    processes: int = 0
    process_id: int = -1


def join(options: Processes) -> bool:
    """Joins the other processes of a run; to be called after `set_up_jax`.

    Returns:
        Whether this is the first process, the one that writes.

    Raises:
        UserError: the options contradict each other, or nobody answers.
    """
    import jax

    known: dict[str, Any] = {}
    if options.coordinator:
        if ":" not in options.coordinator:
            raise UserError(
                f"--coordinator {options.coordinator}: expected HOST:PORT of process 0"
            )
        if not 0 <= options.process_id < options.processes:
            raise UserError(
                f"--processes {options.processes} --process-id {options.process_id}: "
                "with --coordinator, give the number of processes and, to each, its "
                "own id from 0"
            )
        known = {
            "coordinator_address": options.coordinator,
            "num_processes": options.processes,
            "process_id": options.process_id,
        }
    elif options.processes or options.process_id >= 0:
        raise UserError("--processes and --process-id need --coordinator HOST:PORT")
    # Without it processes on CPUs could not add up their arrays.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(**known, initialization_timeout=120)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes did not find each other ({str(error).splitlines()[0]}). "
            "Outside Slurm, Open MPI, Kubernetes or a TPU pod pass --coordinator "
            "HOST:PORT --processes N --process-id I; see docs/clusters.md"
        ) from error
    return jax.process_index() == 0


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
