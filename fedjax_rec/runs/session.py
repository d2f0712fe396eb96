"""Setup of the process before anything is computed."""

import contextlib
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
    """Sets up the compilation cache, CPU devices and float64.

    A cache that the user chose (`JAX_COMPILATION_CACHE_DIR`) stays unchanged, and so
    does a number of threads (`NPROC`, which XLA reads for its CPU client). A client's
    steps are too small to share between threads, so every core is a device with one
    thread.

    Args:
        dtype: dtype of the parameters.
        devices: number of CPU devices; 0 is one per core.
    """
    os.environ.setdefault("NPROC", "1")
    # Tracing makes many small objects that stay alive: a tenth of its time went into
    # collecting garbage.
    gc.set_threshold(100_000, 20, 100)
    import jax

    from fedjax_rec.storage.cache import cache_root

    if jax.config.values["jax_num_cpu_devices"] < 0:
        # Without effect if the process has used JAX already.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", devices or cores())

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root() / "xla"))
        # Programs that compile faster than this load no faster from disk.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def join(coordinator: str = "", processes: int = 0, process_id: int = -1) -> bool:
    """Joins the other processes of a run; call it after `set_up_jax`.

    Args:
        coordinator: HOST:PORT of process 0; empty if Slurm, Open MPI, Kubernetes or a
            TPU pod provide it (docs/clusters.md).
        processes: number of processes; with a coordinator.
        process_id: number of this process, from 0; with a coordinator.

    Returns:
        Whether this is the first process, which writes.

    Raises:
        UserError: the arguments contradict each other, or no process answers.
    """
    import jax

    if coordinator:
        if ":" not in coordinator:
            raise UserError(
                f"--coordinator {coordinator}: expected HOST:PORT of process 0"
            )
        if not 0 <= process_id < processes:
            raise UserError(
                f"--processes {processes} --process-id {process_id}: with "
                "--coordinator, pass the number of processes, and to each its own id "
                "from 0"
            )
    elif processes or process_id >= 0:
        raise UserError("--processes and --process-id need --coordinator HOST:PORT")
    # Without it processes on CPUs could not add up their arrays.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take over SIGTERM, on which the processes agree between rounds.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes or None,
            process_id if coordinator else None,
            initialization_timeout=120,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes did not find each other ({str(error).splitlines()[0]}). "
            "Outside Slurm, Open MPI, Kubernetes or a TPU pod pass --coordinator "
            "HOST:PORT --processes N --process-id I; see docs/clusters.md"
        ) from error
    return jax.process_index() == 0


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, Any]:
    """Versions of the software and the machine, for a run's folder."""
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
        "working_folder": str(Path.cwd()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _processor() -> str:
    """The processor's model: its vector units decide the order of sums."""
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


def is_screen() -> bool:
    """Whether stderr is a terminal with a size: some have 0 lines."""
    if not sys.stderr.isatty():
        return False
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (OSError, ValueError):
        return False
