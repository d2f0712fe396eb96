"""Pages of the documentation: their code runs, and their links lead somewhere."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]
PAGES += sorted(ROOT.glob("docs/**/*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def test_the_system_of_the_page_is_that_of_the_example():
    (block,) = BLOCK.findall((ROOT / "docs/extending.md").read_text())
    example = (ROOT / "examples/fedrap.py").read_text()
    code = {line.partition("  #")[0].strip() for line in example.splitlines()}
    for line in block.splitlines():
        assert line.partition("  #")[0].strip() in code


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
    named = re.findall(
        r"`((?:tests|configs|benchmarks|docs|scripts|examples)/[\w./-]+)`", text
    )
    for name in named:
        assert "NAME" in name or (ROOT / name).exists(), name
    rooms = "|".join(p.name for p in (ROOT / "fedjax_rec").iterdir() if p.is_dir())
    for name in re.findall(rf"`(?:fedjax_rec/)?((?:{rooms})/[\w/]+\.\w+)`", text):
        assert "NAME" in name or (ROOT / "fedjax_rec" / name).exists(), name
