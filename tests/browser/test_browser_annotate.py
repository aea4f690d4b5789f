"""The annotator's page, driven as a person drives it, against the real server."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from browsing import DISCS_XY, Hand, Server, until
from pycocotools import mask as coco_mask

from anymask.geometry.masks import mask_iou
from anymask.geometry.rle import decode_rle

pytestmark = pytest.mark.slow


def test_click_refine_brush_undo_accept_next_and_nothing_is_lost_when_the_server_dies(
    hand: Hand, server: Server
) -> None:
    (first, *_), x_y = server.get("images")["images"], DISCS_XY[0]
    image_id = first["id"]

    # Click, another candidate, refine, brush; then everything back and forth again.
    hand.click(*x_y)
    until(lambda: hand.page.locator(".candidate").count() == 3, "three candidates are shown")
    chosen = hand.page.locator(".candidate[aria-checked=true]").get_attribute("data-token")
    hand.press("Tab")
    assert hand.page.locator(".candidate[aria-checked=true]").get_attribute("data-token") != chosen
    hand.click(x_y[0] + 50, x_y[1])
    hand.click(600, 440, button="right")
    hand.press("b")
    hand.drag((20, 440), (60, 440))
    hand.saved()
    steps = server.draft(image_id)["content"]["draft"]["steps"]
    assert [step["label"] for step in steps] == [1, 1, 0]
    painted = server.draft(image_id)["content"]["draft"]["added"]
    assert coco_mask.area(painted) > 40 * 15
    hand.press("Control+z")
    hand.saved()
    assert server.draft(image_id)["content"]["draft"]["added"] is None
    hand.press("Control+Shift+z")
    hand.saved()
    assert server.draft(image_id)["content"]["draft"]["added"] == painted

    # The same click is there after a power cut of the server, and undo goes on from it.
    server.kill()
    server.start()
    hand.page.reload()
    hand.ready("a.png")
    assert hand.page.locator(".bar").is_visible()
    hand.press("Control+z")
    hand.press("Control+z")
    hand.saved()
    assert len(server.draft(image_id)["content"]["draft"]["steps"]) == 2
    hand.press("Control+Shift+z")
    hand.press("Control+Shift+z")

    hand.accept()
    (annotation,) = server.annotations(image_id)
    assert (annotation["status"], annotation["version"], annotation["created_by"]) == ("accepted", 1, "anna")
    assert annotation["clicks"] == 3
    assert server.draft(image_id) is None

    # Undo and redo of the acceptance reach the store too; the history there keeps both.
    hand.press("Control+z")
    hand.saved()
    assert server.annotations(image_id) == []
    hand.press("Control+Shift+z")
    hand.saved()
    assert [one["id"] for one in server.annotations(image_id)] == [annotation["id"]]

    hand.press("g")
    hand.ready("b.png")
    assert server.get(f"images/{image_id}")["state"] == "done"
    hand.press("ArrowLeft")
    hand.ready("a.png")
    assert hand.rows() == 1


def test_work_goes_on_while_the_server_is_away(hand: Hand, server: Server) -> None:
    image_id = server.get("images")["images"][0]["id"]
    hand.click(*DISCS_XY[0])
    server.kill()
    hand.press("Enter")
    drawn = hand.masks_drawn()
    hand.page.mouse.click(*hand.place(*DISCS_XY[1]))
    hand.answered(drawn + 1)
    hand.press("Enter")
    until(lambda: hand.rows() == 2, "both masks are in the list")
    saving = hand.page.locator("#saving")
    until(lambda: saving.get_attribute("data-state") == "offline", "the page says that the server is away")
    server.start()
    hand.saved()
    assert len(server.annotations(image_id)) == 2

    # What could not be told before the page itself was gone is told by the next one.
    server.kill()
    hand.page.locator(".mask").first.hover()
    hand.page.locator(".mask").first.get_by_title("Delete").click()
    hand.page.goto("about:blank")
    server.start()
    hand.page.goto(server.url)
    hand.ready("a.png")
    hand.saved()
    assert len(server.annotations(image_id)) == 1


def masks_of(chromium: Any, server: Server, query: str) -> list[np.ndarray]:
    """What two first clicks, a refined click and a box give on the first image."""
    hand = Hand(chromium, server, query)
    wanted = "server" if query else "page"
    assert hand.page.locator("#decoding").get_attribute("data-state") == wanted
    image_id = server.get("images")["images"][0]["id"]
    hand.click(*DISCS_XY[0])
    hand.accept()
    hand.click(DISCS_XY[1][0] + 40, DISCS_XY[1][1] + 20)
    hand.accept()
    hand.click(*DISCS_XY[2])
    hand.click(DISCS_XY[2][0] - 55, DISCS_XY[2][1])
    hand.click(30, 30, button="right")
    hand.accept()
    drawn = hand.masks_drawn()
    hand.drag((380, 70), (540, 230))
    hand.answered(drawn + 1)
    hand.accept()
    annotations = server.annotations(image_id)
    for _ in annotations:
        hand.press("ArrowDown")
        hand.press("Delete")
    hand.saved()
    assert server.annotations(image_id) == []
    hand.close()
    return [decode_rle(annotation["segmentation"]) for annotation in annotations]


def test_page_and_server_decode_to_the_same_masks(chromium: Any, server: Server) -> None:
    in_page, by_server = masks_of(chromium, server, ""), masks_of(chromium, server, "?decode=server")
    assert len(in_page) == len(by_server) == 4
    ious = [mask_iou(a, b) for a, b in zip(in_page, by_server, strict=True)]
    assert min(ious) >= 0.99, ious


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_codes_of_painted_masks_are_those_of_pycocotools(hand: Hand, server: Server) -> None:
    image_id = server.get("images")["images"][0]["id"]
    hand.press("b")
    hand.drag((0, 0), (0, 479))  # along the border, corner to corner
    hand.drag((100, 100), (300, 220))
    hand.press("]")
    hand.drag((639, 479), (500, 479))
    hand.press("x")
    hand.press("[")
    hand.drag((150, 60), (180, 300))
    hand.press("q")
    hand.drag((400, 100), (520, 100))  # a lasso without area adds nothing
    hand.accept()
    (annotation,) = server.annotations(image_id)
    rle = annotation["segmentation"]
    mask = coco_mask.decode(rle)
    assert coco_mask.encode(np.asfortranarray(mask))["counts"].decode() == rle["counts"]
    assert int(mask.sum()) == annotation["area"] > 200 * 15
    assert mask[:470, 0].all()
    assert not mask[:, 330:490].any()
    # The eraser cut the stroke in two: four parts with those on the borders.
    assert cv2.connectedComponents(mask)[0] - 1 == 4


def test_a_conflict_is_shown_and_decided_by_the_person(hand: Hand, server: Server) -> None:
    image_id = server.get("images")["images"][0]["id"]
    hand.click(*DISCS_XY[0])
    hand.accept()
    (annotation,) = server.annotations(image_id)
    change = {"version": annotation["version"], "edit_id": "7d0f5b0e-8f3e-4a4e-9a55-3a3e7c2a1b10", "category": "theirs"}
    server.send("PATCH", f"annotations/{annotation['id']}", change)

    hand.press("ArrowDown")
    hand.press("l")
    hand.page.keyboard.type("mine")
    hand.press("Enter")
    notice = hand.page.locator(".notice[data-name=conflict]")
    notice.wait_for()
    assert server.annotations(image_id)[0]["category"] == "theirs"
    notice.get_by_text("Keep mine").click()
    until(lambda: server.annotations(image_id)[0]["category"] == "mine", "mine is kept")


def test_fingers_and_themes(chromium: Any, server: Server) -> None:
    hand = Hand(chromium, server, has_touch=True, is_mobile=True, color_scheme="light")
    assert hand.page.locator("html").get_attribute("data-theme") == "light"
    hand.page.touchscreen.tap(*hand.place(*DISCS_XY[0]))
    hand.answered(1)
    hand.page.locator("[data-tool=remove]").tap()
    hand.page.touchscreen.tap(*hand.place(600, 440))
    hand.answered(2)
    hand.page.locator(".bar").get_by_text("Accept").tap()
    until(lambda: hand.rows() == 1, "the mask is in the list")
    hand.page.get_by_title("Dark or light").tap()
    assert hand.page.locator("html").get_attribute("data-theme") == "dark"
    hand.page.reload()
    hand.ready()
    assert hand.page.locator("html").get_attribute("data-theme") == "dark"
    assert hand.rows() == 1
    hand.close()
