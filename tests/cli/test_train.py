"""`fedjax-rec train`: a folder, a table, and what is refused."""

import json

import pytest

from fedjax_rec.cli import main
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.training import train
from fedjax_rec.experiment import own_module
from fedjax_rec.runs.folder import read_run
from fedjax_rec.simulation.simulation import Simulation


def test_train_writes_a_folder_and_prints_a_table(folder, write, fails, capsys):
    config = write()
    assert main(["train", config, "--seed", "3", "--output", "out"]) == 0
    output = capsys.readouterr()
    for text in ("FedMF", "popularity", "random", "draw count", "Protocol (clean)"):
        assert text in output.out
    assert "compiling" in output.err
    out = folder / "out"
    result = json.loads((out / "result.json").read_text())
    assert {"metrics", "baselines", "protocol", "rounds"} <= result.keys()
    assert result["metrics"].keys() == {"val", "test"}
    assert result["baselines"].keys() == {"popularity", "random", "draw_count"}
    assert result["rounds"] == 2
    events = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("round") == 2
    evaluations = [e for e in events if e["event"] == "evaluation"]
    best = max(evaluations, key=lambda e: e["val"]["ndcg@10"])
    assert result["selected"] == best["round"]
    assert result["metrics"] == {part: best[part] for part in ("val", "test")}
    assert json.loads((out / "config.json").read_text())["seed"] == 3
    assert "jax" in json.loads((out / "versions.json").read_text())
    assert "popularity" in (out / "report.md").read_text()
    assert (out / "curves.png").exists()

    # The same config again, and another one: neither touches the files.
    before = (out / "result.json").read_bytes()
    text = fails("train", config, "--seed", "3", "--output", "out")
    assert "--overwrite" in text
    text = fails("train", config, "--seed", "4", "--output", "out")
    assert "seed: 3 there, 4 now" in text
    assert (out / "result.json").read_bytes() == before


FM = '''
    """Texts."""
    from fedjax_rec import BackboneConfig, Experiment, FedFM, LoRA, SyntheticData

    def get_config():
        return Experiment(
            name="texts",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedFM(dim=4, adapter=LoRA(rank=2), batch_size=999),
            backbone=BackboneConfig(),
            rounds=1,
            eval_every=1,
        )
'''


def test_train_shows_the_path_of_a_backbone_and_why(folder, write, fails, shows):
    config = write(FM, "texts.py")
    options = ["--backbone.name", "tiny", "--execution.max-buckets", "1"]
    output = shows("train", config, *options, "--output", "out")
    assert "path suffix: lora in the last 1 of 2 layers; " in output
    assert "items are encoded once a round for all clients (40 texts for" in output
    assert "exact, since each client takes one step of plain SGD" in output
    facts = json.loads((folder / "out/result.json").read_text())["backbone"]
    assert facts["message_bits"]["lora_a"] == 32 * 128
    assert facts["name"] == "tiny"
    assert not facts["stands_in"]
    assert (facts["path"], facts["once"], facts["texts"]) == ("suffix", True, 40)
    assert (facts["layers"], facts["width"], facts["adapter_layers"]) == (2, 32, 1)
    # Two maps of one layer, A and B each of 32 times 2.
    assert facts["adapter_parameters"] == 256
    assert facts["adapter_bits"] == 32 * 256
    assert facts["fingerprint"]
    assert list((folder / "cache" / "prefix").iterdir())
    for args, expected in (
        (["--algorithm.adapter.layers", "3"], "layers=3: tiny has 2 layers"),
        (["--algorithm.dim", "33"], "dim=33: expected at most 32"),
        (["--algorithm.personal", "haed"], "unknown groups: haed; expected some of"),
        (
            ["--execution.encode", "once", "--algorithm.training.epochs", "2"],
            "is not exact: clients take several steps",
        ),
        (["--protocol.candidates", "cold"], "cold_items"),
    ):
        assert expected in fails("train", config, *options, *args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("--protocol.negative-pool not_interacted", "paper_compat()"),
        ("--data.num-interactions 99999", "distinct pairs"),
        ("--data files", "Pass --data.dir DIR"),
        ("--cohort uniform --cohort.size 99", "1 to 24 clients"),
        ("--split leave_last", "--protocol.selection last"),
        ("--output small.py", "is a file"),
        ("--wrapper scaffold --algorithm.dim 0", "dim must be at least 1"),
    ],
)
def test_mistakes_are_shown_before_anything_runs(folder, write, fails, args, expected):
    assert expected in fails("train", write(), *args.split())
    assert not (folder / "runs").exists()


def test_a_crash_leaves_a_readable_folder(folder, write, monkeypatch):
    def crash(self, listen, *_):
        listen({"event": "round", "round": 1, "seconds": 0.1, "loss": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr(Simulation, "run", crash)
    assert main(["train", write(), "--output", "out"]) == 130
    run = read_run(folder / "out")
    assert run.result is None
    assert len(run.events) == 1


OWN = '''
    """An algorithm and data of one's own."""
    from __future__ import annotations

    import dataclasses

    from fedjax_rec import Experiment, FedMF, Scaffold, SyntheticData

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halved(FedMF):
        """FedMF with smaller steps.

        Attributes:
            factor: divides the learning rate.
        """

        factor: float = 2.0

        def build(self, context):
            rate = self.client_lr / self.factor
            return dataclasses.replace(self, client_lr=rate, factor=1.0)._inner(context)

        def _inner(self, context):
            return FedMF.build(self, context)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Doubled:
        half: int = 12

        def origin(self, progress=False):
            return repr(self)

        def load(self, progress=False):
            users = 2 * self.half
            data = SyntheticData(num_users=users, num_items=40, num_interactions=300)
            return data.load()

    def get_config():
        return Experiment(
            name="own",
            data=Doubled(),
            algorithm=Halved(dim=4, feedback="explicit", client_lr=0.01),
            rounds=1,
            eval_every=1,
        )
'''


def test_classes_of_ones_own_take_flags_and_resume(
    folder, write, fails, shows, monkeypatch
):
    config = write(OWN, "own.py")
    flags = ["--algorithm.factor", "4", "--data.half", "13", "--output", "out"]
    flags += ["--execution.max-buckets", "1"]
    assert "26 users" in shows("train", config, *flags)
    stored = json.loads((folder / "out/config.json").read_text())
    assert stored["algorithm"]["type"] == "Halved"
    assert stored["algorithm"]["factor"] == 4
    text = shows("train", config, "--help", "algorithm")
    assert "--algorithm Halved FedMF with smaller steps." in text
    assert "--algorithm.factor 2 divides the learning rate." in text
    # The run knows its file; if that has moved, it has to be named.
    assert "out is finished" in shows("train", "--resume", "out")
    (folder / config).rename(folder / "moved.py")
    monkeypatch.setattr(own_module, "_PREFIX", "other_")  # as in a new process
    text = fails("train", "--resume", "out")
    assert "own.py defined, and this file is gone" in text
    assert "fedjax-rec train CONFIG --resume out" in text
    (folder / "moved.py").rename(folder / config)
    assert "out is finished" in shows("train", config, "--resume", "out")
    text = fails("train", config, "--resume", "out", "--algorithm.factor", "3")
    assert "algorithm.factor: 4.0 there, 3.0 now" in text
    text = shows("train", config, "--resume", "out", "--rounds", "2")
    assert "26 users" in text
    assert "resumed after round 1" in text


def test_train_from_python(folder, write, monkeypatch):
    experiment, _ = load_config(write())
    results = []
    monkeypatch.setattr(
        Simulation, "run", lambda self, *args: results.append(1) or _stop()
    )
    with pytest.raises(KeyboardInterrupt):
        train(experiment, Train(quiet=True))
    assert results
    assert [p.name for p in (folder / "runs").iterdir()] == ["small-fedmf-synthetic-s0"]


def _stop():
    raise KeyboardInterrupt
