"""Real processes killed with SIGKILL, resumed, and held against an unbroken run.

`-m slow` kills a hundred times at random moments and during saves (half an hour on two
busy cores); with `-s` it tells what the kills met. `FEDJAX_REC_KILLS` is how many.
"""

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fedjax_rec.cli.config_file import load_config
from fedjax_rec.cli.resume import config_hash
from fedjax_rec.experiment.build import build
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.runs.folder import read_run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="SIGKILL is not known here"
)

CONFIG = '''
    """Small, with many saves."""
    from fedjax_rec import CohortConfig, Execution, Experiment, FedAvg, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedAvg(dim=4, server_optimizer="adam", server_lr=0.01),
            cohort=CohortConfig(sampling="uniform", size=8),
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
        folder: where.
        rounds: of the experiment.
        eval_every: of the experiment.
    """

    def __init__(self, folder, rounds, eval_every):
        self.folder = folder
        text = textwrap.dedent(CONFIG.format(rounds=rounds, eval_every=eval_every))
        (folder / "small.py").write_text(text)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FEDJAX_REC_CACHE": str(folder / "cache"),
            # Every program, so that a restart compiles nothing.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self, run, moment=""):
        """A process that begins or resumes `run`, and may die at a `moment`."""
        there = (self.folder / run / "config.json").exists()
        args = ["--resume", run] if there else ["small.py", "--output", run]
        code = (
            "import os, signal, sys\n"
            "from fedjax_rec.cli import main\n"
            "def die():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
            f"{textwrap.dedent(moment)}\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, "train", *args, "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.env,
        )

    def finish(self, run):
        """Runs to the end without a kill; returns what was printed."""
        process = self.start(run)
        shown = process.communicate()[0]
        assert process.returncode == 0, shown
        return shown

    def bytes_of(self, run):
        """What two runs of one experiment must agree on."""
        folder = self.folder / run
        config = json.loads((folder / "config.json").read_text())
        like = build(load_config(str(self.folder / "small.py"))[0]).snapshot().arrays
        checkpoints = Checkpoints(folder / "checkpoints", config_hash(config))
        found = checkpoints.restore(like)
        checkpoints.close()
        assert found is not None
        leaves = jax.tree_util.tree_leaves_with_path(found.snapshot.arrays)
        files = ("config.json", "metrics.jsonl", "result.json")
        return {
            **{name: (folder / name).read_bytes() for name in files},
            "progress": found.snapshot.progress,
            **{jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves},
        }


def test_killed_and_resumed_equals_unbroken(tmp_path):
    bench = Bench(tmp_path, rounds=6, eval_every=2)
    bench.finish("whole")
    expected = bench.bytes_of("whole")
    assert len(expected) >= 7
    for name, moment in MOMENTS.items():
        process = bench.start("killed", moment)
        shown = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, f"{name}: {shown}"
        assert not (tmp_path / "killed/result.json").exists()
        if name == "while round 4 is saved":
            names = {p.name for p in (tmp_path / "killed/checkpoints").iterdir()}
            assert names == {"2", "4.orbax-checkpoint-tmp"}
    # The last save may have been on its way when the baselines were begun.
    assert "resumed after round" in bench.finish("killed")
    assert bench.bytes_of("killed") == expected


def test_a_full_disk_ends_in_words_and_loses_nothing(tmp_path):
    pytest.importorskip("resource")
    bench = Bench(tmp_path, rounds=8, eval_every=2)
    bench.finish("whole")
    lines = (tmp_path / "whole/metrics.jsonl").read_bytes().splitlines(keepends=True)
    saved = len(b"".join(lines[:9]))  # six rounds, three evaluations
    assert saved > (tmp_path / "whole/config.json").stat().st_size  # which comes first
    full = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({saved + 20}, {saved + 20}))"
    )
    process = bench.start("full", full)
    shown = process.communicate()[0]
    assert process.returncode == 2
    assert "Traceback" not in shown
    assert "full/metrics.jsonl: cannot be written (File too large)" in shown
    assert "fedjax-rec train --resume full" in shown
    run = read_run(tmp_path / "full")
    assert run.result is None
    assert [event["round"] for event in run.events] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert "resumed after round 6" in bench.finish("full")
    assert bench.bytes_of("full") == bench.bytes_of("whole")


def unfinished(folder):
    """Saves and removals broken off, each told from a later one of its name."""
    found = set()
    for path in folder.glob("checkpoints/*"):
        if "tmp" in path.name or not (path / "seal.json").exists():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return found


def begun(folder):
    """How many lives came as far as to compute rounds."""
    timings = folder / "timings.jsonl"
    return timings.read_text().count('"start"') if timings.exists() else 0


def met(folder, unfinished_before, begun_before):
    """What a kill met, in a word."""
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
def test_a_hundred_kills(tmp_path):
    kills, seed = int(os.environ.get("FEDJAX_REC_KILLS", "100")), 0
    rng, bench = random.Random(seed), Bench(tmp_path, rounds=400, eval_every=5)
    bench.finish("whole")
    expected = bench.bytes_of("whole")
    process, started = bench.start("warm"), time.monotonic()
    while not (tmp_path / "warm/metrics.jsonl").exists():
        time.sleep(0.01)
    ready = time.monotonic() - started  # from here on, rounds are computed
    process.kill()
    process.communicate()
    found, runs, lives = collections.Counter(), 0, 0
    run = "run-0"
    while sum(found.values()) < kills or (tmp_path / run).exists():
        before = unfinished(tmp_path / run), begun(tmp_path / run)
        process, started = bench.start(run), time.monotonic()
        lives += 1
        kind = rng.random()
        wait_for_save = kind < 0.4
        # A tenth anywhere in a life, the others once rounds are being computed.
        earliest = 0 if kind > 0.9 else 0.9 * ready
        after = rng.uniform(earliest, 1.1 * ready + 3)
        if wait_for_save:
            after = rng.uniform(0, 0.05)
        enough = sum(found.values()) >= kills
        while process.poll() is None and not enough:
            if wait_for_save:
                new = unfinished(tmp_path / run) - before[0]
                # A left one that is being removed is none; rounds have to be computed.
                if new and begun(tmp_path / run) > before[1]:
                    time.sleep(after)
                    process.kill()
            elif time.monotonic() > started + after:
                process.kill()
            time.sleep(0.002)
        shown = process.communicate()[0]
        if process.returncode == -signal.SIGKILL:
            found[met(tmp_path / run, *before)] += 1
            continue
        assert process.returncode == 0, shown
        assert bench.bytes_of(run) == expected
        shutil.rmtree(tmp_path / run)
        runs += 1
        run = f"run-{runs}"
    print(f"\n{sum(found.values())} kills in {lives} lives of {runs} runs: {found}")
    assert sum(found.values()) >= kills
