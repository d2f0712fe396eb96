import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedjax_rec.cli import main
from fedjax_rec.cli.config_file import load_config, load_configs, switch
from fedjax_rec.cli.train import run_name
from fedjax_rec.sweep.space import parse_grid

ROOT = Path(__file__).resolve().parents[2]

SMALL = """
    from fedjax_rec import CohortConfig, Experiment, FedMF, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedMF(dim=4),
            rounds=2,
            eval_every=1,
        )
"""


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Runs and caches stay in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))


def write(tmp_path, text=SMALL, name="small.py"):
    path = tmp_path / name
    path.write_text(f'"""What to expect."""\n{textwrap.dedent(text)}')
    return str(path)


def fails(capsys, *args):
    """The message of a command that has to fail, without a traceback, with status 2."""
    try:
        status = main(list(args))
    except SystemExit as stopped:  # tyro ends the process itself
        status = stopped.code
    shown = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in shown.err
    return " ".join((shown.out + shown.err).replace("│", " ").split())


def test_train_writes_a_folder_and_prints_a_table(tmp_path, capsys):
    config = write(tmp_path)
    assert main(["train", config, "--seed", "3", "--output", "out"]) == 0
    shown = capsys.readouterr()
    for text in ("FedMF", "popularity", "random", "draw count", "Protocol (clean)"):
        assert text in shown.out
    assert "compiling" in shown.err
    folder = tmp_path / "out"
    result = json.loads((folder / "result.json").read_text())
    assert {"metrics", "baselines", "protocol", "rounds"} <= result.keys()
    assert result["metrics"].keys() == {"val", "test"}
    assert 0 <= result["metrics"]["test"]["hr@10"] <= 1
    assert result["baselines"].keys() == {"popularity", "random", "draw_count"}
    assert result["rounds"] == 2
    events = [
        json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert [e["event"] for e in events].count("round") == 2
    assert json.loads((folder / "config.json").read_text())["seed"] == 3
    assert "jax" in json.loads((folder / "versions.json").read_text())
    assert "popularity" in (folder / "report.md").read_text()
    assert (folder / "curves.png").exists()

    # The same config again, and another one: neither touches what is there.
    before = (folder / "result.json").read_bytes()
    text = fails(capsys, "train", config, "--seed", "3", "--output", "out")
    assert "--overwrite" in text
    text = fails(capsys, "train", config, "--seed", "4", "--output", "out")
    assert "seed: 3 there, 4 now" in text
    assert (folder / "result.json").read_bytes() == before


FM = """
    from fedjax_rec import BackboneConfig, Experiment, FedFM, SyntheticData

    def get_config():
        return Experiment(
            name="texts",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedFM(dim=4, rank=2, batch_size=999),
            backbone=BackboneConfig(),
            rounds=1,
            eval_every=1,
        )
"""


def test_train_tells_which_path_a_backbone_takes_and_why(tmp_path, capsys):
    config = write(tmp_path, FM, "texts.py")
    options = ["--backbone.name", "tiny", "--execution.max-buckets", "1"]
    assert main(["train", config, *options, "--output", "out"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "path suffix: lora in the last 1 of 2 layers; what the 1 before" in shown
    assert "items are encoded once a round for all clients (40 texts for" in shown
    assert "exact, since each client takes one step of plain SGD" in shown
    facts = json.loads((tmp_path / "out/result.json").read_text())["backbone"]
    assert facts["name"] == "tiny"
    assert not facts["stands_in"]
    assert (facts["path"], facts["once"], facts["texts"]) == ("suffix", True, 40)
    assert (facts["layers"], facts["width"], facts["adapter_layers"]) == (2, 32, 1)
    # Two maps of one layer, A and B each of 32 times 2.
    assert facts["adapter_parameters"] == 256
    assert facts["adapter_bits"] == 32 * 256
    assert facts["fingerprint"]
    assert list((tmp_path / "cache" / "prefix").iterdir())
    for args, expected in (
        (["--algorithm.layers", "3"], "algorithm.layers=3: tiny has 2 layers"),
        (["--algorithm.dim", "33"], "algorithm.dim=33: expected at most 32"),
        (["--algorithm.personal", "haed"], "personal names haed; expected some of"),
        (
            ["--execution.encode", "once", "--algorithm.local-epochs", "2"],
            "is not exact: clients take more than one step",
        ),
        (["--protocol.candidates", "cold"], "needs split.kind='cold_items'"),
    ):
        assert expected in fails(capsys, "train", config, *options, *args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--algorithm.cleint-lr", "0.3"], "--algorithm.client-lr FLOAT"),
        (["--algorithm.client-lr", "fast"], "could not convert string to float"),
        (["--protocol.tis", "random"], "--protocol.ties"),
        (["--split.kind", "leave_two_out"], "leave_one_out"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--algorithm.client-lr", "nan"], "algorithm.client_lr must be finite"),
        (["--algorithm", "FedNFC"], "Did you mean FedNCF?"),
        (["--algorithm"], "expected one of FedAvg"),
        (["--protocol.negative-pool", "not_interacted"], "paper_compat()"),
        (["--data.num-interactions", "99999"], "distinct pairs"),
        (["--data", "FileData"], "Pass --data.dir DIR"),
        (["--cohort.sampling", "uniform", "--cohort.size", "99"], "1 to 24 clients"),
        (["--split.kind", "leave_last"], "--protocol.selection last"),
        (["--output", "small.py"], "is a file"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, capsys, args, expected):
    assert expected in fails(capsys, "train", write(tmp_path), *args)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", "defines no get_config()"),
        ("def get_config():\n    return 5", "returned a int"),
        ("import numpyy", "small.py, line 2: ModuleNotFoundError"),
        ("def get_config(:", "small.py, line 2: SyntaxError"),
        ("def get_config():\n    return missing", "small.py, line 3: NameError"),
    ],
)
def test_broken_config_files_are_told_with_their_line(tmp_path, capsys, text, expected):
    assert expected in fails(capsys, "train", write(tmp_path, text))


def test_a_misspelt_config_names_the_nearest(tmp_path, capsys):
    write(tmp_path)
    assert "Did you mean small.py" in fails(capsys, "train", "smal.py")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "usage: fedjax-rec COMMAND"),
        (["trian"], "Did you mean: fedjax-rec train"),
        (["configs/x.py"], "Did you mean: fedjax-rec train configs/x.py"),
        (["train"], "usage: fedjax-rec train CONFIG"),
        (["data"], "usage: fedjax-rec data prepare"),
        (["data", "look"], "expected prepare or describe"),
        (["data", "prepare", "movielens-10k"], "Did you mean movielens-100k?"),
        (["data", "prepare", "movielens-100k"], "Pass --dir DIR"),
        (["data", "describe", "synthetic", "--plot", "no/x.png"], "no is no folder"),
        (["report"], "no run given"),
    ],
)
def test_a_wrong_call_says_what_was_expected(capsys, args, expected):
    assert expected in fails(capsys, *args)


@pytest.mark.parametrize(
    "args", [["--help"], ["train", "--help"], ["data", "--help"], ["report", "--help"]]
)
def test_help_shows_examples(capsys, args):
    try:
        status = main(args)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 0
    # The usage, and an example at least.
    assert capsys.readouterr().out.count("fedjax-rec ") >= 2


def test_help_of_a_config_lists_every_field_with_its_value(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", write(tmp_path), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "What to expect.",
        "--algorithm.client-lr FLOAT",
        "--data.num-users INT",
        "(default: 24)",
        "--protocol.cutoffs",
        "--output",
        "--algorithm {FedAvg,FedFM,FedMF,FedNCF,PFedRec}",
    ):
        assert text in shown


def test_parts_are_exchanged_by_name(tmp_path):
    experiment, doc = load_config(write(tmp_path))
    assert doc == "What to expect."
    changed, rest = switch(
        experiment, ["--seed", "1", "--algorithm=fedncf", "--data", "CsvData"]
    )
    assert type(changed.algorithm).__name__ == "FedNCF"
    assert type(changed.data).__name__ == "CsvData"
    assert rest == ["--seed", "1"]
    # Naming the kind that is there already keeps its values.
    assert switch(experiment, ["--algorithm", "FedMF"])[0] == experiment


def test_run_names_tell_what_ran(tmp_path):
    experiment, _ = load_config(write(tmp_path))
    assert run_name(experiment) == "small-fedmf-synthetic-s0"


def test_data_prepare_shows_counts_and_limits(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("user,item\n" + "".join(f"u{i % 5},i{i}\n" for i in range(20)))
    assert main(["data", "prepare", "csv", "--dir", str(table)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "users 5 items 20 interactions 20" in shown
    assert main(["data", "prepare", "synthetic", "--num-interactions", "3000"]) == 0
    shown = capsys.readouterr().out
    assert "3,000" in shown
    assert "Real data have these properties" in shown


def test_data_describe_takes_sources_configs_and_fields(tmp_path, capsys):
    small = ["--data.num-users", "24", "--data.num-items", "40"]
    small += ["--data.num-interactions", "300", "--partition.kind", "iid"]
    small += ["--partition.num-clients", "6", "--plot", "sizes.png"]
    assert main(["data", "describe", "synthetic", *small]) == 0
    shown = capsys.readouterr().out
    assert "Real data have what these lack" in shown
    assert (tmp_path / "sizes.png").exists()
    assert main(["data", "describe", write(tmp_path), "--partition.kind", "iid",
                 "--partition.num-clients", "6"]) == 0  # fmt: skip
    assert "iid(6" in capsys.readouterr().out


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.startswith("fedjax-rec ")


def test_a_crash_leaves_a_readable_folder(tmp_path, monkeypatch):
    from fedjax_rec.runs.folder import read_run
    from fedjax_rec.simulation.simulation import Simulation

    def run(self, listen, rest=None, rest_every=0, watch=None):
        listen({"event": "round", "round": 1, "seconds": 0.1, "loss": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr(Simulation, "run", run)
    config = write(tmp_path)
    assert main(["train", config, "--output", "out"]) == 130
    found = read_run(tmp_path / "out")
    assert found.result is None
    assert len(found.events) == 1


def test_every_config_is_an_experiment():
    configs = sorted((ROOT / "configs").glob("*.py"))
    assert len(configs) >= 8
    for path in configs:
        experiments, grid, doc = load_configs(str(path))
        first, *others = experiments
        several = bool(others)
        assert several == bool(grid)
        transfer = path.stem.startswith("transfer_")
        if not several:
            assert first.name == path.stem.removeprefix("transfer_")
        command = "transfer" if transfer else "train"
        command = "sweep" if several or path.stem.startswith("sweep_") else command
        assert f"fedjax-rec {command} configs/{path.name}" in doc
        for text in grid:
            assert parse_grid(experiments, text).values
