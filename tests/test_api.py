"""docs/api.md lists the public names."""

import re
import runpy
from pathlib import Path

import fedjax_rec

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "api.py"))


def test_the_page_is_up_to_date():
    hint = "docs/api.md is not up to date. Write it by: python scripts/api.py"
    assert SCRIPT["PAGE"].read_text(encoding="utf-8") == SCRIPT["page"](), hint


def test_every_public_name_has_a_summary():
    entries = re.findall(r"^- `(\w+)`[^:]*: (.*)", SCRIPT["page"](), re.MULTILINE)
    public = {name for name in dir(fedjax_rec) if not name.startswith("_")}
    assert sorted(name for name, _ in entries) == sorted(public)
    made_by_dataclass = [name for name, text in entries if text.startswith(f"{name}(")]
    assert all(text for _, text in entries)
    assert not made_by_dataclass
