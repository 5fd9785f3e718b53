"""Downloads from a server on this machine that can break off, refuse to continue, and send rubbish."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from topokd_lib.data.download import fetch
from topokd_lib.errors import DataError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.continues else 0
        server.starts.append(start)
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.stops_at])

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.content, running.continues, running.stops_at, running.starts = CONTENT, True, None, []
    running.url = f"http://127.0.0.1:{running.server_port}/file.tar.gz"
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_file_arrives_complete(server, tmp_path):
    path = tmp_path / "new" / "file.tar.gz"
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("continues", [True, False])
def test_a_download_that_broke_off_is_continued(continues, server, tmp_path):
    path = tmp_path / "file.tar.gz"
    server.stops_at = 400_000
    with pytest.raises(
        DataError, match=r"broke off after 400,000 of 1,024,000 bytes; the same command goes on"
    ):
        fetch(server.url, path, md5=MD5)
    assert not path.exists()
    server.stops_at, server.continues = None, continues
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == CONTENT
    assert server.starts == [0, 400_000 if continues else 0]


def test_a_download_that_was_killed_before_its_name_was_given(server, tmp_path):
    (tmp_path / "file.tar.gz.partial").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file.tar.gz", md5=MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == CONTENT
    assert server.starts == [len(CONTENT)]


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(
        DataError, match=rf"is not the published file: its MD5 is \w+ instead of {MD5}\. Try again"
    ):
        fetch(server.url, tmp_path / "file.tar.gz", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(server, tmp_path):
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(
        DataError, match=r"http://127\.0\.0\.1:1/file\.tar\.gz could not be downloaded \(.*refused"
    ):
        fetch(url, tmp_path / "file.tar.gz", md5=MD5)
