"""Points on a Ray cluster; the only module that imports Ray."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from fedjax_rec.experiment.own_module import loaded_modules
from fedjax_rec.sweep.fan_out import Done, report, tasks_of, work
from fedjax_rec.sweep.store import Point


def run_on_ray(
    points: Sequence[Point], folder: Path, done: Done, memory: int, jobs: int
) -> None:
    """Runs points as Ray tasks; the points of a task share a program.

    `RAY_ADDRESS` names a cluster; without it Ray starts on this machine. All machines
    need this package, and `folder` under the same path.

    Args:
        points: points to run.
        folder: folder of the sweep.
        done: callback.
        memory: bytes of a task for points side by side; 0 is half of the free memory of
            its machine.
        jobs: tasks at a time; 1 is one per CPU of the cluster.
    """
    import ray  # pyright: ignore[reportMissingImports]

    started = not ray.is_initialized()
    if started:
        # Workers keep this process's PYTHONPATH and caches.
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            log_to_driver=False,
            include_dashboard=False,
        )
    for module in loaded_modules():  # points may have classes of a config file
        ray.cloudpickle.register_pickle_by_value(module)  # pyright: ignore
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
                report(tasks.pop(future), functools.partial(ray.get, future), done)
    finally:
        if started:
            ray.shutdown()
