"""Points in processes of their own: one that is killed fails by itself."""

import os
import signal
import textwrap

import pytest

from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.sweep import fan_out
from fedjax_rec.sweep.fan_out import alone, run_in_processes
from fedjax_rec.sweep.store import Point

OWN = '''
    import dataclasses, os, signal
    from fedjax_rec import Experiment, FedMF, SyntheticData

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(FedMF):
        """Kills its process."""
        deadly: int = 0

        def build(self, context):
            if self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().build(context)

    def experiment(deadly, seed):
        return Experiment(
            name="own",
            data=SyntheticData(num_users=8, num_items=20, num_interactions=60),
            algorithm=Own(dim=2, deadly=deadly),
            rounds=1,
            seed=seed,
        )
'''


def named(*names):
    return [Point(name=name, experiment=None) for name in names]  # pyright: ignore


def test_points_of_a_dead_process_run_again_each_alone():
    done = []
    tasks = alone(named("a", "b", "c"), {"a"}, "killed", lambda *x: done.append(x))
    assert [[p.name for p in task] for task in tasks] == [["b"], ["c"]]
    assert done == []
    assert alone(named("b"), (), "killed", lambda *x: done.append(x)) == []
    assert done == [("b", "its process ended: killed")]


class Silent:
    """A worker without a process: messages that it sends, and its end."""

    def __init__(self, points, messages):
        self.points, self.finished, self.messages = points, set(), list(messages)
        self.outcomes, self.process, self.closed = self, self, False

    def recv(self):
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)

    def close(self):
        self.closed = True

    def join(self): ...

    def ending(self):
        return "killed by SIGKILL"


def test_a_message_is_an_outcome_an_end_or_a_full_disk():
    done = []
    worker = Silent(named("a", "b"), [("a", ""), None])
    for _ in range(2):
        assert fan_out._receive(worker, lambda *x: done.append(x), False) == []  # pyright: ignore
    assert done == [("a", "")]
    assert worker.closed
    worker = Silent(named("a", "b"), [("a", "")])
    fan_out._receive(worker, lambda *x: None, False)  # pyright: ignore
    (task,) = fan_out._receive(worker, lambda *x: None, False)  # pyright: ignore
    assert [point.name for point in task] == ["b"]
    full = Silent(named("a"), ["out: cannot be written (no room)"])
    with pytest.raises(DiskFull, match="no room"):
        fan_out._receive(full, lambda *x: None, False)  # pyright: ignore


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is not known here")
def test_a_killed_process_fails_its_point_and_own_classes_run(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "cpu")
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    module = load_module(tmp_path / "own.py")
    points = [
        Point(name=f"{deadly}-{seed}", experiment=module.experiment(deadly, seed))
        for deadly in (0, 1)
        for seed in (0, 1)
    ]
    done = {}
    run_in_processes(points, tmp_path / "out", done.__setitem__, 1 << 30, jobs=2)
    assert done == {
        "0-0": "",
        "0-1": "",
        **dict.fromkeys(
            ("1-0", "1-1"),
            "its process ended: killed by SIGKILL, perhaps for lack of memory",
        ),
    }
    results = sorted(path.parent.name for path in (tmp_path / "out").glob("*/result.*"))
    assert results == ["0-0", "0-1"]
