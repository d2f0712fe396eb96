"""Real processes killed with SIGKILL, resumed, and compared with an unbroken run.

`-m slow` kills a hundred times at random moments and during saves (half an hour on two
busy cores); with `-s` it shows what the kills met. `FEDJAX_REC_KILLS` is their number.
"""

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fedjax_rec.cli.config_file import load_config
from fedjax_rec.experiment.build import build
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.runs.folder import read_run
from fedjax_rec.runs.resume import config_hash

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="SIGKILL is not known here"
)

CONFIG = '''
"""Small, with many saves."""
from fedjax_rec import (
    Execution, Experiment, FedAdam, FedAvg, MatrixFactorization, SyntheticData, Uniform,
)

def get_config():
    return Experiment(
        name="small",
        data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=4), server_optimizer=FedAdam(lr=0.01)
        ),
        cohort=Uniform(size=8),
        execution=Execution(max_buckets=1),
        rounds={rounds},
        eval_every={eval_every},
    )
'''

# The process kills itself in the middle of something, so that the moment is certain.
MOMENTS = {
    "while round 4 is saved": """
        from fedjax_rec.runs import checkpoint
        seal = checkpoint.Checkpoints._seal
        def sealing(self):
            if self._written == 4:
                die()
            seal(self)
        checkpoint.Checkpoints._seal = sealing
    """,
    "after round 5": """
        from fedjax_rec.cli.progress import Progress
        call = Progress.__call__
        def counting(self, event):
            if event["round"] == 5:
                die()
            call(self, event)
        Progress.__call__ = counting
    """,
    "before the result": """
        from fedjax_rec.simulation.simulation import Simulation
        Simulation.baselines = lambda self: die()
    """,
}


class Bench:
    """A folder with a config, in which processes are started.

    Args:
        folder: folder of the config and the runs.
        fork: fixture that starts processes.
        rounds: number of rounds.
        eval_every: rounds between evaluations.
    """

    def __init__(self, folder, fork, rounds, eval_every):
        self.folder, self.fork, self.expected = folder, fork, {}
        text = CONFIG.format(rounds=rounds, eval_every=eval_every)
        (folder / "small.py").write_text(text)
        self.experiment, _ = load_config(str(folder / "small.py"))
        # Every program is cached, so that a restart compiles nothing.
        self.before = (
            "import jax, signal\n"
            f"jax.config.update('jax_compilation_cache_dir', {str(folder / 'xla')!r})\n"
            "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
            "def die():\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )

    def start(self, run, moment=""):
        """A process that begins or resumes `run`, and may die at a `moment`."""
        begun = (self.folder / run / "config.json").exists()
        args = ["--resume", run] if begun else ["small.py", "--output", run]
        lines = [line.removeprefix(" " * 8) for line in moment.splitlines()]
        before = self.before + "\n".join(lines)
        return self.fork(["train", *args, "--quiet"], self.folder, before)

    def finish(self, run):
        """Runs to the end without a kill; returns the output."""
        status, output = self.start(run).wait()
        assert status == 0, output
        return output

    def bytes_of(self, run):
        """All that two runs of one experiment must agree on."""
        folder = self.folder / run
        config = json.loads((folder / "config.json").read_text())
        if not hasattr(self, "like"):
            self.like = build(self.experiment).snapshot().arrays
        checkpoints = Checkpoints(folder / "checkpoints", config_hash(config))
        restored = checkpoints.restore(self.like)
        checkpoints.close()
        assert restored.snapshot is not None
        leaves = jax.tree_util.tree_leaves_with_path(restored.snapshot.arrays)
        files = ("config.json", "metrics.jsonl", "result.json")
        return {
            **{name: (folder / name).read_bytes() for name in files},
            "progress": restored.snapshot.progress,
            **{jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves},
        }


@pytest.fixture(scope="module")
def bench(tmp_path_factory, fork):
    """A bench with an unbroken run `whole`, and all that another one must equal."""
    bench = Bench(tmp_path_factory.mktemp("kill"), fork, rounds=8, eval_every=2)
    bench.finish("whole")
    bench.expected = bench.bytes_of("whole")
    assert len(bench.expected) >= 7
    return bench


def test_killed_and_resumed_equals_unbroken(bench):
    killed = bench.folder / "killed"
    for name, moment in MOMENTS.items():
        status, output = bench.start("killed", moment).wait()
        assert status == -signal.SIGKILL, f"{name}: {output}"
        assert not (killed / "result.json").exists()
        if name == "while round 4 is saved":
            names = {p.name for p in (killed / "checkpoints").iterdir()}
            assert names == {"2", "4.orbax-checkpoint-tmp"}
    # The last save may have been on its way when the baselines were begun.
    assert "resumed after round" in bench.finish("killed")
    assert bench.bytes_of("killed") == bench.expected


def test_a_full_disk_ends_with_a_message_and_loses_nothing(bench):
    pytest.importorskip("resource")
    whole = bench.folder / "whole"
    lines = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    saved = len(b"".join(lines[:9]))  # six rounds, three evaluations
    assert saved > (whole / "config.json").stat().st_size  # written before
    limit = (saved + 20, saved + 20)
    full = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, {limit})\n"
    # The metrics of users exceed the limit before the lines do.
    full += "from fedjax_rec.evaluation import per_user\n"
    full += "per_user.write = lambda path, users: path.write_bytes(b'')"
    status, output = bench.start("full", full).wait()
    assert status == 2, output
    assert "Traceback" not in output
    assert "full/metrics.jsonl: cannot be written (File too large)" in output
    assert "fedjax-rec train --resume full" in output
    run = read_run(bench.folder / "full")
    assert run.result is None
    assert [event["round"] for event in run.events] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert "resumed after round 6" in bench.finish("full")
    assert bench.bytes_of("full") == bench.expected


def unfinished(folder):
    """Saves and removals broken off, each distinct from a later one of its name."""
    paths = set()
    for path in folder.glob("checkpoints/*"):
        if "tmp" in path.name or not (path / "seal.json").exists():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                paths.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return paths


def begun(folder):
    """Number of lives that came as far as to compute rounds."""
    timings = folder / "timings.jsonl"
    return timings.read_text().count('"start"') if timings.exists() else 0


def met(folder, unfinished_before, begun_before):
    """The phase that a kill met, in a few words."""
    left = {name for name, *_ in unfinished(folder) - unfinished_before}
    if any("tmp" in name for name in left):
        return "during a save"
    if left:
        return "during a removal"
    if begun(folder) == begun_before:
        return "before it computed"
    saved = any(p.name.isdigit() for p in folder.glob("checkpoints/*"))
    return "between saves" if saved else "before the first checkpoint"


@pytest.mark.slow
def test_a_hundred_kills(tmp_path, fork):
    kills, seed = int(os.environ.get("FEDJAX_REC_KILLS", "100")), 0
    folder = tmp_path
    rng, bench = random.Random(seed), Bench(folder, fork, rounds=400, eval_every=5)
    bench.finish("whole")
    expected = bench.bytes_of("whole")
    warm, started = bench.start("warm"), time.monotonic()
    while not Path(folder / "warm/metrics.jsonl").exists():
        time.sleep(0.01)
    ready = time.monotonic() - started  # from here on, rounds are computed
    warm.process.kill()
    warm.wait()
    phases, runs, lives = collections.Counter(), 0, 0
    run = "run-0"
    while sum(phases.values()) < kills or (folder / run).exists():
        before = unfinished(folder / run), begun(folder / run)
        life, started = bench.start(run), time.monotonic()
        lives += 1
        kind = rng.random()
        wait_for_save = kind < 0.4
        # A tenth anywhere in a life, the others once rounds are being computed.
        earliest = 0 if kind > 0.9 else 0.9 * ready
        after = rng.uniform(earliest, 1.1 * ready + 3)
        if wait_for_save:
            after = rng.uniform(0, 0.05)
        enough = sum(phases.values()) >= kills
        while life.process.is_alive() and not enough:
            if wait_for_save:
                new = unfinished(folder / run) - before[0]
                # One that is being removed is no save; rounds have to be computed.
                if new and begun(folder / run) > before[1]:
                    time.sleep(after)
                    life.process.kill()
            elif time.monotonic() > started + after:
                life.process.kill()
            time.sleep(0.002)
        status, output = life.wait()
        if status == -signal.SIGKILL:
            phases[met(folder / run, *before)] += 1
            continue
        assert status == 0, output
        assert bench.bytes_of(run) == expected
        shutil.rmtree(folder / run)
        runs += 1
        run = f"run-{runs}"
    print(f"\n{sum(phases.values())} kills in {lives} lives of {runs} runs: {phases}")
    assert sum(phases.values()) >= kills
