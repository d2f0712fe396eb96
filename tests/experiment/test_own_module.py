"""Config files as modules."""

import pickle
import sys

import pytest

from fedjax_rec.experiment.own_module import (
    load_module,
    load_modules,
    loaded_modules,
)


def test_classes_of_a_file_are_pickled_and_found_in_another_process(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Own:\n    x: int = 3\n"
    )
    module = load_module(path)
    assert module in loaded_modules()
    saved = pickle.dumps(module.Own(x=5))
    del sys.modules[module.__name__]
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(saved)
    load_modules([str(module.__file__)])
    assert pickle.loads(saved).x == 5
    del sys.modules[module.__name__]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ImportError, match=r"mine.txt is no Python file; expected"):
        load_module(tmp_path / "mine.txt")
