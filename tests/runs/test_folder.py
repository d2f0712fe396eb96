import concurrent.futures
import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_rec.runs.folder import (
    check_folder,
    continue_run,
    differences,
    new_folder,
    open_run,
    plain,
    read_run,
)
from fedjax_rec.storage.errors import FileError

CONFIG = {"name": "x", "algorithm": {"lr": 0.1}, "rounds": 3}
EVENT = {"event": "round", "round": 1, "loss": 0.5}


def finish(path, config=CONFIG, **options):
    with open_run(path, config, {"jax": "0"}, **options) as folder:
        folder.append(EVENT)
        folder.write_json("result.json", {"rounds": 1})


def test_a_finished_run_reads_back(tmp_path):
    finish(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.config == CONFIG
    assert run.versions == {"jax": "0"}
    assert run.events == [EVENT]
    assert run.result == {"rounds": 1}


def test_every_line_is_on_disk_as_soon_as_it_is_appended(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        for count in (1, 2):
            folder.append(EVENT)
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert len(lines) == count


def test_a_crashed_run_is_readable_and_has_no_result(tmp_path):
    def crash():
        with open_run(tmp_path, CONFIG, {}) as folder:
            folder.append(EVENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    run = read_run(tmp_path)
    assert run.events == [EVENT]
    assert run.result is None


def test_a_half_written_last_line_is_left_out(tmp_path):
    finish(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "rou')
    assert read_run(tmp_path).events == [EVENT]


def test_a_broken_line_in_the_middle_is_reported(tmp_path):
    finish(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("oops\n{}\n")
    with pytest.raises(FileError, match="line 1"):
        read_run(tmp_path)


def test_another_config_is_refused_with_the_difference(tmp_path):
    finish(tmp_path)
    other = {**CONFIG, "algorithm": {"lr": 0.3}}
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    for overwrite in (False, True):
        with pytest.raises(FileError, match=r"algorithm.lr: 0.1 there, 0.3 now"):
            finish(tmp_path, other, overwrite=overwrite)
    assert before == sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())


def test_a_finished_run_is_replaced_only_on_request(tmp_path):
    finish(tmp_path)
    (tmp_path / "curves.png").write_bytes(b"old")
    with pytest.raises(FileError, match="--overwrite"):
        check_folder(tmp_path, CONFIG)
    with open_run(tmp_path, CONFIG, {}, overwrite=True):
        # No file of the old run may be taken for the new one's.
        assert read_run(tmp_path).result is None
        assert not (tmp_path / "curves.png").exists()


def test_an_unfinished_run_starts_again(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        folder.append(EVENT)
    finish(tmp_path)
    assert read_run(tmp_path).events == [EVENT]


def test_an_unfinished_run_with_a_checkpoint_is_not_lost(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        folder.append(EVENT)
        (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    check_folder(tmp_path, CONFIG)  # an unfinished checkpoint cannot be resumed
    (tmp_path / "checkpoints" / "1").mkdir()
    with pytest.raises(FileError, match=f"train --resume {tmp_path}"):
        finish(tmp_path)
    assert read_run(tmp_path).events == [EVENT]
    finish(tmp_path, overwrite=True)
    assert not (tmp_path / "checkpoints").exists()


def test_the_clock_has_a_file_of_its_own(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        folder.append({**EVENT, "seconds": 1.5})
        folder.append({"event": "evaluation", "round": 1, "seconds": 0.25})
        folder.time("rank", 1, 2.0)
    with continue_run(tmp_path) as folder:
        folder.start(1)
        folder.append({**EVENT, "round": 2, "seconds": 0.5})
    assert "seconds" not in (tmp_path / "metrics.jsonl").read_text()
    seconds = read_run(tmp_path).seconds
    assert (seconds["train"], seconds["evaluate"], seconds["rank"]) == (2.0, 0.25, 2.0)
    assert seconds["lives"] == 2
    lines = [json.loads(x) for x in (tmp_path / "timings.jsonl").open()]
    assert [x["event"] for x in lines] == [
        "start", "round", "evaluation", "rank", "start", "round"
    ]  # fmt: skip
    assert seconds["total"] == lines[3]["elapsed"] + lines[5]["elapsed"]


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        folder.append(EVENT)
        position = folder.position()
        folder.append({**EVENT, "round": 2, "text": "größer"})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for half in (b"", b'{"event": "rou'):
        (tmp_path / "metrics.jsonl").write_bytes(whole + half)
        (tmp_path / "timings.jsonl").write_bytes(b'{"event": "start"}\n{"ev')
        with continue_run(tmp_path) as folder:
            assert folder.cut_back(position) == [EVENT]
            folder.append({**EVENT, "round": 2, "text": "größer"})
            assert folder.position() == len(whole)
            folder.time("round", 2, 1.0)
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole
        assert read_run(tmp_path).seconds["train"] == 1


def test_a_run_in_progress_cannot_be_continued(tmp_path):
    pytest.importorskip("fcntl")
    with (
        open_run(tmp_path, CONFIG, {}),
        pytest.raises(FileError, match="another process"),
        continue_run(tmp_path),
    ):
        raise AssertionError


def test_a_write_that_fails_is_told_and_loses_nothing(tmp_path):
    class Full:
        """A file on a disk that takes ten bytes more."""

        def __init__(self, file):
            self.file, self.left = file, 10

        def write(self, data):
            if not self.left:
                raise OSError(28, "No space left on device")
            taken = self.file.write(data[: self.left])
            self.left -= taken
            return taken

        def close(self):
            self.file.close()

    def run_out():
        with open_run(tmp_path, CONFIG, {}) as folder:
            folder.append(EVENT)
            full: Any = Full(folder._open("metrics.jsonl"))
            folder._files["metrics.jsonl"] = full
            folder.append({**EVENT, "round": 2})

    with pytest.raises(FileError, match=r"metrics\.jsonl: cannot be .*No space"):
        run_out()
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b'\n{"event": ')
    assert read_run(tmp_path).events == [EVENT]


def test_what_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(FileError, match=r"thesis\.tex"):
        finish(tmp_path)
    with pytest.raises(FileError, match="is a file"):
        finish(tmp_path / "thesis.tex")
    with pytest.raises(FileError, match=r"no config\.json"):
        read_run(tmp_path)
    with pytest.raises(FileError, match="no folder"):
        read_run(tmp_path / "absent")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_one_folder(tmp_path):
    pytest.importorskip("fcntl")
    code = (
        "from fedjax_rec.runs.folder import *\n"
        f"with open_run({str(tmp_path)!r}, {CONFIG!r}, {{}}): pass"
    )
    with open_run(tmp_path, CONFIG, {}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
    assert "being written by another process" in done.stderr


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with open_run(tmp_path, CONFIG, {}) as folder:
        folder.write_text("report.md", "old")

        def break_off():
            with folder.replacing("report.md") as temporary:
                temporary.write_text("ne")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            break_off()
    assert (tmp_path / "report.md").read_text() == "old"
    assert not [p.name for p in tmp_path.glob(".report*")]


def test_plain_values_are_strict_json():
    @dataclasses.dataclass
    class Part:
        size: tuple[int, ...] = (1, 2)

    value = {
        "part": Part(),
        "nan": math.nan,
        "array": np.float32(0.5),
        "flag": np.bool_(True),
        3: None,
    }
    result = plain(value)
    source = Path(__file__).read_bytes()
    assert result["part"].pop("defined_in") == {
        "file": "test_folder.py",
        "sha256": hashlib.sha256(source).hexdigest(),
    }
    assert result == {
        "part": {"type": "Part", "size": [1, 2]},
        "nan": None,
        "array": 0.5,
        "flag": True,
        "3": None,
    }
    json.dumps(plain(value), allow_nan=False)


def test_differences_name_the_leaf():
    old = {"a": {"b": 1, "c": 2}, "same": [1]}
    new = {"a": {"b": 1}, "same": [1], "d": 4}
    assert differences(old, new) == [
        "a.c: 2 there, (absent) now",
        "d: (absent) there, 4 now",
    ]


def test_a_new_name_counts_up_and_is_a_name(tmp_path):
    first = new_folder(tmp_path / "runs", "my run/α")
    assert first.is_dir()
    assert first.parent == tmp_path / "runs"
    assert new_folder(tmp_path / "runs", "my run/α").name == f"{first.name}-2"
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"cannot be written.*Choose another --output"):
        new_folder(tmp_path / "file", "run")


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: new_folder(tmp_path, "run"), range(24)))
    assert len(set(names)) == 24
