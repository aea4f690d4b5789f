"""The store itself: migrations, other versions, statistics and exports; on PostgreSQL where there is one."""

from __future__ import annotations

import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from annotating import new_annotation, square
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from anymask.data.formats import read_dataset
from anymask.data.sa1b import write_sa1b
from anymask.server.scan import scan_folder
from anymask.server.statistics import collect_statistics, plot_annotation
from anymask.server.store import Store, StoreError
from anymask.server.tables import AnnotationRow, Base, EditRow, ImageRow, LeaseRow

App = Callable[..., FastAPI]

on_both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


Database = Callable[[Path], str | None]


@on_both
def test_migrations_make_the_tables_that_the_code_has(database: Database, tmp_path: Path) -> None:
    for _ in range(2):  # again: nothing left to do
        store = Store(database(tmp_path) or Store.in_folder(tmp_path))
        with store.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
            if store.is_sqlite:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        store.close()


@on_both
def test_a_store_of_a_newer_version_is_not_touched(database: Database, tmp_path: Path) -> None:
    url = database(tmp_path) or Store.in_folder(tmp_path)
    store = Store(url)
    with store.writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StoreError, match="9999"):
        Store(url)


@on_both
def test_servers_that_start_at_once_take_a_folder_in_once(
    database: Database, folder: Path, photo: Any, tmp_path: Path
) -> None:
    write_sa1b(folder / "a.json", "a.png", (120, 160), photo.masks_khw)
    url = database(folder) or Store.in_folder(folder)

    def start() -> None:
        store = Store(url)
        scan_folder(store, folder)
        store.close()

    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            started.result()
    store = Store(url)
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(ImageRow)) == 3
        assert session.scalar(select(func.count()).select_from(AnnotationRow)) == len(photo.masks_khw)
    store.close()


@on_both
def test_annotators_who_ask_at_once_get_images_of_their_own(make_app: App, folder: Path, photo: Any) -> None:
    """Also where every image was somebody's before, whose lease ran out."""
    for index in range(13):
        shutil.copy(folder / "a.png", folder / f"more{index}.png")
    client = TestClient(make_app(folder))
    store: Store = client.app.state.service.store  # type: ignore[attr-defined]
    with store.writing() as session:
        past = datetime.now(UTC) - timedelta(minutes=1)
        session.add_all(LeaseRow(image_id=image_id, holder="gone", expires_at=past) for image_id in range(1, 11))

    def ask(who: int) -> int:
        answer = client.post("/api/queue/next", json={}, headers={"X-Annotator": f"annotator {who}"})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["image"]["id"])

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(ask, range(16))) == list(range(1, 17))


@on_both
def test_what_is_odd_in_a_draft_comes_back(make_app: App, folder: Path) -> None:
    client = TestClient(make_app(folder))
    draft = {"revision": 1, "content": {"odd": "\u0000 \ud800 'é\"%s"}}
    body, headers = json.dumps(draft), {"content-type": "application/json"}
    assert client.put("/api/images/2/draft", content=body, headers=headers).status_code == 200
    assert client.get("/api/images/2/draft").json()["draft"]["content"] == draft["content"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:9/none",
        "nonsense",
        "sqlite://",
        "sqlite:////proc/no/such.sqlite",
        "nosuchdb://x/y",
    ],
)
def test_a_store_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(StoreError, match="store"):
        Store(url)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(StoreError, match=r"x\.sqlite"):
        Store(f"sqlite:///{tmp_path / 'x.sqlite'}")


@on_both
def test_nothing_of_a_failed_transaction_stays(client: TestClient) -> None:
    store = client.app.state.service.store  # type: ignore[attr-defined]
    body = new_annotation()
    client.post("/api/images/1/annotations", json=body)

    def fail() -> None:
        with store.writing() as session:
            session.execute(update(EditRow).values(who="nobody"))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        fail()
    assert client.get(f"/api/annotations/{body['id']}/history").json()["edits"][0]["by"] == "anna"


def fill(client: TestClient) -> None:
    """Anna makes two masks on two images and bert one; one of anna's is deleted, one of bert's edited."""
    for image_id, who, seconds in ((1, "anna", 10.0), (2, "anna", 20.0), (1, "bert", 6.0)):
        body = new_annotation(duration_s=seconds, category="cat", segmentation=square(10 * image_id))
        made = client.post(f"/api/images/{image_id}/annotations", json=body, headers={"X-Annotator": who}).json()
    edit = {"version": 1, "edit_id": str(uuid.uuid4()), "segmentation": square(60), "duration_s": 2.0}
    client.patch(f"/api/annotations/{made['id']}", json=edit, headers={"X-Annotator": "anna"})
    gone = client.post("/api/images/3/annotations", json=new_annotation()).json()
    client.delete(f"/api/annotations/{gone['id']}?version=1")
    client.post("/api/images/1/done", json={})


@on_both
def test_statistics_per_person_and_day(client: TestClient, tmp_path: Path) -> None:
    fill(client)
    store: Store = client.app.state.service.store  # type: ignore[attr-defined]
    with store.writing() as session:  # anna worked yesterday
        yesterday = datetime.now(UTC) - timedelta(days=1)
        session.execute(update(EditRow).where(EditRow.who == "anna").values(at=yesterday))
    with store.reading() as session:
        collected = collect_statistics(session, UTC)
    facts = collected.to_json()
    assert facts["total"]["masks"] == 3
    assert facts["total"]["images"] == 2
    assert facts["total"]["seconds_per_mask"] == 10
    assert facts["total"]["masks_per_image"] == 1.5
    assert facts["total"]["clicks_per_mask"] == 1
    assert [(row["annotator"], row["masks"]) for row in facts["rows"]] == [("anna", 2), ("bert", 1)]
    assert facts["rows"][0]["day"] < facts["rows"][1]["day"]
    assert facts["rows"][1]["seconds_per_mask"] == 8, "a mask's later seconds count where it was made"
    assert facts["images"]["done"] == 1
    assert client.get("/api/stats").json()["total"] == facts["total"]
    plot_annotation(collected, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@on_both
@pytest.mark.parametrize("format_name", ["sa1b", "coco"])
def test_what_is_exported_is_what_was_accepted(client: TestClient, tmp_path: Path, format_name: str) -> None:
    fill(client)
    answer = client.get(f"/api/export?format={format_name}")
    assert answer.headers["content-type"] == "application/zip"
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path / "out")
    images = {image.file_name: image for image in read_dataset(tmp_path / "out", format_name, tmp_path / "pictures")}
    assert set(images) == {"a.png", "b.jpg"}
    found = client.get("/api/images/1/annotations").json()["annotations"]
    assert [record.segmentation for record in images["a.png"].records] == [mask["segmentation"] for mask in found]
    record = images["a.png"].records[0]
    assert record.category == "cat"
    assert record.predicted_iou == 0.9
    assert record.point_coords == [[20, 30]]
    assert record.extra["annotation_id"] == found[0]["id"]
    assert record.extra["duration_s"] == 10


@on_both
def test_a_prefilled_mask_keeps_what_its_file_said_until_it_is_fixed(
    make_app: App, folder: Path, photo: Any, tmp_path: Path
) -> None:
    extras = [{"stability_score": 0.97, "crop_box": [0, 0, 80, 60], "mine": 5}] * 4
    write_sa1b(folder / "a.json", "a.png", (120, 160), photo.masks_khw, extras)
    client = TestClient(make_app(folder))
    first, second, *_ = client.get("/api/images/1/annotations").json()["annotations"]
    for mask, change in ((first, {}), (second, {"segmentation": square()})):
        edit = {"version": 1, "edit_id": str(uuid.uuid4()), "status": "accepted", **change}
        assert client.patch(f"/api/annotations/{mask['id']}", json=edit).status_code == 200
    sizes = {}
    for include in ("accepted", "all"):
        archive = zipfile.ZipFile(io.BytesIO(client.get(f"/api/export?include={include}").content))
        sizes[include] = json.loads(archive.read("a.json"))["annotations"]
    assert (len(sizes["accepted"]), len(sizes["all"])) == (2, 4)
    kept = next(entry for entry in sizes["accepted"] if entry["annotation_id"] == first["id"])
    fixed = next(entry for entry in sizes["accepted"] if entry["annotation_id"] == second["id"])
    assert (kept["stability_score"], kept["crop_box"], kept["mine"]) == (0.97, [0, 0, 80, 60], 5)
    assert "stability_score" not in fixed
    assert fixed["area"] == 900


@on_both
def test_names_that_collide_in_an_export_are_said(make_app: App, folder: Path, photo: Any) -> None:
    from PIL import Image

    (folder / "inner").mkdir()
    Image.fromarray(photo.image).save(folder / "inner" / "a.png")
    client = TestClient(make_app(folder, recursive=True))
    for image_id in (1, 4):
        assert client.post(f"/api/images/{image_id}/done", json={}).status_code == 200
    answer = client.get("/api/export?format=sa1b")
    assert answer.status_code == 422
    assert "inner/a.png" in answer.json()["detail"]
    assert client.get("/api/export?format=coco").status_code == 200
