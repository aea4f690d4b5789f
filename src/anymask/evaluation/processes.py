"""The same work on many items, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from anymask.errors import AnymaskError

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_in_processes(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """The results as they are ready, in any order; in turn and in this process for one worker.

    `work` is a function of a module, for other processes import it. Raises what `work` raises, AnymaskError for fewer
    than one worker and when a process was killed.
    """
    if workers < 1:
        raise AnymaskError(f"workers is {workers}; it must be 1 or more")
    if workers == 1 or len(items) < 2:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(work, item) for item in items]):
            yield future.result()
    except BrokenProcessPool as error:
        raise AnymaskError(
            "a process ended before its work was done (was it out of memory?); run the same command again to go on "
            f"where it stopped, with fewer than {workers} workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides; items in work are finished
    cv2.setNumThreads(1)  # a worker is a core
