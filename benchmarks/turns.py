"""Contestants that take turns, round by round: A B C A B C, each in a process of its own, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pairs import Pair

FOLDER = Path(__file__).parent


class ContestantError(Exception):
    """A contestant's process ended before it answered; what it said is on the standard error."""


@dataclass(frozen=True)
class Result:
    """One contestant's figures; `difference` is the largest from ours, as a share of our largest value."""

    contestant: str
    seconds: list[float]
    peak_mb: float | None
    loaded_mb: float | None
    difference: float | None

    @property
    def median_s(self) -> float:
        return median(self.seconds)

    @property
    def working_mb(self) -> float | None:
        """Memory on top of the loaded model."""
        return None if self.peak_mb is None or self.loaded_mb is None else self.peak_mb - self.loaded_mb


class Contestant:
    """A worker process that waits for its turn."""

    def __init__(self, python: Path, pair_name: str, name: str, threads: int, answer_file: Path, clock: str) -> None:
        self.name, self.answer_file = name, answer_file
        command = [str(python), str(FOLDER / "worker.py"), pair_name, name, str(threads), str(answer_file), clock]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._reply()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self._reply()

    def answer(self) -> np.ndarray | None:
        return np.load(self.answer_file) if self.ask("answer")["answer"] else None

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContestantError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)


def run_pair(
    python: Path,
    name: str,
    pair: Pair,
    rounds: int,
    threads: int,
    progress: Callable[[str], None],
    clock: str = "wall",
) -> list[Result]:
    """All contestants' figures, in the pair's order; `clock`: see worker.py. Raises `ContestantError`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        contestants = []
        for index, contestant in enumerate(pair.contestants):
            progress(f"{contestant}: loading")
            worker = Contestant(python, name, contestant, threads, folder / f"{index}.npy", clock)
            contestants.append(stack.enter_context(worker))
        replies: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in contestants}
        for index in range(rounds + 1):
            for contestant in contestants:
                progress(f"{contestant.name}: " + (f"round {index} of {rounds}" if index else "warming up"))
                replies[contestant.name].append(contestant.ask("round"))
        progress("comparing the answers")
        answers = {contestant.name: contestant.answer() for contestant in contestants}
    expected = next(iter(answers.values()))
    return [
        Result(
            contestant,
            [reply["seconds"] for reply in given[1:]],
            given[-1]["peak_mb"],
            given[-1]["loaded_mb"],
            _difference(answers[contestant], expected),
        )
        for contestant, given in replies.items()
    ]


def _difference(answer: np.ndarray | None, expected: np.ndarray | None) -> float | None:
    if answer is None or expected is None or answer is expected:
        return None
    if answer.shape != expected.shape:
        return float("inf")
    return float(np.abs(answer - expected).max() / np.abs(expected).max())
