"""The jobs of a run in several processes, each with a model of its own and its share of the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from anymask.errors import AnymaskError
from anymask.generator.finders import Job
from anymask.generator.folder import FolderRun, Outcome, Session


def work_side_by_side(run: FolderRun, jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """Do the jobs in several processes, each with its own model and its share of the cores; in any order.

    Raises `OutputError`, and `AnymaskError` when a process was killed.
    """
    threads = max(1, available_cores() // workers)
    with _environment(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads)):
        pool = ProcessPoolExecutor(
            min(workers, len(jobs)), get_context("spawn"), initializer=_start_worker, initargs=(run, threads)
        )
        try:
            futures = [pool.submit(_work, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise AnymaskError(
                "a process ended before its work was done (was it out of memory?); run the same command again to "
                f"go on where it stopped, with fewer than {workers} workers if it happens again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_session: Session | None = None  # of a worker process


def _start_worker(run: FolderRun, threads: int) -> None:
    import signal

    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides; images in work are finished
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    global _session
    _session = Session(run)


def _work(job: Job) -> Outcome:
    assert _session is not None
    return _session.work(job)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that start meanwhile: libraries read them once, when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
