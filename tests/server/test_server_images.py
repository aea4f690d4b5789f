"""The queue, leases, pictures, prefilled masks, and what becomes of a folder that changes."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotating import new_annotation, square
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from anymask.data.sa1b import write_sa1b
from anymask.server import Rules

App = Callable[..., FastAPI]

on_both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def next_id(client: TestClient, who: str, after: int | None = None) -> int | None:
    answer = client.post("/api/queue/next", json={"after": after}, headers={"X-Annotator": who})
    assert answer.status_code == 200, answer.text
    image = answer.json()["image"]
    return None if image is None else image["id"]


@on_both
def test_annotators_are_given_different_images(client: TestClient) -> None:
    assert [next_id(client, who) for who in ("anna", "bert", "cleo")] == [1, 2, 3]
    assert next_id(client, "dora") is None
    assert next_id(client, "bert") == 2, "a reload gives the same image back"
    assert next_id(client, "bert", after=2) == 2, "round the folder to the only one that is free"
    client.post("/api/images/1/done", json={"reason": "good-enough"}, headers={"X-Annotator": "anna"})
    assert next_id(client, "anna", after=1) is None
    states = [image["state"] for image in client.get("/api/images").json()["images"]]
    assert states == ["done", "open", "open"]


@on_both
def test_a_lease_runs_out(make_app: App, folder: Path) -> None:
    app = make_app(folder, rules=Rules(lease_seconds=0.05))
    client = TestClient(app)
    assert next_id(client, "anna") == 1
    app.state.service.desk.lease_seconds = 60
    time.sleep(0.1)
    assert next_id(client, "bert") == 1
    answer = client.post("/api/images/1/lease", json={}, headers={"X-Annotator": "anna"})
    assert answer.status_code == 409
    assert answer.json()["current"]["lease"]["holder"] == "bert"
    late = client.post("/api/images/1/annotations", json=new_annotation(), headers={"X-Annotator": "anna"})
    assert late.status_code == 201, "a lost lease never loses a mask"
    assert client.get("/api/images/1").json()["lease"]["holder"] == "bert"
    taken = client.post("/api/images/1/lease", json={"take": True}, headers={"X-Annotator": "anna"})
    assert taken.json()["lease"]["mine"] is True
    client.delete("/api/images/1/lease", headers={"X-Annotator": "bert"})
    assert client.get("/api/images/1").json()["lease"]["holder"] == "anna", "nobody gives back another's lease"


@on_both
def test_done_can_be_repeated_and_undone(client: TestClient) -> None:
    for _ in range(2):
        answer = client.post("/api/images/2/done", json={"reason": "complete", "seconds": 12.5}).json()
        assert (answer["state"], answer["done_by"], answer["done_reason"]) == ("done", "anna", "complete")
    assert client.get("/api/images?state=done").json()["total"] == 1
    assert client.post("/api/images/2/reopen").json()["state"] == "open"
    assert client.get("/api/session").json()["counts"]["open"] == 3


def test_pictures_come_upright_and_small_when_asked(make_app: App, folder: Path) -> None:
    tall = Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.full((30, 50), 7000, dtype=np.uint16)).save(folder / "deep.tif")
    client = TestClient(make_app(folder))
    ids = {image["file_name"]: image for image in client.get("/api/images").json()["images"]}
    assert (ids["turned.jpg"]["width"], ids["turned.jpg"]["height"]) == (40, 80)
    for name, size_wh in (("turned.jpg", (40, 80)), ("deep.tif", (50, 30)), ("a.png", (160, 120))):
        answer = client.get(f"/api/images/{ids[name]['id']}/picture")
        with Image.open(io.BytesIO(answer.content)) as shown:
            assert shown.size == size_wh
            assert shown.getexif().get(0x0112, 1) == 1
            assert answer.headers["content-type"] in ("image/jpeg", "image/png")
    url = f"/api/images/{ids['a.png']['id']}/picture?max_side=64"
    small = client.get(url)
    assert Image.open(io.BytesIO(small.content)).size == (64, 48)
    assert client.get(url, headers={"if-none-match": small.headers["etag"]}).status_code == 304


def test_nothing_outside_the_folder_is_shown(make_app: App, folder: Path, photo: Any) -> None:
    secret = folder.parent / "secret.png"
    Image.fromarray(photo.image).save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "inner.png").symlink_to(folder / "a.png")
    app = make_app(folder)
    client = TestClient(app)
    names = [image["file_name"] for image in client.get("/api/images").json()["images"]]
    assert "link.png" not in names
    assert "inner.png" in names
    assert any("link.png" in problem for problem in client.get("/api/session").json()["problems"])
    (folder / "b.jpg").unlink()
    (folder / "b.jpg").symlink_to(secret)  # after the folder was taken in
    image_id = names.index("b.jpg") + 1
    for url in (f"/api/images/{image_id}/picture", f"/api/images/{image_id}/embedding"):
        assert client.get(url).status_code == 422
    for path in (
        "/../secret.png",
        "/%2e%2e/secret.png",
        "/..%2fsecret.png",
        "/api/images/..%2f..%2fsecret.png/picture",
    ):
        assert client.get(path).status_code in (404, 422)


@on_both
def test_broken_pictures_are_named_and_left_out_of_the_queue(make_app: App, folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    client = TestClient(make_app(folder))
    [broken] = client.get("/api/images?state=broken").json()["images"]
    assert broken["file_name"] == "a.png"
    assert "a.png" in broken["problem"]
    assert str(folder) not in broken["problem"]
    assert next_id(client, "anna") == 2
    assert client.get("/api/images/1/picture").status_code == 422


@on_both
def test_masks_beside_the_pictures_become_proposals_once(make_app: App, folder: Path, photo: Any) -> None:
    extras = [{"category": "cat", "predicted_iou": 0.9, "stability_score": 0.97}] * len(photo.masks_khw)
    write_sa1b(folder / "a.json", "a.png", (120, 160), photo.masks_khw, extras)
    coco = {
        "images": [{"id": 5, "file_name": "b.jpg", "height": 120, "width": 160}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))
    for _ in range(2):
        client = TestClient(make_app(folder))
        found = client.get("/api/images/1/annotations").json()["annotations"]
        assert len(found) == len(photo.masks_khw)
        assert {(mask["status"], mask["stage"], mask["category"]) for mask in found} == {
            ("proposed", "prefilled", "cat")
        }
        [other] = client.get("/api/images/2/annotations").json()["annotations"]
        assert other["category"] == "dog"
    edit = {"version": 1, "edit_id": "7a3d3c4e-7d3e-4d0e-8e3e-0d3c4e7d3e4d", "status": "accepted"}
    accepted = client.patch(f"/api/annotations/{found[0]['id']}", json=edit).json()
    assert (accepted["status"], accepted["stage"], accepted["fixed"]) == ("accepted", "prefilled", False)
    fixed = client.patch(
        f"/api/annotations/{found[1]['id']}",
        json={**edit, "edit_id": "8a3d3c4e-7d3e-4d0e-8e3e-0d3c4e7d3e4d", "segmentation": square()},
    ).json()
    assert fixed["fixed"] is True
    image = client.get("/api/images/1").json()
    assert (image["masks"], image["proposed"]) == (2, 2)
    assert client.post("/api/images/1/done", json={"accept_proposed": True}).json()["masks"] == 4


def test_a_picture_that_changed_size_keeps_its_masks_and_says_so(make_app: App, folder: Path, photo: Any) -> None:
    client = TestClient(make_app(folder))
    client.post("/api/images/1/annotations", json=new_annotation())
    Image.fromarray(photo.image[:60]).save(folder / "a.png")
    (folder / "b.jpg").unlink()
    assert client.get("/api/images/1/picture").status_code == 422
    again = TestClient(make_app(folder))
    images = again.get("/api/images").json()["images"]
    assert [image["state"] for image in images] == ["broken", "broken", "open"]
    assert images[0]["masks"] == 1
    assert "gone" in images[1]["problem"]


@pytest.mark.parametrize("name", ["", "%20", "x" * 65, "%00", "a%0ab"])
def test_a_name_that_cannot_be_stored_is_refused(client: TestClient, name: str) -> None:
    assert client.get("/api/session", headers={"X-Annotator": name}).status_code == 422
