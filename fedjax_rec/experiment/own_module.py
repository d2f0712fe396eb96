"""Config files as modules, whose classes can be pickled."""

import importlib.util
import sys
import types
from collections.abc import Iterable
from pathlib import Path

_PREFIX = "config_"


def load_module(path: Path) -> types.ModuleType:
    """Executes a Python file as a module.

    Raises:
        ImportError: it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(f"{_PREFIX}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file; expected one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name, and so does `pickle`.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def loaded_modules() -> list[types.ModuleType]:
    """All modules from `load_module`."""
    modules = list(sys.modules.items())
    return [module for name, module in modules if name.startswith(_PREFIX)]


def load_modules(paths: Iterable[str]) -> None:
    """Executes files that another process has loaded."""
    for path in paths:
        load_module(Path(path))
