"""Downloads against a server of our own: whole, broken and resumed, wrong, refused."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from anymask.errors import CheckpointError, DownloadError
from anymask.model import pull as pull_module
from anymask.model.cache import cache_folder
from anymask.model.pull import OFFICIAL, Official, pull, pulled_path

CONTENT = np.random.default_rng(31).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE_NAME = "sam_vit_b_01ec64.pth"


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `breaks` says after how many bytes each coming answer is cut off."""

    daemon_threads = False  # so that closing the server waits for its last answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.honours_ranges = True
        self.says_length = True
        self.breaks: list[int] = []
        self.statuses: list[int] = []
        self.requested: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{FILE_NAME}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requested.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if match is not None and server.honours_ranges:
            start = int(match[1])
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        if server.says_length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(server.content)
        self.wfile.write(server.content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose file is taken for the official ViT-B, and no waiting between attempts."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pull_module, "FIRST_WAIT_SECONDS", 0.0)
    with Server() as running:
        monkeypatch.setitem(OFFICIAL, "vit_b", Official(running.url, SHA256, 1))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("says_length", [True, False])
def test_whole_download(server: Server, tmp_path: Path, says_length: bool) -> None:
    server.says_length = says_length
    reports: list[tuple[int, int | None]] = []
    path = pull("vit_b", tmp_path / "new" / "folder", progress=lambda done, total: reports.append((done, total)))
    assert path == tmp_path / "new" / "folder" / FILE_NAME
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert reports[-1] == (len(CONTENT), len(CONTENT) if says_length else None)
    assert server.requested == [None]


def test_the_cache_folder_is_the_default(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    assert pull("vit_b") == tmp_path / "cache" / FILE_NAME == pulled_path("vit_b")


def test_a_good_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(CONTENT)
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == []


def test_a_bad_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(CONTENT[:1000])
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == [None]


def test_broken_connections_are_resumed_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 1, 50_000, 149_998]
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=100000-", "bytes=100001-", "bytes=150001-", "bytes=299999-"]


def test_a_later_call_resumes_too(server: Server, tmp_path: Path) -> None:
    server.breaks = [200_000, 0, 0, 0]
    with pytest.raises(DownloadError, match="broke after 200000 of 300000 bytes"):
        pull("vit_b", tmp_path)
    assert (tmp_path / f"{FILE_NAME}.partial").stat().st_size == 200_000
    server.breaks, server.requested = [], []
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == ["bytes=200000-"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.honours_ranges = False
    server.breaks = [100_000]
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=100000-"]


def test_it_gives_up_when_nothing_further_comes(server: Server, tmp_path: Path) -> None:
    server.honours_ranges = False
    server.breaks = [100_000] * 10
    with pytest.raises(DownloadError, match="broke after 100000 of 300000"):
        pull("vit_b", tmp_path)
    assert len(server.requested) == pull_module.ATTEMPTS


def test_a_whole_partial_file_is_checked_and_taken(server: Server, tmp_path: Path) -> None:
    """A run killed between the last byte and the renaming."""
    (tmp_path / f"{FILE_NAME}.partial").write_bytes(CONTENT)
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == [f"bytes={len(CONTENT)}-"]


def test_a_partial_file_that_is_too_long_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE_NAME}.partial").write_bytes(CONTENT + b"more")
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert server.requested == [f"bytes={len(CONTENT) + 4}-", None]


def test_wrong_hash_is_removed_and_both_hashes_told(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError) as caught:
        pull("vit_b", tmp_path)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT


def test_a_foreign_partial_file_does_not_pass(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE_NAME}.partial").write_bytes(b"foreign")
    with pytest.raises(DownloadError, match="SHA-256"):
        pull("vit_b", tmp_path)
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT


def test_404_is_final(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(DownloadError, match="404 Not Found") as caught:
        pull("vit_b", tmp_path)
    assert len(server.requested) == 1
    assert_says_how_by_hand(caught.value, server.url, tmp_path)


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert pull("vit_b", tmp_path).read_bytes() == CONTENT
    assert len(server.requested) == 3


def test_refused_connection(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{FILE_NAME}"
        with pytest.raises(DownloadError, match="no connection") as caught:
            pull("vit_b", tmp_path, url=url)
    assert_says_how_by_hand(caught.value, url, tmp_path)


def assert_says_how_by_hand(error: DownloadError, url: str, folder: Path) -> None:
    message = str(error)
    for word in (url, FILE_NAME, str(folder), SHA256):
        assert word in message
    assert "\n" not in message


def test_a_mirror_must_have_the_official_hash(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL, "vit_b", Official("http://localhost:1/" + FILE_NAME, SHA256, 1))
    assert pull("vit_b", tmp_path, url=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["no url", "nothing://localhost/x"])
def test_what_is_no_url(server: Server, tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="could not fetch"):
        pull("vit_b", tmp_path, url=url)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"file.* cannot be written"):
        pull("vit_b", tmp_path / "file")


@pytest.mark.parametrize("name", ["tiny", "conv", "vit_x"])
def test_only_official_models_can_be_pulled(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"'{name}'.*vit_b, vit_l, vit_h, mobile_sam"):
        pull(name, tmp_path)


def test_official_files_are_the_published_ones() -> None:
    names = [official.file_name for official in OFFICIAL.values()]
    assert names == ["sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth", "mobile_sam.pt"]
    homes = ("https://dl.fbaipublicfiles.com/segment_anything/", "https://github.com/ChaoningZhang/MobileSAM/")
    for official in OFFICIAL.values():
        assert re.fullmatch(r"[0-9a-f]{64}", official.sha256)
        assert official.url.startswith(homes)


def test_cache_folder_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYMASK_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("ANYMASK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path.home() / ".cache" / "anymask"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/anymask")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "anymask"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/users/me/local")
    assert cache_folder() == Path("/users/me/local/anymask")
