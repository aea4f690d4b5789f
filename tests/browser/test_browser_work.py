"""An annotator's day: proposals, the paper's rules, undo over everything, colleagues, all images, other machines."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browsing import DISCS_XY, OTHER_HOST, SIZE_WH, Hand, Server, until

from anymask.data.sa1b import write_sa1b
from anymask.geometry.rle import decode_rle

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


def disc(x: int, y: int, radius: int) -> np.ndarray:
    mask = np.zeros((SIZE_WH[1], SIZE_WH[0]), np.uint8)
    cv2.circle(mask, (x, y), radius, 1, -1)
    return mask.astype(bool)


def test_proposals_are_accepted_fixed_or_deleted(chromium: Any, folder: Path, serve: Serve) -> None:
    # The discs as somebody outlined them before: one well, one too small, one where there is nothing, one more.
    masks = np.stack([disc(*DISCS_XY[0], 75), disc(*DISCS_XY[1], 40), disc(580, 400, 30), disc(*DISCS_XY[2], 75)])
    write_sa1b(folder / "a.json", "a.png", (SIZE_WH[1], SIZE_WH[0]), masks, [{"category": "disc"}] * 4)
    server = serve()
    hand = Hand(chromium, server)
    assert hand.page.locator(".mask[data-status=proposed]").count() == 4
    assert hand.page.locator(".group").first.inner_text().startswith("Proposed, 4 to check")
    listed = {tuple(one["bbox"]): one["id"] for one in server.annotations(1)}
    by_place = [listed[tuple(box)] for box in sorted(listed, key=lambda box: box[0])]
    well, low, small, nothing = by_place  # from left to right

    def select(key: str) -> None:
        row = hand.page.locator(f".mask[data-id='{key}']")
        if "is-selected" not in (row.get_attribute("class") or ""):  # another click would take it back
            row.click()

    def states() -> dict[str, str]:
        return {one["id"]: one["status"] for one in server.annotations(1)}

    # Enter accepts and goes to the next one.
    select(well)
    hand.press("Enter")
    hand.saved()
    assert states()[well] == "accepted"
    assert hand.page.locator(".mask.is-selected").get_attribute("data-status") == "proposed"

    # One is fixed: taken up, clicked where it lacks, accepted.
    select(small)
    hand.press("e")
    hand.click(DISCS_XY[1][0] + 60, DISCS_XY[1][1])
    hand.press("Enter")
    hand.saved()
    (fixed,) = [one for one in server.annotations(1) if one["id"] == small]
    assert (fixed["status"], fixed["fixed"], fixed["stage"], fixed["clicks"]) == ("accepted", True, "prefilled", 1)
    assert decode_rle(fixed["segmentation"])[DISCS_XY[1][1], DISCS_XY[1][0] + 60], "what was clicked belongs to it"

    select(nothing)
    hand.press("Delete")
    hand.saved()
    assert nothing not in states()
    hand.page.get_by_text("Accept all").click()
    hand.saved()
    assert states() == dict.fromkeys((well, low, small), "accepted")
    hand.press("Control+z")  # of all at once
    hand.saved()
    assert states()[low] == "proposed"
    hand.close()


def test_after_long_on_a_mask_a_gentle_sign_offers_the_next_image(chromium: Any, serve: Serve) -> None:
    server = serve("--seconds-per-mask", "5")
    hand = Hand(chromium, server)
    nudge = hand.page.locator(".nudge")
    hand.click(*DISCS_XY[0])
    until(nudge.is_visible, "the sign is shown")
    assert "5 s" in nudge.inner_text()
    nudge.get_by_text("Good enough, next image").click()
    hand.ready("b.png")
    hand.saved()
    image = server.get("images/1")
    assert (image["state"], image["done_reason"], image["masks"]) == ("done", "good-enough", 1)
    (annotation,) = server.annotations(1)
    assert annotation["duration_s"] >= 5
    assert not nudge.is_visible()
    hand.close()


def test_undo_and_redo_go_over_everything(hand: Hand, server: Server) -> None:
    def click_here(x: float, y: float) -> Callable[[], None]:
        return lambda: hand.click(x, y)

    def label() -> None:
        hand.press("ArrowDown")
        hand.press("l")
        hand.page.keyboard.type("disc")
        hand.press("Enter")

    def take_up() -> None:
        hand.press("ArrowDown")
        hand.press("e")

    def box() -> None:
        drawn = hand.masks_drawn()
        hand.press("a")
        hand.drag((380, 70), (540, 230))
        hand.answered(drawn + 1)

    actions: list[Callable[[], None]] = [
        click_here(*DISCS_XY[0]),
        lambda: hand.press("Tab"),
        click_here(DISCS_XY[0][0] + 40, DISCS_XY[0][1]),
        lambda: (hand.press("b"), hand.drag((20, 440), (60, 440))),  # type: ignore[list-item, return-value]
        lambda: (hand.press("x"), hand.drag((40, 430), (40, 460))),  # type: ignore[list-item, return-value]
        lambda: hand.press("Enter"),
        label,
        lambda: hand.press("m"),
        lambda: hand.press("m"),
        take_up,
        lambda: hand.press("Escape"),
        box,
        lambda: hand.press("Enter"),
        lambda: (hand.press("ArrowDown"), hand.press("Delete")),  # type: ignore[list-item, return-value]
    ]

    def state() -> Any:
        hand.saved()
        draft = server.draft(1)
        shown = draft and draft["content"]["draft"]
        return (
            [(one["id"], one["category"], one["segmentation"]["counts"]) for one in server.annotations(1)],
            shown and [shown[part] for part in ("id", "steps", "added", "erased", "base")],
            hand.page.locator(".mask.is-hidden").count(),
        )

    states = [state()]
    for action in actions:
        action()
        states.append(state())
        assert states[-1] != states[-2], f"action {len(states) - 1} changed nothing"
    for index in reversed(range(len(actions))):
        hand.press("Control+z")
        assert state() == states[index], f"undo back to {index}"
    assert hand.page.get_by_title("Undo (Z)").is_disabled()
    for index in range(1, len(states)):
        hand.press("Control+Shift+z")
        assert state() == states[index], f"redo up to {index}"
    assert hand.page.get_by_title("Redo (Shift Z)").is_disabled()


def test_colleagues_get_other_images_and_may_take_one_over(chromium: Any, hand: Hand, server: Server) -> None:
    bert = Hand(chromium, server, who="bert")
    assert bert.page.locator("#file-name").inner_text() == "b.png", "anna has the first"
    bert.page.get_by_title("All images (O)").click()
    tile = bert.page.locator(".tile", has_text="a.png")
    until(lambda: "anna" in tile.inner_text(), "the sheet says who has it")
    tile.click()
    question = bert.page.get_by_role("heading", name="anna works on this image")
    question.wait_for()
    bert.page.get_by_role("button", name="Leave it").click()
    assert bert.page.locator("#file-name").inner_text() == "b.png"
    bert.press("o")
    tile.hover()
    bert.page.mouse.down()
    bert.page.wait_for_timeout(800)  # the list comes anew, and the button under the finger stays
    bert.page.mouse.up()
    bert.page.get_by_role("button", name="Take over").click()
    bert.ready("a.png")
    assert server.get("images/1")["lease"]["holder"] == "bert"

    # Anna's mask is kept all the same.
    hand.click(*DISCS_XY[0])
    hand.accept()
    assert [one["created_by"] for one in server.annotations(1)] == ["anna"]
    bert.close()


def test_the_sheet_of_all_images_shows_how_far_it_is_and_downloads(hand: Hand, server: Server) -> None:
    hand.click(*DISCS_XY[0])
    hand.accept()
    hand.press("g")
    hand.ready("b.png")
    hand.press("o")
    sheet = hand.page.locator(".overview")
    until(lambda: "1 mask on 1 image" in sheet.inner_text(), "the figures are there")
    until(lambda: sheet.locator(".tile").count() == 3, "so are the tiles")
    assert sheet.locator(".tile[data-state=done]").count() == 1
    until(
        lambda: hand.page.evaluate("[...document.querySelectorAll('.tile img')].every((img) => img.naturalWidth > 0)"),
        "the pictures are there",
    )
    for format_name, member in (("SA-1B", "a.json"), ("COCO", "annotations.json")):
        with hand.page.expect_download() as coming:
            sheet.get_by_text(format_name, exact=True).click()
        archive = zipfile.ZipFile(io.BytesIO(Path(coming.value.path()).read_bytes()))
        assert any(name.endswith(member) for name in archive.namelist()), archive.namelist()
        content = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(member))))
        assert len(content["annotations"]) == 1
    sheet.get_by_text("Done 1").click()
    sheet.locator(".tile").click()
    hand.ready("a.png")
    assert hand.rows() == 1


def test_a_tablet_in_the_same_network_needs_the_token_and_works(chromium: Any, serve: Serve) -> None:
    """Not at loopback, not over https: no threads and no random UUIDs from the browser, but the same page."""
    server = serve("--host", "0.0.0.0", "--token", "a-long-secret")
    other = f"http://{OTHER_HOST}:{server.port}/"
    stranger = chromium.new_page()
    assert stranger.goto(other).status == 401
    stranger.close()
    hand = Hand(chromium, server, url=other, query="?token=a-long-secret")
    assert hand.page.evaluate("isSecureContext") is False
    assert "token" not in hand.page.url
    assert hand.page.locator("#decoding").get_attribute("data-state") == "page"
    hand.click(*DISCS_XY[0])
    hand.accept()
    server.headers["Authorization"] = "Bearer a-long-secret"
    assert len(server.annotations(1)) == 1
    hand.close()
