"""Who may talk to the server, what its answers forbid a browser, and the app inside another app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from annotating import new_annotation
from fastapi import FastAPI
from fastapi.testclient import TestClient

from anymask.errors import AnymaskError
from anymask.server import Rules
from anymask.server.run import listen

App = Callable[..., FastAPI]
TOKEN = "a-token-of-some-length"


def test_another_host_name_is_refused(make_app: App, folder: Path) -> None:
    app = make_app(folder, allowed_hosts=("localhost", "127.0.0.1", "[::1]"))
    for host, status in (
        ("127.0.0.1:8620", 200),
        ("LOCALHOST", 200),
        ("[::1]:8620", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ):
        answer = TestClient(app).get("/api/session", headers={"host": host})
        assert answer.status_code == status, host


def test_writes_from_another_origin_are_refused(client: TestClient) -> None:
    for headers, status in (
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[evil"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 200),
        ({}, 200),
    ):
        answer = client.post("/api/queue/next", json={}, headers=headers)
        assert answer.status_code == status, headers


def test_every_answer_isolates_the_page(client: TestClient) -> None:
    for url in ("/", "/api/session", "/api/images/99", "/nowhere"):
        headers = client.get(url).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline'" not in headers["content-security-policy"].split("style-src")[0]


def test_nothing_without_the_token(make_app: App, folder: Path) -> None:
    app = make_app(folder, token=TOKEN, allowed_hosts=("*",))
    stranger = TestClient(app, follow_redirects=False)
    for url in (
        "/",
        "/api/session",
        "/api/openapi.json",
        "/?token=wrong",
        "/?token=",
        "/?token=%ff",
        "/?" + "a&" * 5000,
    ):
        assert stranger.get(url).status_code == 401, url
    for headers in ({"authorization": "Bearer wrong"}, {"cookie": "anymask_token=wrong"}, {"cookie": "=;\x01"}):
        assert stranger.get("/api/session", headers=headers).status_code == 401
    assert stranger.post(f"/api/queue/next?token={TOKEN}", json={}).status_code == 401
    machine = stranger.get("/api/session", headers={"authorization": f"Bearer {TOKEN}"})
    assert machine.status_code == 200
    assert stranger.get("/api/session").status_code == 401

    person = TestClient(app, follow_redirects=False)
    first = person.get(f"/?token={TOKEN}&image=3")
    assert first.status_code == 303
    assert first.headers["location"] == "./?image=3"
    assert "HttpOnly" in first.headers["set-cookie"]
    assert "SameSite=Strict" in first.headers["set-cookie"]
    assert person.get("/").status_code == 200
    assert person.get("/api/session").status_code == 200


def test_the_app_works_inside_another(make_app: App, folder: Path) -> None:
    inner = make_app(folder, token=TOKEN, rules=Rules(identify=lambda request: "from the host"))
    outer = FastAPI()
    outer.mount("/label", inner)
    client = TestClient(outer, follow_redirects=False)
    assert client.get("/label/api/session").status_code == 401
    cookie = client.get(f"/label/?token={TOKEN}").headers["set-cookie"]
    assert "Path=/label" in cookie
    session = client.get("/label/api/session").json()
    assert (session["annotator"], session["annotator_fixed"]) == ("from the host", True)
    assert client.get("/label/").status_code == 200
    made = client.post("/label/api/images/1/annotations", json=new_annotation(), headers={"X-Annotator": "liar"})
    assert made.json()["created_by"] == "from the host"
    assert client.post("/label/segment", content=b"x" * 100).status_code == 422
    assert client.get("/label/api/session").headers["cross-origin-opener-policy"] == "same-origin"


def test_a_token_is_made_for_addresses_that_others_reach() -> None:
    own = listen("127.0.0.1", 0)
    everywhere = listen("0.0.0.0", 0)
    named = listen("127.0.0.1", 0, token="given", allowed_hosts=("labels.example",))
    for address in (own, everywhere, named):
        address.socket.close()
    assert own.token is None
    assert own.url.startswith("http://127.0.0.1:")
    assert everywhere.token is not None
    assert len(everywhere.token) >= 32
    assert everywhere.token in everywhere.url
    assert named.token == "given"
    assert "labels.example" in named.allowed_hosts


@pytest.mark.parametrize("host", ["999.1.1.1", "no such host"])
def test_an_address_that_cannot_be_had_is_named(host: str) -> None:
    with pytest.raises(AnymaskError, match=host):
        listen(host, 0)
