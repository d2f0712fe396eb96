"""Fixtures of the tests of the command line."""

import copy
import dataclasses
import multiprocessing
import textwrap

import jax
import numpy as np
import pytest

from fedjax_rec.cli import main
from fedjax_rec.experiment.build import build

SMALL = '''
    """What to expect."""
    from fedjax_rec import Execution, Experiment, FedMF, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedMF(dim=4),
            execution=Execution(max_buckets=1),
            rounds=2,
            eval_every=1,
        )
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDJAX_REC_DATA", raising=False)
    return tmp_path


@pytest.fixture
def write(folder):
    """Writes a config file, by default a small one, and returns its name."""

    def write(text=SMALL, name="small.py"):
        (folder / name).write_text(textwrap.dedent(text))
        return name

    return write


@pytest.fixture
def fails(capsys):
    """The message of a command that has to fail with status 2 and without a traceback.

    Line breaks of the message count as spaces.
    """

    def fails(*args):
        capsys.readouterr()
        status = main(list(args))
        output = capsys.readouterr()
        assert status == 2
        assert "Traceback" not in output.err
        return " ".join((output.out + output.err).replace("│", " ").split())

    return fails


@pytest.fixture
def shows(capsys):
    """The output of a command that has to succeed, with line breaks as spaces."""

    def shows(*args):
        capsys.readouterr()
        assert main(list(args)) == 0
        output = capsys.readouterr()
        return " ".join((output.out + output.err).split())

    return shows


@pytest.fixture(scope="session")
def again():
    """Builds each experiment once: later runs of it need no tracing and no compiling.

    It takes the place of `build`. A simulation begins again from its initial arrays,
    and its baselines, which no training changes, are computed once.
    """
    made = {}

    def again(experiment, **options):
        key = dataclasses.replace(experiment, name="", rounds=1)
        if key not in made:
            simulation = build(experiment, **options)
            start = simulation.snapshot()
            arrays = jax.tree.map(np.array, start.arrays)
            made[key] = simulation, start._replace(arrays=arrays)
            ranked = {}

            def baselines(compute=simulation.baselines):
                rounds = simulation.rounds
                if rounds not in ranked:
                    ranked[rounds] = compute()
                return copy.deepcopy(ranked[rounds])

            simulation.baselines = baselines
        simulation, start = made[key]
        simulation.rounds = experiment.rounds
        simulation.restore(start)
        return simulation

    return again


class Forked:
    """A process with the package already imported, forked from a server.

    Args:
        code: Python code that it runs.
        folder: where it runs.
        output: file of its output.
    """

    def __init__(self, code, folder, output):
        self.output = output
        output.write_text("")
        begin = (
            "import os\n"
            f"os.chdir({str(folder)!r})\n"
            f"output = os.open({str(output)!r}, os.O_WRONLY)\n"
            "os.dup2(output, 1)\n"
            "os.dup2(output, 2)\n"
        )
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(target=exec, args=(begin + code, {}))
        self.process.start()

    def wait(self):
        """The exit status, negative for a signal, and the output."""
        self.process.join()
        return self.process.exitcode, self.output.read_text()


PRELOADED = [
    "fedjax_rec.cli.training",
    "fedjax_rec.sweep.run_points",
    "matplotlib.figure",
    "orbax.checkpoint",
    "pytest",
]
"""The modules that take longest to import."""


@pytest.fixture(scope="session")
def fork():
    """Starts a command in a process of its own, with code that runs before it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("processes are not forked here")

    def fork(args, folder, before="", cache=None, output="output.txt"):
        code = (
            "import sys\n"
            f"os.environ['FEDJAX_REC_CACHE'] = {str(cache or folder / 'cache')!r}\n"
            f"{textwrap.dedent(before)}\n"
            "from fedjax_rec.cli import main\n"
            f"sys.exit(main({[str(arg) for arg in args]!r}))\n"
        )
        return Forked(code, folder, folder / output)

    return fork
