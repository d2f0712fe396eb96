"""Which module may import which, read from the source."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "fedjax_rec"
SOURCES = sorted(ROOT.rglob("*.py"))

LAYERS = {
    "core": 0,
    "storage": 0,
    "data": 1,
    "backbones": 1,
    "models": 1,
    "clients": 1,
    "codecs": 1,
    "privacy": 1,
    "attacks": 1,
    "aggregators": 1,
    "evaluation": 1,
    "profiling": 1,
    "algorithms": 2,
    "wrappers": 2,
    "contrib": 2,
    "fleet": 3,
    "simulation": 3,
    "runs": 4,
    "experiment": 5,
    "transfer": 6,
    "sweep": 6,
    "report": 6,
    "testing": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}

# Heavy or replaceable packages, and the only places that may import them.
CONFINED = {
    "flax": ("backbones/", "models/"),
    "safetensors": ("backbones/", "runs/model.py"),
    "tokenizers": ("backbones/",),
    "huggingface_hub": ("backbones/",),
    "orbax": ("runs/checkpoint.py",),
    "tensorflow_datasets": ("data/",),
    "matplotlib": ("report/",),
    "pandas": ("report/",),
    "tensorboardX": ("runs/tracking/tensorboard_tracker.py",),
    "wandb": ("runs/tracking/wandb_tracker.py",),
    "tensorflow": (),
    "torch": (),
    "ray": ("sweep/fan_out.py",),
    "optuna": ("sweep/choose.py",),
}


def parts(path: Path) -> tuple[str, str]:
    """`("data", "data/prepare.py")`: the part of the package, and the relative path."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py"), relative.as_posix()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules imported anywhere in a file, with their line."""
    package = ["fedjax_rec", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package[: len(package) - node.level + 1]
                base = ".".join([*start, base]).rstrip(".")
            # `from fedjax_rec import rows` imports a module, too.
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def runtime_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, without those for annotations."""
    tree = ast.parse(path.read_text(), str(path))
    annotations = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in annotations:
            module = node.module or ""
            for alias in node.names:
                names.add(f"{module}.{alias.name}")
                names.add(module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    modules = {module_name(other) for other in SOURCES}
    chosen = {name for name in names if name in modules}
    # `from package import module` depends on the module, not on the package's file.
    return {n for n in chosen if not any(m.startswith(f"{n}.") for m in chosen)}


def module_name(path: Path) -> str:
    """`fedjax_rec.data.prepare`."""
    relative = path.relative_to(ROOT.parent).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def complaints(path: Path) -> list[str]:
    """What a file imports that its layer must not."""
    own, relative = parts(path)
    wrong = []
    for name, line in imports(path):
        if not name.startswith("fedjax_rec."):
            continue
        other = name.split(".")[1]
        if other not in LAYERS:  # a name of the package itself, such as __version__
            if LAYERS[own] < 4:
                wrong.append(f"{relative}:{line} imports {name} from the top")
            continue
        upward = LAYERS[other] > LAYERS[own]
        sideways = LAYERS[other] == LAYERS[own] < 4 and other != own
        if upward or sideways:
            wrong.append(f"{relative}:{line} imports {name}")
    return wrong


def test_every_part_of_the_package_has_a_layer():
    found = {parts(path)[0] for path in SOURCES}
    assert not found - LAYERS.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: parts(path)[1])
def test_imports_go_down(path):
    assert not complaints(path)


def test_there_is_no_cycle():
    graph = {module_name(path): runtime_imports(path) for path in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", CONFINED)
def test_confined_packages_stay_where_they_belong(package):
    found = {
        parts(path)[1]
        for path in SOURCES
        for name, _ in imports(path)
        if name.split(".")[0] == package
    }
    assert not [f for f in found if not f.startswith(CONFINED[package] or ("-",))]


def test_an_upward_and_a_sideways_import_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "bad.py"
    file.write_text(
        "from fedjax_rec.simulation import round\n"
        "from fedjax_rec import codecs, core\n"
        "from ..evaluation import metrics\n"
        "def late():\n    import fedjax_rec.cli\n"
    )
    assert [c.split()[0] for c in complaints(file)] == [
        f"data/bad.py:{line}" for line in (1, 2, 3, 5)
    ]


def test_importing_the_package_loads_nothing_heavy():
    """The import is quick because of what it leaves out, however slow the machine."""
    heavy = (
        "tensorflow_datasets", "matplotlib", "pandas", "orbax", "flax", "optax",
        "tokenizers", "safetensors",
    )  # fmt: skip
    loaded = run_python(
        f"import sys, fedjax_rec; print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert loaded == "[]"


def test_the_command_line_explains_itself_without_jax():
    loaded = run_python(
        "import sys; from fedjax_rec.cli import main; main(['--help']); "
        "print([m for m in ('jax', 'rich') if m in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
    )
    return done.stdout.strip()
