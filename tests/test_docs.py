"""Pages of the documentation: their code runs, and their links lead somewhere."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]
PAGES += sorted(ROOT.glob("docs/**/*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def files_in(page):
    """Code blocks that begin with a comment of a file's name, by that name."""
    blocks = BLOCK.findall((ROOT / page).read_text())
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks]
    return {name[1]: block for name, block in named if name}


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """The modules of docs/extending.md, in a folder that can be imported from."""
    files = files_in("docs/extending.md")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield [name.removesuffix(".py") for name in files]
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_own_parts_pass_their_tests(own_parts):
    checked = 0
    for name in own_parts:
        module = importlib.import_module(name)
        for check in [x for n, x in vars(module).items() if n.startswith("test_")]:
            check()
            checked += 1
    assert checked == 4


def test_own_parts_fit_into_experiments(own_parts):
    import fedjax_rec as fr

    config = importlib.import_module("my_config").get_config()
    clipped = importlib.import_module("clipped").Clipped(norm=0.1, then=fr.TopK())
    biased_mf = importlib.import_module("biased_mf").BiasedMF(dim=4)
    parts = {"codec": clipped, "algorithm": biased_mf, "wrapper": fr.Scaffold()}
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    metrics = fr.build(fr.Experiment(**{**fields, **parts})).advance(1)
    assert float(metrics["up_bytes"][0]) > 0


@every_page
def test_code_parses_and_its_imports_exist(page):
    for block in BLOCK.findall(page.read_text()):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom):
                continue
            name = node.module or ""
            if name.startswith("fedjax_rec"):
                module = importlib.import_module(name)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{name}.{alias.name}")


@every_page
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if heading:
            assert heading in headings(file), target


def headings(page):
    """Anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
        for line in lines
    }


@every_page
def test_files_that_are_named_exist(page):
    text = page.read_text()
    named = re.findall(r"`((?:tests|configs|benchmarks|docs|scripts)/[\w./-]+)`", text)
    own = set(re.findall(r"`(?:fedjax_rec|tests)/[\w/]+/(?:test_)?(\w+)\.py`", text))
    own &= {name.removesuffix(".py") for name in files_in("docs/extending.md")}
    for name in named:
        stem = Path(name).stem.removeprefix("test_")
        assert stem in own or (ROOT / name).exists(), name
    rooms = "|".join(p.name for p in (ROOT / "fedjax_rec").iterdir() if p.is_dir())
    for name in re.findall(rf"`(?:fedjax_rec/)?((?:{rooms})/[\w/]+\.\w+)`", text):
        stem = Path(name).stem
        assert stem in own or (ROOT / "fedjax_rec" / name).exists(), name
