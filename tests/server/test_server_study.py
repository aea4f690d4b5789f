"""The study's pages: over HTTP, and in a real browser where there is one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from anymask.errors import DataError
from anymask.evaluation.study_ratings import Rating, Ratings
from anymask.evaluation.study_views import VIEWS, write_views
from anymask.server.run import listen
from anymask.server.study import create_study_app

TASKS = ["000004", "000001", "000003"]


@pytest.fixture
def study(tmp_path: Path, photo: tuple[np.ndarray, np.ndarray]) -> Path:
    """Three tasks of one photograph; the key is there too, and must never be shown."""
    image, masks_khw = photo
    for task, mask in zip(TASKS, masks_khw, strict=False):
        write_views(tmp_path / "views" / task, image, mask, [(40.0, 35.0)], [1])
    (tmp_path / "tasks.json").write_text(json.dumps({"prompt": "1", "views": list(VIEWS), "tasks": TASKS}))
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "config.json").write_text('{"secret": "method"}')
    return tmp_path


@pytest.fixture
def client(study: Path) -> Iterator[TestClient]:
    with TestClient(create_study_app(study), base_url="http://127.0.0.1") as client:
        yield client


def test_rate_and_resume(client: TestClient, study: Path) -> None:
    listed = client.get("/api/tasks", params={"rater": "ann"}).json()
    assert sorted(listed["tasks"]) == sorted(TASKS)
    assert listed["ratings"] == {}
    assert listed["tasks"] == client.get("/api/tasks", params={"rater": "ann"}).json()["tasks"]
    orders = {tuple(client.get("/api/tasks", params={"rater": f"r{n}"}).json()["tasks"]) for n in range(12)}
    assert len(orders) > 2  # everybody's own
    given = {"rater": " ann ", "task": TASKS[0], "rating": 8, "seconds": 3.5}
    assert client.put("/api/ratings", json=given).json() == {"saved": True}
    assert Ratings(study).all() == [Rating("ann", TASKS[0], 8, 3.5)]
    assert client.get("/api/tasks", params={"rater": "ann"}).json()["ratings"] == {TASKS[0]: 8}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"rating": 0}, 422),
        ({"rating": 11}, 422),
        ({"rating": "8"}, 422),
        ({"rater": "  "}, 422),
        ({"rater": "a\nb"}, 422),
        ({"seconds": -1}, 422),
        ({"task": "999999"}, 404),
    ],
)
def test_refused(client: TestClient, study: Path, change: dict[str, object], status: int) -> None:
    given = {"rater": "ann", "task": TASKS[0], "rating": 8, "seconds": 3.5} | change
    assert client.put("/api/ratings", json=given).status_code == status
    assert Ratings(study).all() == []


def test_pictures_and_nothing_else(client: TestClient) -> None:
    for view in VIEWS:
        answer = client.get(f"/views/{TASKS[0]}/{view}.jpg")
        assert answer.status_code == 200
        assert answer.content[:2] == b"\xff\xd8"
    for path in (
        "/views/999999/image.jpg",
        f"/views/{TASKS[0]}/other.jpg",
        "/views/..%2Fkey/config.jpg",
        "/key/config.json",
        "/tasks.json",
        "/ratings.sqlite",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "secret" not in answer.text


def test_only_this_machines_own_page_may_ask(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    given = {"rater": "ann", "task": TASKS[0], "rating": 8, "seconds": 1}
    answer = client.put("/api/ratings", json=given, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    page = client.get("/")
    assert "How good is this mask?" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from elsewhere


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        create_study_app(tmp_path)


@pytest.mark.slow
def test_in_a_browser(study: Path) -> None:
    """Give a name, rate by keys, go back and change, reload: it goes on where it was."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    import uvicorn

    address = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_study_app(study), log_level="error"))
    address.socket.listen(16)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]}, daemon=True)
    thread.start()
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address.url)
            page.fill("#rater", "ann")
            page.keyboard.press("Enter")
            page.wait_for_selector("figure img")
            assert page.locator("figure").count() == 5
            for key, count in (("7", "2 of 3"), ("0", "3 of 3")):
                page.keyboard.press(key)
                playwright.expect(page.locator("#count")).to_have_text(count)
            page.keyboard.press("Backspace")
            assert page.locator("#buttons [aria-pressed=true]").inner_text() == "10"
            page.keyboard.press("4")
            playwright.expect(page.locator("#count")).to_have_text("3 of 3")
            page.reload()
            page.keyboard.press("Enter")  # the name is remembered
            page.wait_for_selector("figure img")
            assert page.locator("#count").inner_text() == "3 of 3"
            page.locator("#buttons button", has_text="1").first.click()
            page.wait_for_selector("#done:not([hidden])")
            assert errors == []
            browser.close()
    finally:
        server.should_exit = True
        thread.join(timeout=10)
    assert sorted(Ratings(study).of("ann").values()) == [1, 4, 7]
