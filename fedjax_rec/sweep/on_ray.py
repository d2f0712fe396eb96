"""Points on a Ray cluster; the only module that imports Ray."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep.fan_out import died, tasks_of, work
from fedjax_rec.sweep.store import Point


def check_ray() -> None:
    """Raises a UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--engine ray needs Ray: pip install 'fedjax-rec[sweep]' (or --jobs N for "
            "processes on this machine)"
        )


def run_on_ray(
    points: Sequence[Point],
    folder: Path,
    done: Callable[[str, str], None],
    memory: int,
    jobs: int,
) -> None:
    """Runs points as Ray tasks, each of which shares a program.

    `RAY_ADDRESS` names a cluster; without it Ray starts on this machine. All machines
    have to see `folder` under the same path, and to have this package.

    Args:
        points: to be run.
        folder: of the sweep.
        done: is told each point's name, and its error or "".
        memory: bytes a task may take for points beside one another; 0 is half of what
            is free on its machine.
        jobs: tasks at a time; 1 is one a CPU of the cluster.
    """
    check_ray()
    import ray  # pyright: ignore[reportMissingImports]

    ours = not ray.is_initialized()
    if ours:
        # Workers keep this process's PYTHONPATH and caches.
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            log_to_driver=False,
            include_dashboard=False,
        )
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        workers = jobs if jobs > 1 else max(1, cpus)
        remote = ray.remote(num_cpus=max(1, cpus // workers), max_retries=0)(work)
        tasks = {
            remote.remote(task, folder.absolute(), memory): task
            for task in tasks_of(points, workers)
        }
        while tasks:
            ready, _ = ray.wait(list(tasks), num_returns=1)
            for future in ready:
                task = tasks.pop(future)
                try:
                    told = ray.get(future)
                except Exception as error:
                    told = died(task, error)
                for name, error in told:
                    done(name, error)
    finally:
        if ours:
            ray.shutdown()
