"""What the tests of the annotation server send, and how they wait."""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from anymask.geometry.rle import encode_rle

SIZE_HW = (120, 160)


def square(x: int = 10, y: int = 20, side: int = 30, size_hw: tuple[int, int] = SIZE_HW) -> dict[str, Any]:
    """The code of a square mask."""
    mask = np.zeros(size_hw, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return encode_rle(mask)


def new_annotation(**fields: Any) -> dict[str, Any]:
    """What a page sends when a mask is accepted."""
    log = [{"t": 0.5, "kind": "point", "xy": [20, 30], "label": 1}, {"t": 2.0, "kind": "accept"}]
    whole = {"id": str(uuid.uuid4()), "segmentation": square(), "log": log, "duration_s": 2.0, "predicted_iou": 0.9}
    return whole | fields


def ask_until_ready(client: TestClient, method: str, url: str, seconds: float = 60, **options: Any) -> Any:
    """The answer of a route that says 202 until it has one."""
    end = time.monotonic() + seconds
    while True:
        answer = client.request(method, url, **options)
        if answer.status_code != 202:
            return answer
        assert float(answer.headers["retry-after"]) > 0
        assert time.monotonic() < end, f"{url} is not ready after {seconds} s"
        time.sleep(0.05)
