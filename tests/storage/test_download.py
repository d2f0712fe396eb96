"""Downloads, from files and from a server on this machine."""

import functools
import hashlib
import http.server
import threading

import pytest

from fedjax_rec.data.sources import SOURCES
from fedjax_rec.storage.download import Download, fetch, verified
from fedjax_rec.storage.errors import FileError

CONTENT = b"some archive" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x.zip").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}", folder
        service.shutdown()


def test_a_download_is_verified_and_kept(server, tmp_path):
    address, folder = server
    spec = Download(url=f"{address}/x.zip", md5=MD5)
    kept = tmp_path / "kept"
    assert verified(spec, kept) is None
    assert fetch(spec, kept).read_bytes() == CONTENT
    assert {p.name for p in kept.iterdir()} == {"x.zip", "x.zip.md5"}
    (folder / "x.zip").unlink()  # the second time nobody is asked
    assert fetch(spec, kept) == kept / "x.zip" == verified(spec, kept)


def test_a_file_address_works_and_a_damaged_copy_is_fetched_again(tmp_path):
    (tmp_path / "x.zip").write_bytes(CONTENT)
    spec = Download(url=(tmp_path / "x.zip").as_uri(), md5=MD5)
    kept = tmp_path / "kept"
    fetch(spec, kept).write_bytes(CONTENT[:-1])
    assert verified(spec, kept) is None
    assert fetch(spec, kept).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    address, _ = server
    spec = Download(url=f"{address}/x.zip", md5="0" * 32)
    with pytest.raises(FileError, match=f"found MD5 {MD5}; expected {'0' * 32}"):
        fetch(spec, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("text", [f"{MD5}  x.zip\n", f"MD5 (x.zip) = {MD5.upper()}\n"])
def test_a_published_checksum_is_held_against(server, tmp_path, text):
    address, folder = server
    (folder / "x.zip.md5").write_text(text)
    spec = Download(url=f"{address}/x.zip", md5_url=f"{address}/x.zip.md5")
    kept = tmp_path / "kept"
    assert fetch(spec, kept).read_bytes() == CONTENT
    # What it was on that day is remembered, for when there is no network.
    (folder / "x.zip.md5").unlink()
    assert verified(spec, kept) == kept / "x.zip"
    (folder / "x.zip").write_bytes(b"other")
    (folder / "x.zip.md5").write_text(text)
    with pytest.raises(FileError, match=f"expected {MD5}"):
        fetch(spec, tmp_path / "elsewhere")


def test_what_cannot_be_reached_says_how_to_go_on(server, tmp_path):
    address, folder = server
    spec = Download(url=f"{address}/gone.zip", md5=MD5)
    with pytest.raises(FileError, match=r"cannot be downloaded \(.*pass dir="):
        fetch(spec, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    (folder / "page.md5").write_text("<html>")
    spec = Download(url=f"{address}/x.zip", md5_url=f"{address}/page.md5")
    with pytest.raises(FileError, match="expected an MD5"):
        fetch(spec, tmp_path / "kept")


def test_a_connection_cut_short_leaves_nothing(tmp_path):
    class Short(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        spec = Download(url=f"http://127.0.0.1:{service.server_port}/x.zip", md5=MD5)
        with pytest.raises(FileError):
            fetch(spec, tmp_path / "kept")
        service.shutdown()
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_published_sets_have_an_address_and_a_checksum():
    published = {name: s.download for name, s in SOURCES.items() if s.download}
    assert set(published) == {
        "movielens-100k",
        "movielens-1m",
        "movielens-latest-small",
    }
    for spec in published.values():
        assert spec.url.startswith("https://files.grouplens.org/")
        assert (spec.md5 is None) != (spec.md5_url is None)
