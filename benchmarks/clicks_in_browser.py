"""From click to drawn mask in a real headless Chromium, decoded in the page: the annotator's own latency.

    python benchmarks/clicks_in_browser.py            # tiny
    python benchmarks/clicks_in_browser.py vit_b      # the ViT decoder, 64x64x256, random weights

The server encodes one photograph of 1800x1200 (scikit-image's cat, enlarged), Chromium shows it at 1280x800, and clicks
fall all over the picture: each a new object, every third one refined by a second click. Times run from the browser's
own stamp of the button going down. "drawn" ends when the mask is painted into the canvas, "shown" after the frame that
puts it on the screen; "decoder" is the worker's part. Pointers do not rest before the click; where they do, the preview
has been decoded already, and "rested" says what is left. Random weights give masks of noise: the longest outlines.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE_WH = (1800, 1200)
LIMITS_MS = {"tiny": 50.0, "vit_b": 250.0}
# Where the whole picture lies in a window of 1280x800, with a margin.
LEFT, TOP, RIGHT, BOTTOM = 130, 120, 920, 640

RECORD = """
window.times = [];
new PerformanceObserver((list) => {
  for (const { startTime, duration, detail } of list.getEntriesByType("measure")) {
    const took = { drawn: duration, decoder: detail.worker };
    // A message behind the next frame's work arrives once that frame is handed to the screen.
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.times.push({ ...took, shown: performance.now() - startTime });
      port2.postMessage(null);
    });
  }
}).observe({ entryTypes: ["measure"] });
"""


@contextmanager
def serving(model: str, folder: Path) -> Iterator[str]:
    """`anymask annotate` on one photograph; gives its address. Models without packaged weights get random ones."""
    import skimage

    cat = cv2.imread(str(Path(skimage.__file__).parent / "data" / "chelsea.png"))
    cv2.imwrite(str(folder / "cat.jpg"), cv2.resize(cat, SIZE_WH, interpolation=cv2.INTER_CUBIC))
    command = [sys.executable, "-m", "anymask", "annotate", str(folder), "--no-browser", "--model", model]
    if model != "tiny":
        import torch

        import networks

        torch.save(networks.random_state(model), folder / "random.pth")
        command += ["--checkpoint", str(folder / "random.pth")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{url}api/session", timeout=30).status == 200, "the server")
        yield url
    finally:
        server.terminate()
        server.wait()


def wait_for(is_there: Any, what: str, seconds: float = 180) -> None:
    """Until something is so; no answer yet is no error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if is_there():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"{what} did not come within {seconds} s")


def click_everywhere(page: Any, clicks: int, rest_ms: float) -> list[dict[str, float]]:
    """Click, wait for the mask and all candidates, click again; the first three warm up."""
    chance = random.Random(0)
    bar = page.locator(".bar")
    page.evaluate("times.length = 0")
    for index in range(clicks + 3):
        if index % 3 != 2:
            page.keyboard.press("Escape")  # a new object
            page.wait_for_timeout(200)  # as quick as a hand that goes on to the next
        page.mouse.move(chance.uniform(LEFT, RIGHT), chance.uniform(TOP, BOTTOM))
        if rest_ms:
            page.wait_for_timeout(rest_ms)
        page.mouse.down()
        page.mouse.up()
        wait_for(lambda index=index: page.evaluate("times.length") > index, "a mask", 30)
        wait_for(lambda: bar.get_attribute("aria-busy") == "false", "the candidates", 30)
        page.wait_for_timeout(100)
    return page.evaluate("times")[3:]


def summary(times: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and maximum of each kind of time, in milliseconds."""
    found: dict[str, dict[str, float]] = {}
    for kind in ("decoder", "drawn", "shown"):
        values = np.array([time[kind] for time in times])
        figures = (np.median(values), np.percentile(values, 95), values.max())
        found[kind] = dict(zip(("median_ms", "p95_ms", "max_ms"), (round(float(ms), 1) for ms in figures), strict=True))
    return found


def main() -> None:
    """The command at the head of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="tiny", choices=sorted(LIMITS_MS))
    parser.add_argument("--clicks", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0, help="of the decoder; 0: as the page chooses")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, serving(options.model, Path(name)) as url, sync_playwright() as play:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = play.chromium.launch(executable_path=chromium, args=sandbox)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(RECORD)
        page.goto(f"{url}?threads={options.threads}")
        wait_for(lambda: page.locator("#decoding").get_attribute("data-state") == "page", "the decoder")
        wait_for(lambda: page.locator("#progress").is_hidden(), "the embedding")
        result: dict[str, Any] = summary(click_everywhere(page, options.clicks, 0))
        result["rested"] = summary(click_everywhere(page, options.clicks // 2, 400))["drawn"]
        how = page.locator("#decoding").get_attribute("title")
        browser.close()
    print(json.dumps({"model": options.model, "clicks": options.clicks, "how": how, **result}, indent=2))
    sys.exit(0 if result["drawn"]["median_ms"] < LIMITS_MS[options.model] else 1)


if __name__ == "__main__":
    main()
