"""A real server process: killed in the middle of saves, asked by ten annotators, and its address taken."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from annotating import new_annotation, square
from PIL import Image

ANNOTATORS = Path(__file__).resolve().parents[2] / "benchmarks" / "annotators.py"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def start(folder: Path, port: int, tmp_path: Path) -> Iterator[Start]:
    """Start `anymask annotate` on the folder and wait until it answers."""
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "anymask", "annotate", str(folder), "--port", str(port), "--annotator", "anna"]
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        running.append(process)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/api/session", timeout=30).raise_for_status()
                return process
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_nothing_accepted_is_lost_when_the_server_is_killed(start: Start, port: int) -> None:
    """Four clients save as fast as they can; the process is killed with SIGKILL; what was answered must be there.

    What was sent and never answered is sent again, as the page does, and must not double.
    """
    process = start()
    base = f"http://127.0.0.1:{port}"
    answered: dict[str, dict[str, Any]] = {}
    unanswered: dict[str, dict[str, Any]] = {}
    drafts: dict[str, int] = {}

    def save(who: str) -> None:
        with httpx.Client(base_url=base, headers={"X-Annotator": who}, timeout=30) as client:
            for revision in range(100_000):
                body = new_annotation(segmentation=square(revision % 100))
                try:
                    unanswered[body["id"]] = body
                    answer = client.post("/api/images/1/annotations", json=body)
                    assert answer.status_code == 201, answer.text
                    answered[body["id"]] = answer.json()
                    del unanswered[body["id"]]
                    draft = {"revision": revision, "content": {"n": revision}}
                    assert client.put("/api/images/1/draft", json=draft).status_code == 200
                    drafts[who] = revision
                except httpx.TransportError:
                    return

    savers = [threading.Thread(target=save, args=(f"annotator {index}",)) for index in range(4)]
    for saver in savers:
        saver.start()
    end = time.monotonic() + 60
    while len(answered) < 60 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for saver in savers:
        saver.join()
    assert len(answered) >= 60

    start()
    with httpx.Client(base_url=base, timeout=30) as client:
        for body in unanswered.values():
            assert client.post("/api/images/1/annotations", json=body).status_code in (200, 201)
        stored = {mask["id"]: mask for mask in client.get("/api/images/1/annotations").json()["annotations"]}
        assert stored.keys() == answered.keys() | unanswered.keys()
        for key, told in answered.items():
            assert stored[key] == told
        for who, revision in drafts.items():
            draft = client.get("/api/images/1/draft", headers={"X-Annotator": who}).json()["draft"]
            assert draft["revision"] >= revision


def test_parallel_annotators_lose_and_double_nothing(start: Start, port: int, folder: Path, photo: Any) -> None:
    """The scripted annotators of the benchmark, ten of them for a short while; speed is judged there."""
    spec = spec_from_file_location("annotators", ANNOTATORS)
    assert spec is not None
    assert spec.loader is not None
    annotators = module_from_spec(spec)
    sys.modules["annotators"] = annotators  # dataclasses look themselves up there
    spec.loader.exec_module(annotators)
    for index in range(60):
        Image.fromarray(np.roll(photo.image, index, axis=0)).save(folder / f"more{index}.png")
    start()
    result = annotators.run(lambda: httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60), 10, 6.0, 0.02)
    assert result["errors"] == []
    assert result["masks"] >= 5, "few on a busy machine, hundreds on a quiet one"


def test_a_taken_port_is_said_in_one_line(folder: Path, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        command = [sys.executable, "-m", "anymask", "annotate", str(folder), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr
