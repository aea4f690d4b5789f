"""A real PostgreSQL for tests: what ANYMASK_POSTGRES names, else one of our own where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url


@contextmanager
def running_server() -> Iterator[URL]:
    """The address of a server on which databases may be made; skips the test where there is none."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install '.[postgres]'")
    if given := os.environ.get("ANYMASK_POSTGRES"):
        yield make_url(given)
        return
    programs = _programs()
    # PostgreSQL does not run as root, for whom Debian's package made a user.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="anymask-postgres-") as name:
        if os.geteuid() == 0:
            shutil.chown(name, user)
        data = f"{name}/data"

        def run(program: str, *options: str) -> None:
            command = [programs / program, "-D", data, *options]
            # No pipes: the server that is started would keep them open.
            with Path(name, "log").open("ab") as log:
                as_user = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
                subprocess.run(command, check=True, stdout=log, stderr=log, cwd=name, **as_user)  # type: ignore[call-overload]

        run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", f"--username={user}")
        run("pg_ctl", "start", "--wait", "-o", f"-k {name} -c listen_addresses='' -c fsync=off")
        try:
            yield URL.create("postgresql", username=user, database="postgres", query={"host": name})
        finally:
            run("pg_ctl", "stop", "--mode=immediate")


@contextmanager
def fresh_database(server: URL) -> Iterator[str]:
    """The URL of an empty database, gone in the end."""
    admin = create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"anymask_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


def _programs() -> Path:
    """The folder of initdb and pg_ctl."""
    if path := shutil.which("initdb"):
        return Path(path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or name a server in ANYMASK_POSTGRES")
    return found[-1].parent
