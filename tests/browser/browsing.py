"""What browser tests use: made-up photographs, a server in a process of its own, and a hand on the page."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

IMAGES = ("a.png", "b.png", "c.png")
# This machine by a name that is no loopback: what a tablet in the same network sees, an origin that is not secure.
OTHER_HOST = "annotate.test"
SIZE_WH = (640, 480)
# Centres of discs in every made-up photograph, in image pixels.
DISCS_XY = ((160, 140), (460, 150), (320, 350))


def make_photo(seed: int) -> np.ndarray:
    """Three bright discs, each with a darker core, on a noisy ground: SIZE_WH, uint8 BGR."""
    rng = np.random.default_rng(seed)
    width, height = SIZE_WH
    image = np.full((height, width, 3), (70, 90, 80), np.float64)
    for index, centre in enumerate(DISCS_XY):
        colour = [(60, 80, 220), (70, 200, 90), (210, 120, 60)][(index + seed) % 3]
        cv2.circle(image, centre, 75, colour, -1)
        cv2.circle(image, centre, 30, [part * 0.4 for part in colour], -1)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


# `anymask` as it is where no page was built.
WITHOUT_PAGE = """
import pathlib, anymask.server.app, anymask.cli.main
anymask.server.app.PAGE = pathlib.Path("/nowhere")
anymask.cli.main.main()
"""


class Server:
    """`anymask annotate` on a folder, in a process of its own that can be killed and started again.

    options: further ones of the command; has_page=False leaves the plain page that needs no Node.
    """

    def __init__(self, folder: Path, *options: str, has_page: bool = True) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.headers: dict[str, str] = {}
        self.options = options
        self.has_page = has_page
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = ["-m", "anymask"] if self.has_page else ["-c", WITHOUT_PAGE]
        command = [sys.executable, *program, "annotate", str(self.folder), "--no-browser", "--port", str(self.port)]
        with open(self.folder.parent / "server.log", "ab") as log:
            self.process = subprocess.Popen([*command, "--annotator", "anna", *self.options], stdout=log, stderr=log)
        until(self.answers, "the server answers", seconds=300)

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the server ended: {(self.folder.parent / 'server.log').read_text()[-2000:]}")
        try:
            self.get("session")
        except urllib.error.HTTPError:  # a token is asked for
            return True
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}api/{path}", headers=self.headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(f"{self.url}api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """Accepted and proposed ones."""
        return self.get(f"images/{image_id}/annotations")["annotations"]

    def draft(self, image_id: int) -> dict[str, Any] | None:
        return self.get(f"images/{image_id}/draft")["draft"]


def until(is_true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait for something that another process does; time in which this process itself is stopped does not count."""
    for _ in range(round(seconds / 0.1)):
        if is_true():
            return
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s in vain until {what}")


class Hand:
    """A page and what a person does on it; places are image pixels.

    who: another annotator than the server's own.
    """

    def __init__(
        self,
        browser: Any,
        server: Server,
        query: str = "",
        *,
        url: str | None = None,
        who: str | None = None,
        **options: Any,
    ) -> None:
        self.server = server
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.context.set_default_timeout(240_000)  # a busy machine is no failure
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        if who is not None:
            self.page.add_init_script(f"localStorage.setItem('anymask/annotator', {json.dumps(who)})")
        self.page.goto((url or server.url) + query)
        self.ready()

    def ready(self, file_name: str | None = None) -> None:
        """Wait until clicks are answered in the page (or by the server, where it must)."""

        def is_ready() -> bool:
            loading = self.page.locator("#progress").is_visible()
            mode = self.page.locator("#decoding").get_attribute("data-state")
            name = self.page.locator("#file-name").inner_text()
            return not loading and mode in ("page", "server") and name != "" and file_name in (None, name)

        until(is_ready, f"the page shows {file_name or 'an image'}", seconds=240)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where an image pixel is on the screen, while the whole image is shown."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        free_height = box["height"] - 100  # the bar's place
        scale = min((box["width"] - 40) / SIZE_WH[0], (free_height - 40) / SIZE_WH[1], 2)
        left = box["x"] + (box["width"] - SIZE_WH[0] * scale) / 2
        top = box["y"] + (free_height - SIZE_WH[1] * scale) / 2
        return left + x * scale, top + y * scale

    def click(self, x: float, y: float, button: str = "left") -> None:
        """Click and wait until the mask is drawn."""
        drawn = self.masks_drawn()
        self.page.mouse.click(*self.place(x, y), button=button)
        self.answered(drawn + 1)
        self.saved()

    def answered(self, masks_drawn: int) -> None:
        """Wait until so many masks were drawn, and the other candidates of the last are there too."""
        bar = self.page.locator(".bar")
        until(
            lambda: self.masks_drawn() >= masks_drawn and bar.get_attribute("aria-busy") == "false", "the mask is drawn"
        )

    def masks_drawn(self) -> int:
        return self.page.evaluate("performance.getEntriesByName('click-to-mask').length")

    def drag(self, start_xy: tuple[float, float], end_xy: tuple[float, float]) -> None:
        self.page.mouse.move(*self.place(*start_xy))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*end_xy), steps=8)
        self.page.mouse.up()

    def front_alpha(self, x: float, y: float) -> int:
        """How much is drawn over an image pixel in front: 0 nothing, 255 all."""
        left, top = self.place(x, y)
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        script = "([x, y]) => document.getElementById('front').getContext('2d').getImageData(x, y, 1, 1).data[3]"
        return self.page.evaluate(script, [round(left - box["x"]), round(top - box["y"])])

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def saved(self) -> None:
        until(lambda: self.page.locator("#saving").get_attribute("data-state") == "saved", "everything is saved")

    def accept(self) -> None:
        count = self.rows()
        self.press("Enter")
        until(lambda: self.rows() == count + 1, "the mask is in the list")
        self.saved()

    def rows(self) -> int:
        return self.page.locator(".mask").count()

    def close(self) -> None:
        self.context.close()
        assert self.problems == []
