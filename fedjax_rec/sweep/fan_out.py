"""Points in processes of their own, on this machine or on a Ray cluster.

Only this module imports Ray.
"""

import functools
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

from fedjax_rec.experiment.own_module import load_modules, loaded_modules
from fedjax_rec.runs.interrupts import Stopped, put_off
from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.sweep.grouping import free_bytes, groups_of
from fedjax_rec.sweep.store import Point

Outcome = tuple[str, ...]
"""`(point's name, error or "")`."""

Done = Callable[..., None]
"""Callback with the values of an `Outcome`, called when a point is done."""


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


def work(
    points: list[Point], folder: Path, memory: int, send: Done = lambda *outcome: None
) -> list[Outcome]:
    """Runs points in a fresh process.

    Args:
        points: points that may share a program.
        folder: folder of the sweep.
        memory: bytes for points side by side.
        send: called for each point as soon as it is done.

    Returns:
        The arguments of `Done` for each point.
    """
    from fedjax_rec.runs.session import set_up_jax
    from fedjax_rec.sweep.run_points import Listener, run_points

    set_up_jax(points[0].experiment.execution.dtype, devices=1)
    outcomes: list[Outcome] = []

    def done(*outcome: str) -> None:
        outcomes.append(outcome)
        send(*outcome)

    run_points(points, folder, Listener(point_done=done), memory)
    return outcomes


def alone(
    points: Sequence[Point], finished: Collection[str], reason: str, done: Done
) -> list[list[Point]]:
    """Tasks for the points of a process that died.

    Several points may have shared its program, and one of them was too much. Each then
    has a process of its own, so that only this one fails.

    Args:
        points: points of the process.
        finished: names of those that are done.
        reason: the process's end.
        done: callback, called for a point that had the process to itself.
    """
    left = [point for point in points if point.name not in finished]
    if len(points) > 1:
        return [[point] for point in left]
    for point in left:
        done(point.name, f"its process ended: {reason}")
    return []


class _Worker:
    """A process that runs the points of a task.

    Attributes:
        points: points of the task.
        outcomes: receives an `Outcome` for each point, and at last an error or `None`.
        process: the process.
        finished: names of the points that are done.
    """

    def __init__(self, points: list[Point], folder: Path, memory: int):
        context = multiprocessing.get_context("spawn")  # JAX has threads: no fork
        modules = [str(module.__file__) for module in loaded_modules()]
        self.outcomes, sender = context.Pipe(duplex=False)
        # Points may have classes of a config file, which is loaded before they are.
        arguments = (sender, modules, pickle.dumps(points), folder, memory)
        self.process = context.Process(target=_run_task, args=arguments)
        self.process.start()
        sender.close()  # so that the end of the process is the end of the pipe
        self.points, self.finished, self._stopped = points, set[str](), False

    def stop(self) -> None:
        """Lets the process save a checkpoint, and end."""
        if not self._stopped:
            self.process.terminate()
        self._stopped = True

    def ending(self) -> str:
        """The reason of an end without a last message."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"


def _run_task(
    outcomes: Connection, modules: list[str], task: bytes, folder: Path, memory: int
) -> None:
    """Body of a worker's process."""
    load_modules(modules)
    error = None
    try:
        work(pickle.loads(task), folder, memory, lambda *o: outcomes.send(o))
    except DiskFull as full:
        error = str(full)
    except Stopped:
        pass  # its points wait for the next call
    outcomes.send(error)


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

    Raises:
        DiskFull: a folder has no room.
        Stopped: a signal asked for it; the points that ran have checkpoints.
    """
    share = max(1, (memory or free_bytes(jax.local_devices()[0]) // 2) // jobs)
    tasks, workers = tasks_of(points, jobs), dict[Any, _Worker]()
    with put_off() as signalled:
        try:
            while workers or (tasks and not signalled()):
                while tasks and len(workers) < jobs and not signalled():
                    worker = _Worker(tasks.pop(0), folder, share)
                    workers[worker.outcomes] = worker
                for ready in multiprocessing.connection.wait(list(workers), 1.0):
                    worker = workers[ready]
                    tasks += _receive(worker, done, bool(signalled()))
                    if worker.outcomes.closed:
                        del workers[ready]
                if signalled():
                    for worker in workers.values():
                        worker.stop()
        finally:
            for worker in workers.values():
                worker.process.kill()
                worker.process.join()
        if number := signalled():
            raise Stopped(0, number)


def _receive(worker: _Worker, done: Done, stopping: bool) -> list[list[Point]]:
    """Takes a message or the end of a worker; returns tasks to run in its place."""
    try:
        message = worker.outcomes.recv()
    except EOFError:
        worker.outcomes.close()
        if stopping:
            return []
        return alone(worker.points, worker.finished, worker.ending(), done)
    if isinstance(message, tuple):
        worker.finished.add(message[0])
        done(*message)
        return []
    worker.outcomes.close()
    worker.process.join()
    if message is not None:
        raise DiskFull(message)
    return []


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
        waiting, running = tasks_of(points, workers), {}
        while waiting or running:
            for task in waiting:
                running[remote.remote(task, folder.absolute(), memory)] = task
            waiting = []
            ready, _ = ray.wait(list(running), num_returns=1)
            for future in ready:
                task = running.pop(future)
                waiting += _result(task, functools.partial(ray.get, future), done)
    finally:
        if started:
            ray.shutdown()


def _result(
    task: Sequence[Point], result: Callable[[], list[Outcome]], done: Done
) -> list[list[Point]]:
    """Calls `done` for the points of a task; returns tasks to run in its place.

    Args:
        task: points of the task.
        result: returns the result of `work`, or raises if its process died.
        done: callback.
    """
    try:
        outcomes = result()
    except DiskFull:
        raise
    except Exception as error:
        line = "".join(str(error).strip().splitlines()[:1])
        return alone(task, (), f"{type(error).__name__}: {line}", done)
    for outcome in outcomes:
        done(*outcome)
    return []
