"""Points in processes of their own, on this machine or on a Ray cluster.

Only this module imports Ray.
"""

import concurrent.futures
import functools
import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from fedjax_rec.experiment.own_module import load_modules, loaded_modules
from fedjax_rec.sweep.grouping import free_bytes, groups_of
from fedjax_rec.sweep.store import Point

Done = Callable[[str, str], None]
"""`(point's name, error or "")`, called when a point is done."""


def tasks_of(points: Sequence[Point], workers: int) -> list[list[Point]]:
    """Parts for at least `workers` processes, if there are as many points.

    Points that share a program stay together as far as possible, first those of one
    seed.

    Args:
        points: points to run.
        workers: processes at a time.
    """
    groups = [
        sorted((points[i] for i in group), key=lambda p: p.experiment.seed)
        for group in groups_of([point.experiment for point in points])
    ]
    pieces = math.ceil(workers / max(1, len(groups)))
    tasks = []
    for group in groups:
        size = math.ceil(len(group) / pieces)
        tasks += [group[i : i + size] for i in range(0, len(group), size)]
    return tasks


def work(points: list[Point], folder: Path, memory: int) -> list[tuple[str, str]]:
    """Runs points in a fresh process; returns the arguments of `Done` for each."""
    from fedjax_rec.runs.session import set_up_jax
    from fedjax_rec.sweep.run_points import Listener, run_points

    set_up_jax(points[0].experiment.execution.dtype, devices=1)
    outcomes: list[tuple[str, str]] = []
    listener = Listener(point_done=lambda *outcome: outcomes.append(outcome))
    run_points(points, folder, listener, memory)
    return outcomes


def report(points: Sequence[Point], result: Callable, done: Done) -> None:
    """Calls `done` for the points of a task.

    Args:
        points: points of the task.
        result: returns the result of `work`, or raises if its process died.
        done: callback.
    """
    try:
        outcomes = result()
    except Exception as error:
        reason = "".join(str(error).strip().splitlines()[:1])
        text = f"its process ended: {type(error).__name__}: {reason}"
        outcomes = [(point.name, text) for point in points]
    for outcome in outcomes:
        done(*outcome)


def run_in_processes(
    points: Sequence[Point], folder: Path, done: Done, memory: int, jobs: int
) -> None:
    """Runs points in `jobs` processes of this machine.

    Args:
        points: points to run.
        folder: folder of the sweep.
        done: callback.
        memory: bytes for points side by side in all processes; 0 is half of the free
            memory.
        jobs: processes at a time.
    """
    share = max(1, (memory or free_bytes(jax.local_devices()[0]) // 2) // jobs)
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork
    with concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=context,
        initializer=load_modules,  # points may have classes of a config file
        initargs=([str(module.__file__) for module in loaded_modules()],),
    ) as pool:
        running = {
            pool.submit(work, task, folder, share): task
            for task in tasks_of(points, jobs)
        }
        try:
            for future in concurrent.futures.as_completed(running):
                report(running[future], future.result, done)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
