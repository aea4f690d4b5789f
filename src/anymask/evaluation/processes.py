"""The same work on many items, in this process or in several, each with a copy of what all of it needs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from anymask.errors import AnymaskError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

_kept: ProcessPoolExecutor | None = None  # of the block of `kept_processes` that is running


@contextmanager
def kept_processes(workers: int) -> Iterator[None]:
    """All work in the block is done by the same processes, which take seconds to start; nothing for one worker."""
    global _kept
    if workers < 2:
        yield
        return
    _kept = _start(workers)
    try:
        yield
    finally:
        _kept.shutdown(wait=True, cancel_futures=True)
        _kept = None


def work_in_processes(
    work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """`work(shared, item)` for all items as they are ready, in any order; in turn and in this process for one worker.

    Other processes import `work`, a function of a module, and get a copy each of `shared`, such as a model. Two of one
    thread do more than one of two, whose threads wait for each other at every operation. Raises what `work` raises,
    AnymaskError for fewer than one worker and when a process was killed.
    """
    if workers < 1:
        raise AnymaskError(f"workers is {workers}; it must be 1 or more")
    if workers == 1 or len(items) < 2:
        yield from (work(shared, item) for item in items)
        return
    with TemporaryDirectory(prefix="anymask-") as folder:
        copy = Path(folder) / "shared.pickle"
        copy.write_bytes(pickle.dumps(shared))
        pool = _kept or _start(workers)
        futures = [pool.submit(_work, work, copy, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise AnymaskError(
                "a process ended before its work was done (was it out of memory?); run the same command again to go on "
                f"where it stopped, with fewer than {workers} workers if it happens again"
            ) from error
        finally:
            for future in futures:
                future.cancel()
            if pool is not _kept:
                pool.shutdown(wait=True, cancel_futures=True)


def _start(workers: int) -> ProcessPoolExecutor:
    import torch  # not needed where nothing is started

    threads = max(1, torch.get_num_threads() // workers)  # this process's threads, shared out
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker, initargs=(threads,))


def _start_worker(threads: int) -> None:
    import signal

    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides; items in work are finished
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


_read: tuple[Path, Any] | None = None  # what a worker process has read last, and from where


def _work(work: Callable[[Any, Item], Result], shared: Path, item: Item) -> Result:
    global _read
    if _read is None or _read[0] != shared:
        _read = shared, pickle.loads(shared.read_bytes())
    return work(_read[1], item)
