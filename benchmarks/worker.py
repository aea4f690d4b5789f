"""One contestant in a process of its own: `python worker.py PAIR CONTESTANT THREADS ANSWER_FILE CLOCK`.

Each line on the standard input starts one round, each round answers with a line of JSON; what contestants print
goes to the standard error. CLOCK is "wall", or "cpu" for the process's own time on the processor.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np

import memory
from pairs import Task, find_pair

# Quick tasks are run again and again until a round has lasted so long.
ROUND_S = 0.4
CLOCKS = {"wall": perf_counter, "cpu": process_time}


def play_round(task: Task, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of the runs of one round, for one of the things a run does."""
    seconds: list[float] = []
    while sum(seconds) < ROUND_S:
        start = clock()
        task.run()
        seconds.append(clock() - start)
    return {"seconds": median(seconds) / task.count}


def main(pair_name: str, contestant: str, threads: str, answer_file: str, clock: str) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    replies, sys.stdout = sys.stdout, sys.stderr
    pair = find_pair(pair_name)
    assert pair is not None
    task = pair.contestants[contestant]()
    before = memory.current_megabytes()
    memory.reset_peak()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        if line.strip() == "answer":
            has_answer = task.answer is not None
            if task.answer is not None:
                np.save(Path(answer_file), np.asarray(task.answer(), dtype=np.float32))
            reply: dict[str, object] = {"answer": has_answer}
        else:
            reply = {**play_round(task, CLOCKS[clock]), "peak_mb": memory.peak_megabytes(), "loaded_mb": before}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
