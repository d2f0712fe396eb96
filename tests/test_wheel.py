"""The wheel, installed in an environment of its own and used from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


def run(command, folder, **options):
    """The output of a command without the checkout on its path."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["FEDJAX_REC_CACHE"] = str(folder.parent / "cache")
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. Building needs hatchling, which pip fetches."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    done = subprocess.run(
        [*pip, "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("no network: hatchling cannot be fetched")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts of an environment with the wheel and this one's dependencies."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    python = scripts / "python"
    run([*pip, "--python", python, "install", "--no-deps", wheel], folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A line of a .pth file is a folder: those within it, such as the one of an editable
    # install of the checkout, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_wheel_has_the_package_its_configs_and_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {Path(n).name for n in names if n.startswith("fedjax_rec/configs/")}
    assert configs == {path.name for path in (ROOT / "configs").glob("*.py")}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fedjax_rec"}
    every = {path.relative_to(ROOT) for path in (ROOT / "fedjax_rec").rglob("*.py")}
    assert {str(path) for path in every} <= set(names)


def test_its_names_load_from_the_wheel(installed, empty):
    code = (
        "import fedjax_rec as fr; [getattr(fr, name) for name in dir(fr)];"
        "print(fr.__file__, len(dir(fr)))"
    )
    path, count = run([installed / "python", "-c", code], empty).split()
    assert Path(path).is_relative_to(installed.parent)
    assert int(count) > 100


def test_a_config_trains_by_name_in_an_empty_folder(installed, empty):
    command = installed / "fedjax-rec"
    assert "quickstart, sweep_pfedrec" in run([command, "train", "--help"], empty)
    sizes = ("--data.num-users", "40", "--data.num-items", "60")
    sizes += ("--data.num-interactions", "600", "--backbone.name", "tiny")
    run([command, "train", "quickstart", *sizes, "--rounds", "1"], empty)
    (folder,) = (empty / "runs").iterdir()
    files = {path.name for path in folder.iterdir()}
    written = {"config.json", "versions.json", "metrics.jsonl", "timings.jsonl"}
    assert written | {"result.json", "report.md", "checkpoints"} <= files
    config = json.loads((folder / "config.json").read_text())
    assert (config["name"], config["rounds"]) == ("quickstart", 1)
    assert json.loads((folder / "result.json").read_text())["metrics"]["test"]
    assert {path.name for path in empty.iterdir()} == {"runs"}
