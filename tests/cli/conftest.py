"""Fixtures of the tests of the command line."""

import textwrap

import pytest

from fedjax_rec.cli import main

SMALL = '''
    """What to expect."""
    from fedjax_rec import Execution, Experiment, FedMF, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedMF(dim=4),
            execution=Execution(max_buckets=1),
            rounds=2,
            eval_every=1,
        )
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDJAX_REC_DATA", raising=False)
    return tmp_path


@pytest.fixture
def write(folder):
    """Writes a config file, by default a small one, and returns its name."""

    def write(text=SMALL, name="small.py"):
        (folder / name).write_text(textwrap.dedent(text))
        return name

    return write


@pytest.fixture
def fails(capsys):
    """The message of a command that has to fail with status 2 and without a traceback.

    Line breaks of the message count as spaces.
    """

    def fails(*args):
        capsys.readouterr()
        try:
            status = main(list(args))
        except SystemExit as stopped:  # tyro ends the process itself
            status = stopped.code
        output = capsys.readouterr()
        assert status == 2
        assert "Traceback" not in output.err
        return " ".join((output.out + output.err).replace("│", " ").split())

    return fails


@pytest.fixture
def shows(capsys):
    """The output of a command that has to succeed, with line breaks as spaces."""

    def shows(*args):
        capsys.readouterr()
        assert main(list(args)) == 0
        output = capsys.readouterr()
        return " ".join((output.out + output.err).split())

    return shows
