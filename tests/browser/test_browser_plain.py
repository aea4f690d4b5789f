"""The plain page, which is served where nobody built the other one, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browsing import DISCS_XY, SIZE_WH, Server, until

from anymask.geometry.rle import decode_rle

pytestmark = pytest.mark.slow


def test_click_resume_accept_next_on_the_plain_page(chromium: Any, serve: Callable[..., Server]) -> None:
    server = serve(has_page=False)
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(240_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    accept = page.get_by_role("button", name="Accept", exact=True)

    def click(x: float, y: float) -> None:
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + x * box["width"] / SIZE_WH[0], box["y"] + y * box["height"] / SIZE_WH[1])

    def shows(title: str) -> None:
        until(lambda: page.locator("#title").inner_text() == title, f"{title} is shown")

    page.goto(server.url)
    shows("a.png")
    x, y = DISCS_XY[0]
    click(x + 50, y)
    until(accept.is_enabled, "the server answered")
    until(lambda: server.draft(1) is not None, "the click is saved")

    # A closed laptop: the click is still there, and its answer comes again.
    page.reload()
    until(accept.is_enabled, "the click is answered again")
    accept.click()
    until(lambda: page.locator("#masks li").count() == 1, "the mask is in the list")
    (annotation,) = server.annotations(1)
    assert decode_rle(annotation["segmentation"])[y, x + 50]
    assert (annotation["clicks"], annotation["created_by"]) == (1, "anna")

    server.kill()
    server.start()
    page.get_by_role("button", name="Image done, next").click()
    shows("b.png")
    assert server.annotations(1) == [annotation]
    context.close()
    assert problems == []
