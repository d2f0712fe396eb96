"""Config files as modules, whose classes can be pickled."""

import importlib.util
import sys
import types
from collections.abc import Iterable
from pathlib import Path

from fedjax_rec.experiment.own_kinds import add_kinds

_PREFIX = "config_"


def load_module(path: Path) -> types.ModuleType:
    """Executes a Python file as a module, and adds its kinds to the registry.

    Raises:
        ImportError: it is no Python file.
        ValueError: a kind cannot be added.
    """
    spec = importlib.util.spec_from_file_location(f"{_PREFIX}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file; expected one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name, and so does `pickle`.
    sys.modules[spec.name] = module
    # It imports from its own folder, as a script does; packages come first.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    add_kinds(module)
    return module


def loaded_modules() -> list[types.ModuleType]:
    """All modules from `load_module`."""
    modules = list(sys.modules.items())
    return [module for name, module in modules if name.startswith(_PREFIX)]


def load_modules(paths: Iterable[str]) -> None:
    """Executes files that another process has loaded."""
    for path in paths:
        load_module(Path(path))
