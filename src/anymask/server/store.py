"""The annotation store: one database for one folder, brought up to date when it is opened.

SQLite in WAL mode unless a URL says otherwise, such as postgresql://me@host/annotations. A transaction that returned is
on the disk (SQLite's synchronous=FULL, PostgreSQL's default), so a killed process or a power cut loses nothing that was
answered with success.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session

from anymask.errors import AnymaskError

MIGRATIONS = Path(__file__).parent / "migrations"
# How long a writer waits for another process before it gives up, in seconds (assumed: longer than any of our writes).
BUSY_SECONDS = 20.0
# Any number that nobody else uses for PostgreSQL's advisory locks: who changes tables, takes in a folder or gives out
# images does so in turn.
_TURN_LOCK = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=0x616E796D)


class StoreError(AnymaskError):
    """The store cannot be opened: no such database, no rights, or made by a newer version."""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Store:
    """Sessions on the annotation database; one object for a server, used by all its threads."""

    def __init__(self, url: str) -> None:
        """Open the database at an SQLAlchemy `url` and apply the migrations that it lacks. Raises `StoreError`."""
        try:
            self.url = _with_driver(sqlalchemy.make_url(url))
            self.is_sqlite = self.url.get_backend_name() == "sqlite"
            self.engine = _sqlite_engine(self.url) if self.is_sqlite else create_engine(self.url, pool_pre_ping=True)
            try:
                self._migrate()
            except BaseException:
                self.engine.dispose()
                raise
        except (sqlalchemy.exc.SQLAlchemyError, CommandError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"the annotation store at {self._shown(url)} cannot be opened ({reason})") from error
        except ModuleNotFoundError as error:
            package = "'anymask[postgres]'" if error.name == "psycopg" else error.name
            raise StoreError(f"the store {self._shown(url)} needs {error.name}: pip install {package}") from error
        self._write_engine = self.engine.execution_options(writes=True)
        # SQLite has one writer at a time anyway; queueing here is fair and quick, its own waiting is neither.
        self._write_lock = threading.Lock() if self.is_sqlite else None

    @staticmethod
    def in_folder(folder: Path) -> str:
        """The URL of the store that belongs to a folder of images: a file in its hidden `.anymask`."""
        path = folder / ".anymask" / "annotations.sqlite"
        return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one moment of the store."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self, *, in_turn: bool = False) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends, and none of them when it raises.

        in_turn: no other such block runs meanwhile, in any process. SQLite has one writer at a time anyway.
        """
        if self._write_lock is None:
            with Session(self._write_engine, expire_on_commit=False) as session, session.begin():
                if in_turn and self._is_postgresql:
                    session.execute(_TURN_LOCK)
                yield session
            return
        with self._write_lock, Session(self._write_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.engine.execution_options(writes=True).connect() as connection, connection.begin():
            if self._is_postgresql:
                connection.execute(_TURN_LOCK)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @property
    def _is_postgresql(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @staticmethod
    def _shown(url: str) -> str:
        try:
            return sqlalchemy.make_url(url).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            return repr(url)


def _with_driver(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """PostgreSQL without a driver's name means the one that comes with anymask[postgres]."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _sqlite_engine(url: sqlalchemy.URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise OSError("the store must be a file")
    assert url.database is not None
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # Ten annotators and the requests of each in flight: more connections than that only wait for each other.
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=8, max_overflow=24)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        cursor = connection.cursor()
        _write_ahead(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its place at the start: one that begins as a reader can be refused in the middle.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch to write-ahead logging, which SQLite may refuse at once while another server does the same."""
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)
        else:
            return
