"""A folder of made-up photographs, served by the real app with a small model of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs anymask[server]")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from postgres import fresh_database, running_server
from sqlalchemy import URL

from anymask.model.segmenter import Segmenter
from anymask.server import Rules, create_app

NAMES = ("a.png", "b.jpg", "c.png")


@pytest.fixture
def folder(tmp_path: Path, photo: Any) -> Path:
    """Three pictures of 120x160."""
    place = tmp_path / "pictures"
    place.mkdir()
    for index, name in enumerate(NAMES):
        Image.fromarray(np.roll(photo.image, 20 * index, axis=1)).save(place / name)
    return place


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A PostgreSQL server, the same for all tests."""
    with running_server() as server:
        yield server


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str | None]]:
    """From a folder to the URL of its store: None for the SQLite in it, or the parameter "postgresql"."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield lambda folder: None
        return
    server = request.getfixturevalue("postgres")
    urls: dict[Path, str] = {}
    with ExitStack() as databases:

        def url_of(folder: Path) -> str:
            if folder not in urls:
                urls[folder] = databases.enter_context(fresh_database(server))
            return urls[folder]

        yield url_of


@pytest.fixture
def make_app(random_tiny: Segmenter, database: Callable[[Path], str | None]) -> Iterator[Callable[..., FastAPI]]:
    """`create_app` with the small model; everything that was made is closed in the end."""
    made: list[FastAPI] = []

    def make(folder: Path, **options: Any) -> FastAPI:
        options.setdefault("store_url", database(folder))
        options.setdefault("rules", Rules(annotator="anna", labels=("cat",)))
        options.setdefault("allowed_hosts", ("testserver",))
        made.append(create_app(folder, model=random_tiny, **options))
        return made[-1]

    yield make
    for app in made:
        app.state.service.close()


@pytest.fixture
def client(make_app: Callable[..., FastAPI], folder: Path) -> TestClient:
    """A client of the app on the three pictures; it does not follow redirects."""
    return TestClient(make_app(folder), follow_redirects=False)
