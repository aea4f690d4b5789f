"""Masks over HTTP: made once however often they are sent, locked by version, deleted and brought back."""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pytest
from annotating import new_annotation, square
from fastapi.testclient import TestClient

from anymask.geometry.rle import decode_rle

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def create(client: TestClient, image_id: int = 1, **fields: Any) -> dict[str, Any]:
    answer = client.post(f"/api/images/{image_id}/annotations", json=new_annotation(**fields))
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_accepted_mask_comes_back_with_everything_that_was_sent(client: TestClient) -> None:
    made = create(client, category="cat", model_fingerprint="abc")
    assert made["version"] == 1
    assert made["status"] == "accepted"
    assert made["stage"] == "assisted-manual"
    assert made["area"] == 900
    assert made["bbox"] == [10, 20, 30, 30]
    assert made["clicks"] == 1
    assert made["created_by"] == "anna"
    [listed] = client.get("/api/images/1/annotations").json()["annotations"]
    assert listed == made == client.get(f"/api/annotations/{made['id']}").json()
    assert np.count_nonzero(decode_rle(listed["segmentation"])) == 900


def test_a_repeated_request_makes_nothing_new(client: TestClient) -> None:
    body = new_annotation()
    first = client.post("/api/images/1/annotations", json=body)
    again = client.post("/api/images/1/annotations", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    edit = {"version": 1, "edit_id": str(uuid.uuid4()), "category": "dog", "duration_s": 1.5}
    edited = client.patch(f"/api/annotations/{body['id']}", json=edit)
    assert edited.json()["version"] == 2
    assert client.patch(f"/api/annotations/{body['id']}", json=edit).json() == edited.json()
    assert client.post("/api/images/1/annotations", json=body).json() == edited.json()
    assert len(client.get("/api/images/1/annotations").json()["annotations"]) == 1
    assert edited.json()["duration_s"] == 3.5


def test_the_same_id_with_another_mask_is_a_conflict(client: TestClient) -> None:
    made = create(client)
    answer = client.post("/api/images/1/annotations", json=new_annotation(id=made["id"], segmentation=square(50)))
    assert answer.status_code == 409
    assert answer.json()["code"] == "exists"
    assert answer.json()["current"] == made


def test_who_is_slower_gets_the_current_state(client: TestClient) -> None:
    made = create(client)
    url = f"/api/annotations/{made['id']}"
    edit = {"version": 1, "edit_id": str(uuid.uuid4()), "segmentation": square(60)}
    quick = client.patch(url, json=edit, headers={"X-Annotator": "Zo%C3%AB"}).json()
    assert quick["fixed"] is True
    assert quick["changed_by"] == "Zoë"
    slow = client.patch(url, json={**edit, "edit_id": str(uuid.uuid4()), "segmentation": square(80)})
    assert slow.status_code == 409
    assert slow.json()["current"] == quick
    assert client.delete(url, params={"version": 1}).status_code == 409


def test_deleting_hides_and_restoring_brings_back(client: TestClient) -> None:
    made = create(client)
    url = f"/api/annotations/{made['id']}"
    gone = client.delete(url, params={"version": 1}).json()
    assert gone["status"] == "deleted"
    assert client.delete(url, params={"version": 1}).json() == gone
    assert client.get("/api/images/1/annotations").json()["annotations"] == []
    assert client.get("/api/images/1/annotations?deleted=true").json()["annotations"] == [gone]
    back = client.post(f"{url}/restore", json={"version": 2}).json()
    assert (back["status"], back["version"]) == ("accepted", 3)
    assert back["segmentation"] == made["segmentation"]
    edits = client.get(f"{url}/history").json()["edits"]
    assert [edit["kind"] for edit in edits] == ["create", "delete", "restore"]
    assert edits[0]["log"][0] == {"t": 0.5, "kind": "point", "xy": [20, 30], "label": 1}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"segmentation": square(size_hw=(100, 160))}, "size"),
        ({"segmentation": {"size": [120, 160], "counts": "zzz~"}}, "counts"),
        ({"segmentation": {"size": [120, 160], "counts": [19200]}}, "empty"),
        ({"segmentation": {"size": [120, 160], "counts": [0, 19201]}}, "19201"),
        ({"id": "no-uuid"}, "id"),
        ({"category": "a\u0000b"}, "category"),
        ({"category": "x" * 101}, "category"),
        ({"log": [{"t": -1, "kind": "point"}]}, "log"),
        ({"log": [{"t": 1, "kind": "dance"}]}, "kind"),
        ({"duration_s": -3}, "duration_s"),
        ({"surprise": 1}, "surprise"),
        ({"stage": "fantasy"}, "stage"),
    ],
)
def test_a_mask_that_cannot_be_is_refused_by_name(client: TestClient, fields: dict[str, Any], named: str) -> None:
    answer = client.post("/api/images/1/annotations", json=new_annotation(**fields))
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert client.get("/api/images/1/annotations").json()["annotations"] == []


def test_plain_run_lengths_are_kept_as_text(client: TestClient) -> None:
    made = create(client, segmentation={"size": [120, 160], "counts": [5, 0, 5, 10, 19180]})
    assert isinstance(made["segmentation"]["counts"], str)
    assert made["area"] == 10


def test_what_is_not_there_is_said(client: TestClient) -> None:
    for method, url in (
        ("GET", "/api/images/99/annotations"),
        ("GET", f"/api/annotations/{uuid.uuid4()}"),
        ("GET", f"/api/annotations/{uuid.uuid4()}/history"),
        ("DELETE", f"/api/annotations/{uuid.uuid4()}?version=1"),
    ):
        answer = client.request(method, url)
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"


def test_a_draft_survives_until_its_mask_is_accepted(client: TestClient) -> None:
    body = new_annotation()
    draft = {"annotation_id": body["id"], "revision": 3, "content": {"clicks": [[1, 2]], "odd": "\ud800\u0000"}}
    saved = client.put("/api/images/1/draft", content=json.dumps(draft), headers={"content-type": "application/json"})
    assert saved.status_code == 200, saved.text
    assert client.put("/api/images/1/draft", json={**draft, "content": {}}).json()["code"] == "revision"
    assert client.get("/api/images/1/draft", headers={"X-Annotator": "bert"}).json() == {"draft": None}
    assert client.get("/api/images/1/draft").json()["draft"]["content"]["clicks"] == [[1, 2]]
    client.post("/api/images/1/annotations", json=body)
    assert client.get("/api/images/1/draft").json() == {"draft": None}
