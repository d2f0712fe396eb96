"""Points in processes of their own: what a process is given, and what it hands back."""

import concurrent.futures
import math
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

from fedjax_rec.sweep.grouping import groups_of
from fedjax_rec.sweep.store import Point

Told = list[tuple[str, str]]
"""`(point's name, error or "")`."""


def tasks_of(points: Sequence[Point], workers: int) -> list[list[Point]]:
    """Parts for at least `workers` processes, where there are as many points.

    Points that share a program stay together as far as that allows, those of one seed
    first of all.

    Args:
        points: to be run.
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


def work(points: list[Point], folder: Path, memory: int) -> Told:
    """Runs points in a fresh process, and tells what became of them."""
    from fedjax_rec.runs.session import set_up_jax
    from fedjax_rec.sweep.run_points import Listener, run_points

    set_up_jax(points[0].experiment.execution.dtype, devices=1)
    told: Told = []
    listener = Listener(point_done=lambda name, error: told.append((name, error)))
    run_points(points, folder, listener, memory)
    return told


def died(points: Sequence[Point], error: BaseException) -> Told:
    """What is told of points whose process ended before it told anything."""
    reason = str(error).strip().splitlines()[:1]
    text = f"its process ended: {type(error).__name__}: {''.join(reason)}"
    return [(point.name, text) for point in points]


def run_in_processes(
    points: Sequence[Point],
    folder: Path,
    done: Callable[[str, str], None],
    memory: int,
    jobs: int,
) -> None:
    """Runs points in `jobs` processes of this machine.

    Args:
        points: to be run.
        folder: of the sweep.
        done: is told each point's name, and its error or "".
        memory: bytes that all processes together may take for points beside one
            another; 0 is half of what is free.
        jobs: processes at a time.
    """
    tasks = tasks_of(points, jobs)
    share = _share(memory, jobs)
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {pool.submit(work, task, folder, share): task for task in tasks}
        try:
            for future in concurrent.futures.as_completed(running):
                try:
                    told = future.result()
                except Exception as error:
                    told = died(running[future], error)
                for name, error in told:
                    done(name, error)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _share(memory: int, jobs: int) -> int:
    if memory:
        return max(1, memory // jobs)
    import jax

    from fedjax_rec.sweep.memory import free_bytes

    return max(1, free_bytes(jax.local_devices()[0]) // 2 // jobs)
