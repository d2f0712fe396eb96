"""Hashes of source code, for the keys of caches."""

import dataclasses
import functools
import hashlib
import inspect
import pickle
import re
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def package_sources(*folders: str) -> str:
    """A hash of this package's source files.

    Args:
        *folders: folders of the package, such as `backbones`; all without any.
    """
    sources = hashlib.sha256()
    for root in [PACKAGE / folder for folder in folders] or [PACKAGE]:
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(PACKAGE)
            sources.update(f"{name}\0".encode() + path.read_bytes())
    return sources.hexdigest()


def identity(part: Any) -> str | None:
    """A hash of a part's values and of `code_identity`.

    Args:
        part: settings, such as a split.

    Returns:
        The hash, or `None` if a value cannot be stored or code has no file.
    """
    try:
        values = pickle.dumps(part)
    except Exception:  # pickle raises errors of many types
        return None
    code = code_identity(part)
    if re.search(rb" at 0x[0-9a-f]+", values) or code is None:
        return None
    return hashlib.sha256(values + code.encode()).hexdigest()


def code_identity(part: Any) -> str | None:
    """A hash of the source code outside of libraries and this package that a part uses.

    The code is as in `code_of`, and that of functions that replace some of this
    package's.

    Returns:
        The hash, or `None` if code has no file: it is typed into a shell or a notebook.
    """
    replaced = dict(_replacements())
    codes = [code_of(part), *map(code_of, replaced.values())]
    if None in codes:
        return None
    lines = [f"{n} {f.__code__.co_firstlineno}" for n, f in replaced.items()]
    return hashlib.sha256(repr([codes, lines]).encode()).hexdigest()


def own_file(cls: type) -> str | None:
    """The file of a class from outside of libraries and this package.

    Returns:
        The path; "" for a class that was typed into a shell or a notebook; `None` for a
        class of a library or of this package.
    """
    module = sys.modules.get(cls.__module__)
    name = getattr(module, "__file__", None)
    if name is None:
        return "" if cls.__module__ == "__main__" else None
    return None if _is_installed(name) else str(Path(name).resolve())


def code_of(part: Any) -> str | None:
    """A hash of the source code outside of libraries and this package that a part uses.

    It is the code of its class, of the functions and classes in its fields, and of all
    modules that theirs import.

    Returns:
        The hash, or `None` if code has no file.
    """
    files: set[Path] = set()
    try:
        for code in _code_of(part, set()):
            _add_files(code, files)
    except OSError:
        return None
    result = hashlib.sha256()
    for path in sorted(files):
        result.update(path.read_bytes())
    return result.hexdigest()


def _code_of(value: Any, seen: set[int]) -> Iterator[Any]:
    """Functions and classes of a part and of its fields."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, type | types.FunctionType):
        yield value
    elif isinstance(value, functools.partial):
        yield value.func
    elif isinstance(value, list | tuple | set | frozenset | dict):
        items = value.values() if isinstance(value, dict) else value
        for item in items:
            yield from _code_of(item, seen)
    else:
        yield type(value)
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from _code_of(getattr(value, field.name), seen)


def _replacements() -> Iterator[tuple[str, types.FunctionType]]:
    """Functions from elsewhere that replace some of this package's, and their names."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != PACKAGE.name:
            continue
        for attribute, value in list(vars(module).items()):
            members = vars(value) if isinstance(value, type) else {"": value}
            for member, content in members.items():
                for function in _functions(content):
                    if not _is_installed(function.__code__.co_filename):
                        yield f"{name}.{attribute}.{member}", function


def _add_files(code: Any, files: set[Path]) -> None:
    """Adds the file of a function or class and those of the modules it uses.

    Raises:
        OSError: there is no file.
    """
    owners = code.__mro__ if isinstance(code, type) else (code,)
    for owner in owners:
        module = sys.modules.get(owner.__module__)
        functions = [
            function
            for member in (vars(owner).values() if isinstance(owner, type) else [owner])
            for function in _functions(member)
        ]
        names = {function.__code__.co_filename for function in functions}
        if module is not sys.modules["builtins"]:
            names.add(getattr(module, "__file__", None) or "<unknown>")
        for name in names:
            _add_file(name, files)


def _functions(member: Any) -> list[types.FunctionType]:
    """The functions that a member of a class or a module stands for."""
    if isinstance(member, property):
        candidates = [member.fget, member.fset]
    else:
        candidates = [getattr(member, "__func__", getattr(member, "func", member))]
    unwrapped = [inspect.unwrap(c) if callable(c) else c for c in candidates]
    return [c for c in unwrapped if isinstance(c, types.FunctionType)]


def _add_file(name: str, files: set[Path]) -> None:
    """Adds a file and, unless it is installed, the files that its module imports."""
    if _is_installed(name):
        return
    path = Path(name).resolve()
    if path in files:
        return
    if not path.is_file():
        raise OSError(f"{name} is not a file")
    files.add(path)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or Path(file).resolve() != path:
            continue
        for value in list(vars(module).values()):
            other = value
            if not isinstance(value, types.ModuleType):
                other = sys.modules.get(getattr(value, "__module__", None) or "")
            used = getattr(other, "__file__", None)
            if used is not None:
                _add_file(used, files)


@functools.cache
def _is_installed(name: str) -> bool:
    """Whether a file belongs to Python, an installed library or this package."""
    if name.startswith("<frozen") or name == "<string>":
        return True  # Python's own modules, and methods that `dataclasses` generates
    path = Path(name).resolve()
    roots = {Path(root).resolve() for root in sysconfig.get_paths().values()}
    # An environment may see the libraries of another one, such as the system's.
    library = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return (
        library or path.is_relative_to(PACKAGE) or any(map(path.is_relative_to, roots))
    )
