"""Changes the package in one place at a time, and counts the changes no test notices.

    python scripts/mutate.py --rooms algorithms clients --count 40 --out mutation.json
    python scripts/mutate.py --list --rooms models --count 10
    python scripts/mutate.py --only models/by_id.py:123:8:call

A mutant is a copy of the source with one expression changed. Its tests are those that
import the module, the others of `tests/ROOM` with those of its importers, and its kinds
in `tests/test_laws.py`, in this order and until one fails. All of it happens in a
temporary copy of the working tree.

The output is a JSON file with a verdict for each mutant: `killed`, `survived`,
`timeout`, or `equivalent`. The last one is written by hand, with the reason as `why`; a
later run with the same file keeps all verdicts but `survived` and `timeout`, which it
tries again with `--again`. The share is that of the killed among all but the
equivalent; a mutant that crashes is killed, too, and counted apart.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import functools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants import Mutant, sample

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fedjax_rec"
ROOMS = ("algorithms", "clients", "models", "codecs", "aggregators", "evaluation")
USERS = (*ROOMS, "wrappers", "contrib")
"""Folders whose tests also count for what they import."""
SLOW = {"cli", "sweep", "report", "runs", "transfer"}
"""Folders of tests that start whole runs, and assert few numbers."""
_OPTIONS = ("-x", "-q", "-n", "0", "--no-header", "-p", "no:cacheprovider")


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Dotted names that a file imports from the package, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.startswith(PACKAGE))


def names_of(path: Path) -> set[str]:
    """Dotted names by which others import a module or its settings."""
    classes = [n for n in ast.parse(path.read_text()).body if type(n) is ast.ClassDef]
    return {module_of(path), *(f"{PACKAGE}.{n.name}" for n in classes)}


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def tests_of(file: str) -> list[list[str]]:
    """Arguments of pytest, one list after the other, for a changed file."""
    path, tests = ROOT / PACKAGE / file, ROOT / "tests"
    room = Path(file).parts[0]
    sources = [
        p for name in USERS for p in sorted((ROOT / PACKAGE / name).rglob("*.py"))
    ]
    users = [p for p in sources if module_of(path) in imports_of(p)]
    every = [
        p
        for p in sorted(tests.rglob("test_*.py"))
        if p.parent != tests and not SLOW.intersection(p.parts)
    ]

    def naming(modules: list[Path]) -> list[Path]:
        names = set().union(*map(names_of, modules))
        return [p for p in every if names & imports_of(p)]

    mirrored = [p for p in every if p.stem == f"test_{path.stem}" and room in p.parts]
    groups = [
        [*mirrored, *naming([path])],
        [*sorted((tests / room).rglob("test_*.py")), *naming(users)],
    ]
    files: list[list[str]] = []
    for group in groups:
        new = dict.fromkeys(str(p.relative_to(ROOT)) for p in group)
        files.append([name for name in new if not any(name in f for f in files)])
    registry = (ROOT / PACKAGE / "experiment" / "registry.py").read_text()
    kinds = [
        kind
        for module in map(module_of, [path, *users])
        for kind in re.findall(
            rf'"(\w+)": "{re.escape(module.removeprefix(PACKAGE + "."))}:', registry
        )
    ]
    if kinds:
        files.append(["tests/test_laws.py", "-k", " or ".join(kinds)])
    return [group for group in files if group]


class Copy:
    """A copy of the working tree, in which mutants are tried one at a time.

    Args:
        folder: an empty folder.
        limit: seconds for a mutant.
    """

    def __init__(self, folder: Path, limit: float):
        self.root, self.limit = folder / "tree", limit
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        path = os.pathsep.join(filter(None, [str(self.root), os.getenv("PYTHONPATH")]))
        data = os.getenv("FEDJAX_REC_DATA", str(ROOT.parent / "shared" / "data"))
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "FEDJAX_REC_DATA": data,
            "COLUMNS": "400",  # of the summary, which pytest would cut
        }

    def pytest(self, arguments: list[str], seconds: float) -> tuple[int | None, str]:
        """The exit code, or `None` after that time; and the end of the output."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_OPTIONS, *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(seconds, 1))
            return process.returncode, output[-2000:]
        except subprocess.TimeoutExpired:
            return None, ""
        finally:  # also commands that a test started
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def verdict(self, mutant: Mutant) -> dict:
        """Tries a mutant."""
        path, started = self.root / PACKAGE / mutant.file, time.monotonic()
        source = path.read_bytes()
        result = {"verdict": "survived"}
        try:
            path.write_bytes(mutant.applied(source))
            for group in tests_of(mutant.file):
                left = self.limit - (time.monotonic() - started)
                code, output = self.pytest(group, left)
                if code is None:
                    result = {"verdict": "timeout"}
                    break
                if code not in (0, 5):  # 5: no test was selected
                    result = {"verdict": "killed", **_reason(output)}
                    break
        finally:
            path.write_bytes(source)
        return {**result, "seconds": round(time.monotonic() - started, 1)}


def _reason(output: str) -> dict:
    """The test that failed, and whether by an assertion or a crash."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)(?: - (.*))?", output, re.MULTILINE)
    test, error = found.groups("") if found else ("", output[-200:])
    asserted = re.match(r"assert\b|AssertionError|Failed:", error)
    return {"by": test, "error": error, "asserted": asserted is not None}


def _check_unchanged(copy: Copy, files: set[str]) -> None:
    """Ends the program if the tests fail without a mutant."""
    groups = dict.fromkeys(tuple(g) for f in sorted(files) for g in tests_of(f))
    plain = dict.fromkeys(name for g in groups if "-k" not in g for name in g)
    for group in ([*plain], *(list(g) for g in groups if "-k" in g)):
        code, output = copy.pytest(group, 3600) if group else (0, "")
        if code not in (0, 5):
            sys.exit(f"the tests fail without a mutant:\n{output}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rooms", nargs="+", default=ROOMS, help="folders")
    parser.add_argument("--count", type=int, default=50, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--only", nargs="+", default=(), help="names of mutants")
    parser.add_argument("--limit", type=float, default=600, help="seconds per mutant")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once")
    parser.add_argument("--again", action="store_true", help="retry survivors")
    parser.add_argument("--unchecked", action="store_true", help="no run unchanged")
    parser.add_argument("--list", action="store_true", help="print and end")
    parser.add_argument("--out", type=Path, default=Path("mutation.json"))
    return parser.parse_args()


def main() -> None:
    """Runs the command line."""
    options = _parsed()
    rooms = sorted({n.split("/")[0] for n in options.only}) or list(options.rooms)
    count = -1 if options.only else options.count
    mutants = sample(ROOT / PACKAGE, rooms, count, options.seed)
    if options.only:
        mutants = [m for m in mutants if m.name in options.only]
    if options.list:
        for m in mutants:
            print(f"{m.name}\n    {m.before}\n    {m.after}")
        return
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    retried = ("survived", "timeout") if options.again or options.only else ()
    left = [
        m
        for m in mutants
        if m.name not in results or results[m.name]["verdict"] in retried
    ]
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for job in range(options.jobs):
            copies.put(Copy(Path(folder, str(job)), options.limit))
        if left and not options.unchecked:
            _check_unchanged(copies.queue[0], {m.file for m in left})

        def run(mutant: Mutant) -> dict:
            copy = copies.get()
            try:
                return copy.verdict(mutant)
            finally:
                copies.put(copy)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            tasks = {pool.submit(run, m): m for m in left}
            for task in concurrent.futures.as_completed(tasks):
                mutant, result = tasks[task], task.result()
                text = {"before": mutant.before, "after": mutant.after}
                results[mutant.name] = {**result, **text}
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{result['verdict']:9} {mutant.name} {result['seconds']} s")
    _print_shares(results)


def _print_shares(results: dict[str, dict]) -> None:
    counts = dict.fromkeys(("killed", "survived", "timeout", "equivalent"), 0)
    for result in results.values():
        counts[result["verdict"]] += 1
    tried = max(sum(counts.values()) - counts["equivalent"], 1)
    asserted = sum(result.get("asserted", False) for result in results.values())
    print(
        f"{counts}: {counts['killed'] / tried:.0%} killed, "
        f"{asserted / tried:.0%} by an assertion and the others by a crash"
    )


if __name__ == "__main__":
    main()
