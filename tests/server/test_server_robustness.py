"""Malformed requests of every kind: never a 500, never a hang, never memory without end.

By default a few requests for each operation of the API's own description. ANYMASK_FUZZ=50 makes it 50 each, more than a
thousand together.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anymask.model.segmenter import Segmenter
from anymask.server import Rules, create_app

schemathesis = pytest.importorskip("schemathesis", reason="needs anymask[dev]")

EXAMPLES = int(os.environ.get("ANYMASK_FUZZ", "4"))
FINE = frozenset({*range(200, 500), 503})


@pytest.fixture(scope="module")
def served(random_tiny: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("fuzzed")
    noise = np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for index in range(3):
        Image.fromarray(noise).save(folder / f"{index}.png")
    rules = Rules(upload_bytes=2_000_000, upload_pixels=1_000_000, body_bytes=200_000, draft_bytes=50_000)
    app = create_app(folder, model=random_tiny, allowed_hosts=("*",), rules=rules)
    yield app
    app.state.service.close()


@pytest.fixture(scope="module")
def quiet_client(served: FastAPI) -> TestClient:
    """A client that answers 500 as a server would, instead of raising."""
    return TestClient(served, raise_server_exceptions=False, follow_redirects=False)


def test_requests_made_from_the_description(served: FastAPI) -> None:
    description = schemathesis.openapi.from_asgi("/api/openapi.json", served)
    operations = [result.ok() for result in description.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            start = time.monotonic()
            answer = case.call(timeout=60)
            assert answer.status_code in FINE, (case.method, case.formatted_path, answer.status_code, answer.text)
            assert time.monotonic() - start < 60
            if answer.headers.get("content-type", [""])[0].startswith("application/json"):
                answer.json()

        ask()


ROUTES = (
    ("POST", "/api/images/1/annotations"),
    ("PUT", "/api/images/1/draft"),
    ("POST", "/api/images/1/decode"),
    ("POST", "/api/queue/next"),
    ("POST", "/api/images/1/done"),
    ("PATCH", "/api/annotations/5f0c53d4-4c39-4f9a-9a6b-1e5b3a3f1f60"),
)
BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'{"points": [[NaN, 1]]}',
    b'{"revision": 1, "content": {"x": NaN}}',
    b'{"revision": 1e400, "content": {}}',
    b'{"revision": 1, "content": {"x": ' + b"9" * 5000 + b"}}",
    b'{"revision": 1, "content": {"\\ud800": "\\udfff\\u0000"}}',
    b"[" * 50_000,
    b'{"content":' * 20_000,
    b"\xff\xfe\x00",
    b'{"id": "\\ud800", "segmentation": {"size": [1, 1], "counts": "\\ud800"}}',
    b'{"id": "5f0c53d4-4c39-4f9a-9a6b-1e5b3a3f1f60", "segmentation": {"size": [2147483647, 9], "counts": [0]}}',
    b"x" * 300_000,
)


@pytest.mark.parametrize(("method", "url"), ROUTES)
def test_bodies_that_are_no_json_or_strange_json(quiet_client: TestClient, method: str, url: str) -> None:
    for body in BODIES:
        answer = quiet_client.request(method, url, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in FINE, (url, body[:80], answer.text[:300])
        answer.json()
    assert answer.status_code == 413


PATHS = st.lists(
    st.sampled_from(["..", "%2e%2e", ".", "", "api", "images", "1", "picture", "etc", "passwd", "%00", "\\..", "0.png",
                     "annotations.sqlite", ".anymask", "%ff", "99999999999999999999", "-1", "é", "draft", "assets"]),
    max_size=6,
)  # fmt: skip


@given(PATHS)
@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_path_leads_to_a_file(quiet_client: TestClient, parts: list[str]) -> None:
    answer = quiet_client.get("http://testserver/" + "/".join(parts))
    assert answer.status_code in FINE
    assert b"root:" not in answer.content
    assert b"SQLite format" not in answer.content


def big_png(width: int, height: int) -> bytes:
    """A PNG of zeros that is small as a file, written row by row so that the test needs no memory either."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hundred_megapixel_bombs_are_refused_before_they_are_decoded(quiet_client: TestClient) -> None:
    bomb = big_png(10_000, 10_000)
    assert len(bomb) < 2_000_000
    before = peak_megabytes()
    for _ in range(3):
        answer = quiet_client.post(
            "/segment", files={"image": ("bomb.png", bomb)}, data={"prompts": '{"points": [[1, 1]]}'}
        )
        assert answer.status_code == 413
        assert "10000x10000" in answer.json()["detail"]
    assert peak_megabytes() - before < 100, "300 MB each if they were decoded"


@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_pictures_are_refused(quiet_client: TestClient, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]))
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    answer = quiet_client.post(
        "/segment", files={"image": ("x", bytes(content))}, data={"prompts": '{"points": [[1, 1]]}'}
    )
    assert answer.status_code in (200, 413, 422), answer.text


def test_a_body_without_a_length_is_cut_off_too(quiet_client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b" " * 10_000

    answer = quiet_client.post("/api/queue/next", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


def test_a_draft_has_a_limit_of_its_own(quiet_client: TestClient) -> None:
    body = json.dumps({"revision": 1, "content": {"x": "y" * 60_000}})
    answer = quiet_client.put("/api/images/1/draft", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_broken_store_is_said_and_nothing_else_breaks(make_app: Callable[..., FastAPI], folder: Path) -> None:
    app = make_app(folder)
    client = TestClient(app, raise_server_exceptions=False)
    with app.state.service.store.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE drafts RENAME TO elsewhere")
        connection.commit()
    answer = client.get("/api/images/1/draft")
    assert answer.status_code == 503
    assert float(answer.headers["retry-after"]) > 0
    assert client.get("/api/images/1").status_code == 200
