"""Scripted annotators in parallel against a running server: nothing lost, nothing doubled, every call quick.

    anymask annotate FOLDER --port 8620 &
    python benchmarks/annotators.py http://127.0.0.1:8620 --annotators 10 --seconds 120

Each one leases an image, draws random masks on it with a click log, autosaves, edits, deletes and restores, repeats
some requests as a bad network would, and goes on to the next. In the end the store is compared with what each was told.
Calls that need the model are left out. Exit code 1 when something is wrong or a call's 95th percentile is over 200 ms.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from anymask.geometry.rle import encode_rle

P95_SECONDS = 0.2


@dataclass
class Diary:
    """What one annotator saw: seconds of each kind of call, the newest state of each mask, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Annotator:
    """One scripted annotator; `client` speaks to the server. think: seconds between actions."""

    def __init__(self, name: str, client: httpx.Client, seed: int, think: float) -> None:
        self.client = client
        self.name = name
        self.chance = random.Random(seed)
        self.think = think
        self.diary = Diary()

    def work(self, end: float) -> None:
        """Annotate until the clock says `end` (of time.monotonic) or nothing is left."""
        after: int | None = None
        try:
            while time.monotonic() < end:
                image = self.call("next", "POST", "/api/queue/next", {"after": after})["image"]
                if image is None:
                    break
                self.diary.images.append(image["id"])
                self.annotate(image, end)
                after = image["id"]
                self.call("done", "POST", f"/api/images/{after}/done", {"reason": "complete"})
        except Exception as error:
            self.diary.errors.append(f"{self.name}: {error!r}")

    def annotate(self, image: dict[str, Any], end: float) -> None:
        """A few masks on one image."""
        place = f"/api/images/{image['id']}"
        self.call("image", "GET", place)
        self.call("list", "GET", f"{place}/annotations")
        for revision in range(self.chance.randint(3, 8)):
            if time.monotonic() > end:
                return
            key = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
            draft = {"annotation_id": key, "revision": revision, "content": {"clicks": [[1, 2]] * revision}}
            self.call("draft", "PUT", f"{place}/draft", draft)
            body = {
                "id": key,
                "segmentation": self.blob(image["height"], image["width"]),
                "log": [{"t": 0.1 * index, "kind": "point", "xy": [5, 5], "label": 1} for index in range(5)],
                "duration_s": self.chance.uniform(1, 30),
            }
            mask = self.call("create", "POST", f"{place}/annotations", body)
            self.keep(mask)
            if self.chance.random() < 0.3:  # the answer was lost: the same again
                self.keep(self.call("create", "POST", f"{place}/annotations", body))
            self.change(mask)

    def change(self, mask: dict[str, Any]) -> None:
        """Perhaps edit the mask, or delete it and perhaps bring it back."""
        url = f"/api/annotations/{mask['id']}"
        what = self.chance.random()
        if what < 0.3:
            edit = {"version": mask["version"], "edit_id": str(uuid.uuid4()), "category": self.chance.choice("abc")}
            for _ in range(self.chance.choice((1, 2))):
                self.keep(self.call("edit", "PATCH", url, edit))
        elif what < 0.5:
            gone = self.call("delete", "DELETE", f"{url}?version={mask['version']}")
            self.keep(gone)
            if what < 0.4:
                self.keep(self.call("restore", "POST", f"{url}/restore", {"version": gone["version"]}))

    def keep(self, mask: dict[str, Any]) -> None:
        """Remember what the server said of a mask."""
        self.diary.masks[mask["id"]] = mask

    def call(self, kind: str, method: str, url: str, body: Any = None) -> Any:
        """One call, timed. Raises AssertionError for any answer but success."""
        time.sleep(self.think * self.chance.uniform(0.5, 1.5))
        start = time.perf_counter()
        answer = self.client.request(method, url, json=body, headers={"X-Annotator": self.name})
        self.diary.seconds[kind].append(time.perf_counter() - start)
        assert answer.status_code in (200, 201), f"{method} {url}: {answer.status_code} {answer.text[:200]}"
        return answer.json()

    def blob(self, height: int, width: int) -> dict[str, Any]:
        """An ellipse somewhere."""
        rows, columns = np.mgrid[:height, :width]
        x, y = self.chance.uniform(0, width), self.chance.uniform(0, height)
        a, b = (self.chance.uniform(0.05, 0.3) * max(height, width) for _ in range(2))
        return encode_rle(((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1)


def run(connect: Callable[[], httpx.Client], annotators: int, seconds: float, think: float) -> dict[str, Any]:
    """Let them work side by side, then compare the store with what they were told.

    Gives {"calls": {kind: {"count", "p50_ms", "p95_ms", "max_ms"}}, "masks", "errors"}; no errors is what should be.
    """
    # Names and masks of their own in every run, so that one store can take several.
    mark, seed = uuid.uuid4().hex[:6], random.randrange(2**32)
    with ExitStack() as clients:
        people = [
            Annotator(f"{mark}-{index}", clients.enter_context(connect()), seed + index, think)
            for index in range(annotators)
        ]
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=person.work, args=(end,)) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [error for person in people for error in person.diary.errors]
        errors += compare(people, people[0].client)
    times: dict[str, list[float]] = defaultdict(list)
    for person in people:
        for kind, values in person.diary.seconds.items():
            times[kind] += values
    calls = {kind: _summary(values) for kind, values in sorted(times.items())}
    return {"calls": calls, "masks": sum(len(person.diary.masks) for person in people), "errors": errors}


def compare(people: Sequence[Annotator], client: httpx.Client) -> list[str]:
    """What the store has otherwise than the annotators were told: a line each."""
    errors = []
    told = {key: mask for person in people for key, mask in person.diary.masks.items()}
    names = {person.name for person in people}
    stored: dict[str, dict[str, Any]] = {}
    for image_id in sorted({image for person in people for image in person.diary.images}):
        for mask in client.get(f"/api/images/{image_id}/annotations?deleted=true").json()["annotations"]:
            if mask["created_by"] in names:
                stored[mask["id"]] = mask
    for key in told.keys() | stored.keys():
        if told.get(key) != stored.get(key):
            errors.append(f"mask {key}: told {told.get(key)}, stored {stored.get(key)}")
    held = [image for person in people for image in person.diary.images]
    if len(set(held)) != len(held):
        errors.append(f"{len(held) - len(set(held))} images were given out twice")
    return errors


def _summary(seconds: list[float]) -> dict[str, float]:
    milliseconds = 1000 * np.array(seconds)
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {
        "count": len(seconds),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "max_ms": round(float(milliseconds.max()), 1),
    }


def main() -> None:
    """The command at the head of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--annotators", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--think", type=float, default=0.2, help="seconds between an annotator's calls, on average")
    options = parser.parse_args()

    def connect() -> httpx.Client:
        return httpx.Client(base_url=options.url, timeout=30)

    result = run(connect, options.annotators, options.seconds, options.think)
    print(json.dumps(result, indent=2))
    is_slow = any(call["p95_ms"] > 1000 * P95_SECONDS for call in result["calls"].values())
    sys.exit(1 if result["errors"] or is_slow else 0)


if __name__ == "__main__":
    main()
