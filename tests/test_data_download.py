"""Downloads: resumed, checked, and one clear line without a network. The server is this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from torchvision.datasets import Omniglot

from fewshot.data.download import FILES, fetch
from fewshot.errors import UserError

DATA = bytes(range(256)) * 1000
MD5 = hashlib.md5(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str | None]] = []
    cut = False  # send half of what was promised

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and self.path != "/norange" else 0
        if self.path == "/gone" or start >= len(DATA):
            self.send_error(404 if self.path == "/gone" else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start : len(DATA) // 2 if self.cut else None])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_whole_file(address: str, tmp_path: Path) -> None:
    file = tmp_path / "raw" / "a.zip"
    fetch(f"{address}/a", file, MD5)
    fetch(f"{address}/a", file, MD5)  # it is there
    assert file.read_bytes() == DATA
    assert Handler.asked == [None]


def test_interrupted_then_resumed(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.zip"
    monkeypatch.setattr(Handler, "cut", True)
    with pytest.raises(UserError, match="cannot download"):
        fetch(f"{address}/a", file, MD5)
    assert not file.exists()
    monkeypatch.setattr(Handler, "cut", False)
    fetch(f"{address}/a", file, MD5)
    assert file.read_bytes() == DATA
    assert Handler.asked == [None, f"bytes={len(DATA) // 2}-"]


@pytest.mark.parametrize(("place", "already"), [("a", len(DATA)), ("norange", 100)])
def test_a_part_that_is_whole_or_cannot_be_resumed(
    address: str, tmp_path: Path, place: str, already: int
) -> None:
    (tmp_path / "a.zip.part").write_bytes(DATA[:already])
    fetch(f"{address}/{place}", tmp_path / "a.zip", MD5)
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_wrong_checksum(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="md5"):
        fetch(f"{address}/a", tmp_path / "a.zip", "0" * 32)
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]


def test_no_connection_says_what_to_put_where(address: str, tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:9/a.zip", f"{address}/gone"):
        with pytest.raises(UserError) as error:
            fetch(url, tmp_path / "a.zip", MD5)
        for words in (url, "a.zip", str(tmp_path)):
            assert words in str(error.value)


def test_addresses_are_those_of_torchvision() -> None:
    for name, md5 in Omniglot.zips_md5.items():
        assert FILES["omniglot"][f"{name}.zip"] == (f"{Omniglot.download_url_prefix}/{name}.zip", md5)
