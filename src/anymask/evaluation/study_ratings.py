"""Where ratings are kept: one SQLite file beside the tasks, safe against a crash in the middle of a write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from anymask.errors import DataError

LOWEST, HIGHEST = 1, 10
FILE_NAME = "ratings.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ratings (
    rater TEXT NOT NULL, task TEXT NOT NULL, rating INTEGER NOT NULL, seconds REAL NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (rater, task)
)
"""


@dataclass(frozen=True)
class Rating:
    """One person's rating of one task, 1 to 10; seconds: how long the task was looked at."""

    rater: str
    task: str
    rating: int
    seconds: float


class Ratings:
    """The ratings of one study; may be used from several threads and processes at once."""

    def __init__(self, study: str | Path) -> None:
        self.path = Path(study) / FILE_NAME

    def save(self, rating: Rating) -> None:
        """Keep a rating, in place of an earlier one of the same task; on disk when this returns.

        Raises DataError for a rating outside 1 to 10.
        """
        if not LOWEST <= rating.rating <= HIGHEST:
            raise DataError(f"rating is {rating.rating}; allowed: {LOWEST} to {HIGHEST}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._opened() as connection:
            connection.execute(_SCHEMA)
            connection.execute(
                "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?)",
                (rating.rater, rating.task, rating.rating, rating.seconds, now),
            )

    def all(self) -> list[Rating]:
        """Everything rated so far, by rater and task."""
        if not self.path.exists():
            return []
        with self._opened() as connection:
            connection.execute(_SCHEMA)
            rows = connection.execute("SELECT rater, task, rating, seconds FROM ratings ORDER BY rater, task")
            return [Rating(*row) for row in rows]

    def of(self, rater: str) -> dict[str, int]:
        """One person's ratings by task."""
        return {rating.task: rating.rating for rating in self.all() if rating.rater == rater}

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction. Raises DataError, naming the file, when it is no such database."""
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: the ratings cannot be used ({error})") from error
