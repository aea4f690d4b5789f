"""A real server on a folder of made-up photographs, and a real Chromium in front of it.

Skipped where Chromium or the built page is missing; `make setup` builds the page where Node is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from browsing import IMAGES, OTHER_HOST, Hand, Server, make_photo

import anymask


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One Chromium for all tests of a file; Playwright runs once at a time, and other tests start it too."""
    path = _chromium()
    if not (Path(anymask.__file__).parent / "server" / "page" / "index.html").is_file():
        pytest.skip("the page is not built: make setup (needs Node)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[dev]'")
    pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install '.[server]'")
    with sync_api.sync_playwright() as playwright:
        # The sandbox needs rights that a container's root has not.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        options.append(f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1")
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def folder(chromium: Any, tmp_path: Path) -> Path:
    """Three photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(IMAGES):
        cv2.imwrite(str(folder / name), make_photo(seed))
    return folder


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    """Start a server on the folder, with options of the command; it is killed in the end."""
    started: list[Server] = []

    def start(*options: str, has_page: bool = True) -> Server:
        started.append(Server(folder, *options, has_page=has_page))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A running server on a fresh folder of three photographs."""
    return serve()


@pytest.fixture
def hand(chromium: Any, server: Server) -> Iterator[Hand]:
    """A person in front of the page."""
    hand = Hand(chromium, server)
    yield hand
    hand.close()
