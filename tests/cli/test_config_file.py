"""Config files: what they return, and how their mistakes are shown."""

from pathlib import Path

import pytest

from fedjax_rec import CsvData, FileData, SyntheticData
from fedjax_rec.cli.config_file import (
    check_data,
    in_flags,
    load_config,
    load_configs,
    named_config,
)
from fedjax_rec.cli.config_names import shipped
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep.space import parse_grid

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_config_among_arguments():
    assert named_config(["--rounds", "3", "a.py", "-h"]) == (
        "a.py",
        ["--rounds", "3", "-h"],
    )
    assert named_config(["small", "--quiet"]) == ("small", ["--quiet"])
    assert named_config(["small", "--x", "b.py"]) == ("small", ["--x", "b.py"])
    plugin = ["--resume", "runs/x", "--plugin", "kinds.py"]
    assert named_config(plugin) == ("", plugin)
    assert named_config(["--quiet"]) == ("", ["--quiet"])
    assert named_config([]) == ("", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", "defines no get_config()"),
        ("def get_config():\n    return 5", "returned a int"),
        ("def get_config():\n    return []", "returned a list"),
        ("import numpyy", "small.py, line 2: ModuleNotFoundError"),
        ("def get_config(:", "small.py, line 2: SyntaxError"),
        ("def get_config():\n    return missing", "small.py, line 3: NameError"),
        (
            "from fedjax_rec import CodecConfig",
            "small.py, line 2: ImportError: CodecConfig of version 0.1 is now a class",
        ),
        ("from fedjax_rec import FedAgv", "Did you mean FedAvg"),
        (
            "from fedjax_rec import FedAvg\nFedAvg(client_lr=1.0)",
            "small.py, line 3: TypeError: FedAvg.__init__() got an unexpected keyword "
            "argument 'client_lr'. As a flag it is now "
            "--algorithm.client-optimizer.lr",
        ),
        (
            "from fedjax_rec import Uniform\nUniform(sise=3)",
            "unexpected keyword argument 'sise'. Did you mean size?",
        ),
        (
            "from fedjax_rec import FedAdam\nFedAdam(xyz=3)",
            "unexpected keyword argument 'xyz'. It has lr, momentum, tau",
        ),
        (
            "from fedjax_rec import Experiment\nExperiment(name='x', round=3)",
            "unexpected keyword argument 'round'. Did you mean rounds",
        ),
        (
            "from fedjax_rec import Experiment\nExperiment(name='x', codec='sign')",
            "small.py, line 3: TypeError: codec='sign': expected a dataclass",
        ),
    ],
)
def test_mistakes_are_shown_with_their_line(write, fails, text, expected):
    assert expected in fails("train", write(f'"""Doc."""\n{text}\n'))


def test_a_misspelt_config_names_the_nearest(write, fails, folder):
    write()
    assert "no config smal.py. Did you mean small.py?" in fails("train", "smal.py")
    assert "Did you mean small.py?" in fails("train", "small")
    hint = fails("train", "xyzzy.py")
    assert "Expected the path of a Python file, or one of the names avail" in hint
    assert "quickstart, sweep_pfedrec" in hint
    assert "is no Python file" in fails("train", write("", "small.txt"))


def test_a_name_is_a_config_of_the_package_and_a_path_a_file(write, fails):
    experiment, doc = load_config("quickstart")
    assert (experiment.name, experiment.rounds) == ("quickstart", 9)
    assert doc.startswith("LoRA on MiniLM")
    assert shipped()["quickstart"].read_text().startswith(f'"""{doc[:20]}')
    assert load_configs("front_ml100k").grid
    message = fails("train", "configs/quickstart.py")
    assert "no config configs/quickstart.py. Did you mean quickstart?" in message
    write(name="quickstart.py")
    assert load_config("quickstart")[0].name == "quickstart"
    assert load_config("quickstart.py")[0].name == "small"
    write(name="own.py")
    with pytest.raises(UserError, match=r"no config own\. Did you mean own\.py\?"):
        load_config("own")


SEVERAL = '''
    """Several."""
    from fedjax_rec import Experiment

    def get_config():
        return {names}
'''


def test_several_experiments_are_for_sweeps(write):
    names = "Experiment(name='a'), Experiment(name='b')"
    path = write(SEVERAL.format(names=names))
    assert [e.name for e in load_configs(path).experiments] == ["a", "b"]
    with pytest.raises(UserError, match=r"has 2 experiments \(a, b\).*rec sweep sma"):
        load_config(path)
    path = write(SEVERAL.format(names=names.replace("b", "a")))
    with pytest.raises(UserError, match="expected distinct names"):
        load_configs(path)


def test_messages_speak_of_flags():
    error = ValueError("Pass dir= or download=True; protocol.selection='last'")
    assert in_flags(error) == (
        "Pass --data.dir DIR or --data.download; --protocol.selection last"
    )
    assert in_flags(ValueError("Pass another cache="), "--") == "Pass another --cache"


def test_data_without_files_are_refused(folder, monkeypatch):
    with pytest.raises(
        UserError, match=r"movielens-1m: no folder given. Pass --data\."
    ):
        check_data(FileData(source="movielens-1m"))
    with pytest.raises(UserError, match=r"or set FEDJAX_REC_DATA to a folder that co"):
        check_data(FileData(source="movielens-1m"))
    (folder / "sales.csv").write_text("user,item\n")
    message = r"sale.csv: found no folder, zip or file.*Did you mean .*sales.csv\?"
    with pytest.raises(UserError, match=message):
        check_data(CsvData(dir=str(folder / "sale.csv")), "--")
    check_data(CsvData(dir="sales.csv"))
    check_data(SyntheticData())
    check_data(FileData(download=True))
    check_data(object())
    monkeypatch.setenv("FEDJAX_REC_DATA", str(folder))
    with pytest.raises(UserError, match="put ml-1m into FEDJAX_REC_DATA="):
        check_data(FileData(source="movielens-1m"))
    (folder / "ml-1m").mkdir()
    check_data(FileData(source="movielens-1m"))
