"""A thread that does one thing after the other, most urgent first, and says no when too much waits."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from anymask.server.errors import busy

Answer = TypeVar("Answer")


class Worker:
    """One thread for model work: torch keeps a pool of threads for each caller, and two pools fight over the cores.

    limit: how many jobs may wait. The thread starts with the first job, so that an app which is made and never
    asked costs nothing.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._jobs: list[tuple[int, int, Callable[[], Any], Future[Any]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, job: Callable[[], Answer], urgency: int = 0) -> Future[Answer]:
        """Queue a job; a smaller `urgency` comes first. Refused (503) when too many wait."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._is_closed:
                raise busy("the server is ending")
            if len(self._jobs) >= self.limit:
                raise busy(f"{len(self._jobs)} requests wait for the model")
            heapq.heappush(self._jobs, (urgency, next(self._numbers), job, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return future

    def do(self, job: Callable[[], Answer], urgency: int = 0, timeout_s: float = 120.0) -> Answer:
        """Queue a job and wait for its answer, or its error. Refused (503) when that takes too long."""
        future = self.submit(job, urgency)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            if future.done():  # the job itself timed out on something
                raise
            future.cancel()
            raise busy(f"the model did not answer within {timeout_s:g} s") from error

    def close(self) -> None:
        """Finish the job in hand and drop the rest."""
        with self._changed:
            self._is_closed = True
            for *_, future in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                *_, job, future = heapq.heappop(self._jobs)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
