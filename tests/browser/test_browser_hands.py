"""Hover, wheel, two fingers and painting fingers, as they reach the page from a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import DISCS_XY, Hand, Server, until

from anymask.geometry.rle import decode_rle, rle_area

pytestmark = pytest.mark.slow


class Fingers:
    """Fingers on the page, which come and go together; places are screen pixels."""

    def __init__(self, hand: Hand) -> None:
        self.session = hand.context.new_cdp_session(hand.page)

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def move(self, *ways: tuple[tuple[float, float], tuple[float, float]], steps: int = 6) -> None:
        """Put them down, move each from one place to another, lift them."""
        self.touch("touchStart", *(start for start, _ in ways))
        for step in range(1, steps + 1):
            share = step / steps
            self.touch(
                "touchMove",
                *((x0 + share * (x1 - x0), y0 + share * (y1 - y0)) for (x0, y0), (x1, y1) in ways),
            )
        self.touch("touchEnd")


@pytest.fixture
def tablet(chromium: Any, server: Server) -> Iterator[Hand]:
    """A person with a tablet."""
    hand = Hand(chromium, server, has_touch=True, is_mobile=True)
    yield hand
    hand.close()


def steps_of(server: Server) -> list[dict[str, Any]]:
    draft = server.draft(1)
    return [] if draft is None else draft["content"]["draft"]["steps"]


def added_of(server: Server) -> Any:
    """What was painted so far, as the server keeps it; None before the first stroke."""
    draft = server.draft(1)
    return None if draft is None else draft["content"]["draft"]["added"]


def test_the_mask_under_a_resting_pointer_is_shown_and_nothing_is_kept_of_it(hand: Hand, server: Server) -> None:
    x, y = DISCS_XY[0]  # the disc or its core, whichever is answered, reaches 15 pixels to the right
    assert hand.front_alpha(x + 15, y) == 0
    hand.page.mouse.move(*hand.place(x + 3, y))
    hand.page.mouse.move(*hand.place(x, y))
    until(lambda: hand.front_alpha(x + 15, y) > 0, "the preview is drawn")
    hand.page.mouse.move(*hand.place(620, 460))
    until(lambda: hand.front_alpha(x + 15, y) == 0, "the preview is gone when the pointer left it")
    assert hand.masks_drawn() == 0
    assert not hand.page.locator(".bar").is_visible()
    assert server.draft(1) is None

    # No previews while a mask is being made, and none for other tools.
    hand.press("b")
    hand.page.mouse.move(*hand.place(DISCS_XY[1][0] + 3, DISCS_XY[1][1]))
    hand.page.mouse.move(*hand.place(*DISCS_XY[1]))
    hand.page.wait_for_timeout(600)
    assert hand.front_alpha(DISCS_XY[1][0] + 15, DISCS_XY[1][1]) == 0


def test_wheel_and_space_move_the_picture_under_the_pointer(hand: Hand, server: Server) -> None:
    x, y = DISCS_XY[1]
    at = hand.place(x, y)
    hand.page.mouse.move(*at)
    hand.page.mouse.wheel(0, -400)
    hand.page.mouse.click(*at)
    hand.answered(1)
    hand.page.keyboard.down(" ")
    hand.page.mouse.down()
    hand.page.mouse.move(at[0] + 60, at[1] + 40, steps=4)
    hand.page.mouse.up()
    hand.page.keyboard.up(" ")
    hand.page.mouse.click(at[0] + 60, at[1] + 40, button="right")
    hand.answered(2)
    hand.saved()
    first, second = steps_of(server)
    assert (first["x"], first["y"]) == pytest.approx((x, y), abs=1)
    assert (second["x"], second["y"]) == pytest.approx((x, y), abs=1), "the picture came along"


def test_two_fingers_zoom_and_move_and_leave_no_click(tablet: Hand, server: Server) -> None:
    x, y = DISCS_XY[0]
    cx, cy = tablet.place(x, y)
    fingers = Fingers(tablet)
    # Apart to three times the distance, and 30 pixels to the right.
    fingers.move(((cx - 40, cy), (cx - 90, cy)), ((cx + 40, cy), (cx + 150, cy)))
    assert tablet.masks_drawn() == 0
    assert server.draft(1) is None, "the first finger's touch was taken back"
    tablet.page.touchscreen.tap(cx + 30, cy)
    tablet.answered(1)
    tablet.page.touchscreen.tap(cx + 30 + 60, cy)
    tablet.answered(2)
    tablet.saved()
    first, second = steps_of(server)
    assert (first["x"], first["y"]) == pytest.approx((x, y), abs=2)
    unzoomed = 60 / (tablet.place(1, 0)[0] - tablet.place(0, 0)[0])
    assert second["x"] - first["x"] == pytest.approx(unzoomed / 3, rel=0.05)


def test_a_finger_draws_boxes_and_paints(tablet: Hand, server: Server) -> None:
    x, y = DISCS_XY[1]
    fingers = Fingers(tablet)
    fingers.move((tablet.place(x - 80, y - 80), tablet.place(x + 80, y + 80)))
    until(lambda: len(steps_of(server)) == 1, "the box is saved")
    (step,) = steps_of(server)
    assert step["box"] == pytest.approx([x - 80, y - 80, x + 80, y + 80], abs=1)
    tablet.page.locator("[data-tool=brush]").tap()
    tablet.answered(1)
    fingers.move((tablet.place(30, 440), tablet.place(130, 440)))
    until(lambda: bool(added_of(server)), "the stroke is saved")
    added = added_of(server)
    assert rle_area(added) == pytest.approx(100 * 15, rel=0.3)
    # A second finger while painting: that was no stroke.
    fingers.touch("touchStart", tablet.place(300, 440))
    fingers.touch("touchMove", tablet.place(360, 440))
    fingers.touch("touchStart", tablet.place(360, 440), tablet.place(460, 440))
    fingers.touch("touchEnd")
    tablet.saved()
    assert added_of(server) == added


def test_corners_of_an_outline_are_moved_and_taken_away(hand: Hand, server: Server) -> None:
    def added() -> Any:
        hand.saved()
        return decode_rle(server.draft(1)["content"]["draft"]["added"])  # type: ignore[index]

    hand.press("q")  # a square by lasso
    hand.page.mouse.move(*hand.place(420, 300))
    hand.page.mouse.down()
    for x, y in ((520, 300), (520, 400), (420, 400), (420, 302)):
        hand.page.mouse.move(*hand.place(x, y), steps=5)
    hand.page.mouse.up()
    square = added()
    assert square.sum() == pytest.approx(100 * 100, rel=0.02)

    hand.press("w")
    hand.drag((520, 400), (560, 440))
    moved = added()
    assert moved[425, 545]
    assert (moved[:390, :510] == square[:390, :510]).all(), "elsewhere it stays as it was"
    hand.page.keyboard.down("Alt")
    hand.page.mouse.click(*hand.place(560, 440))
    hand.page.keyboard.up("Alt")
    assert added().sum() == pytest.approx(100 * 100 / 2, rel=0.05), "half of the square"
    hand.press("Control+z")
    assert (added() == moved).all()
    hand.press("Control+z")
    assert (added() == square).all()
