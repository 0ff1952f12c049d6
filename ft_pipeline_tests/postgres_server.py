"""A real PostgreSQL on a free port of 127.0.0.1, with its data in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline_tests.dagster_server import find_port, wait_until
from ft_pipeline_tests.needs import do_without

USER, PASSWORD = "dagster", "a-password-that-nobody-may-see"
# Nothing of a test is to survive a power cut.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True)
class PostgresServer:
    """A running server.

    Attributes:
        url: As Dagster wants it, with the password.
        programs: The folder of PostgreSQL's programs.
    """

    url: str
    programs: Path


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Start a server with one user and one empty database, and remove all of it afterwards."""
    programs = _find_programs()
    user = _find_user()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
        log = folder / "log"
        who = ["--username", USER, "--pwfile", "password", "--auth", "scram-sha-256"]
        made = [str(programs / "initdb"), "--pgdata", "data", "--no-sync", *who]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd=folder)
        port = find_port()
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *_FAST]
        options = [part for setting in settings for part in ("-c", setting)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(programs / "postgres"), "-D", "data", *options], stdout=out, stderr=out, user=user, cwd=folder
            )
        try:
            ready = [str(programs / "pg_isready"), "--host", "127.0.0.1", "--port", str(port), "--quiet"]
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 30, log.read_text)
            yield PostgresServer(f"postgresql+psycopg2://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres", programs)
        finally:
            process.send_signal(signal.SIGINT)  # clients are cut off
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _find_programs() -> Path:
    """Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        do_without("PostgreSQL is not installed: apt-get install postgresql")
    return Path(program).resolve().parent


def _find_user() -> str:
    """It does not run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next((name for name in ("postgres", "nobody") if name in known), None)
    return user or do_without("PostgreSQL does not run as root, and there is no user postgres or nobody")
