"""What a pair is: several contestants that do the same thing, the first of them ours.

A pair is a file of this folder that defines `PAIR`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

# Each pair's name on the command line and its file, in the order in which they run.
MODULES = {
    "encode": "encode",
    "click": "one_click",
    "clicks": "many_clicks",
    "everything": "everything",
    "int8": "int8",
    "tiny": "tiny",
}


@dataclass(frozen=True)
class Task:
    """A contestant that is ready.

    `run` is what is timed; `answer` gives the numbers that the contestants are compared by, from input that is the
    same to the bit; one run does `count` things, and times are told for one of them.
    """

    run: Callable[[], object]
    answer: Callable[[], np.ndarray] | None = None
    count: float = 1.0


@dataclass(frozen=True)
class Pair:
    """`contestants` are built in processes of their own, each by its function, and then take turns.

    `bars`: how many times slower than ours a rival should be. `limits_s`: how long one run may take. Both are only
    told, nothing fails. `rounds` and `quick_rounds` do not count the first one, which warms up.
    """

    title: str
    contestants: Mapping[str, Callable[[], Task]]
    bars: Mapping[str, float] = field(default_factory=dict)
    limits_s: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 7
    quick_rounds: int = 3


def find_pair(name: str) -> Pair | None:
    """The pair of that name, or None where its file is not here. Contestants import what they need themselves."""
    try:
        return import_module(MODULES[name]).PAIR
    except ModuleNotFoundError as error:
        if error.name != MODULES[name]:
            raise
        return None
