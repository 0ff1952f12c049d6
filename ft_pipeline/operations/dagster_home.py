"""Whether Dagster's instance is set up as the pipeline needs it, from its files alone."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.loopback import is_loopback
from ft_pipeline.operations.finding import Finding

# By the path in dagster.yaml: what must stand there, and why.
_NEEDED: dict[tuple[str, ...], tuple[Any, str]] = {
    ("concurrency", "pools", "granularity"): ("run", "else runs that wait for the device are started and wait inside"),
    ("concurrency", "pools", "default_limit"): (1, "else several runs wait for the device inside, not in the queue"),
    ("run_monitoring", "enabled"): (True, "else a run that was killed keeps its place in the pool"),
    ("run_retries", "enabled"): (True, "else a failed run is never tried again"),
}
_SCHEME = "postgresql+psycopg2://"
_ANSWER_SECONDS = 5
_SERVERS = (
    *("dagster-webserver", "dagster dev", "dagster_webserver", "defs.webserver", "defs.dev"),
    *("dagster api grpc", "dagster code-server"),  # who reaches these can run code
)
_FIRST_WORDS = 6  # python -m dagster api grpc


def examine_dagster(home: Path | None, read_variable: Callable[[str], str | None]) -> Iterator[Finding]:
    """Look at an instance's folder, its configuration and its storage.

    Args:
        home: DAGSTER_HOME.
        read_variable: Gives what the configuration refers to by name.
    """
    if home is None:
        yield Finding("DAGSTER_HOME", "not set: runs of this shell are forgotten by Dagster when they end")
        return
    if not home.is_dir():
        yield Finding("DAGSTER_HOME", f"{home} is no folder", "make dev makes .dagster; or make that folder")
        return
    can_write = os.access(home, os.W_OK | os.X_OK)
    yield Finding("DAGSTER_HOME", f"{home}", "" if can_write else "it must be writable for who runs Dagster: chown it")
    config = _read_config(home / "dagster.yaml")
    if isinstance(config, Finding):
        yield config
        return
    yield _examine_settings(config)
    yield _examine_storage(config, read_variable)


def examine_servers(proc: Path = Path("/proc")) -> Finding:
    """Whether a page or code server of Dagster on this machine can be reached from others: neither has a password."""
    exposed, hidden, count, in_container = [], [], 0, False
    own_network = (proc / "self/ns/net").readlink()
    for process in sorted(proc.glob("[0-9]*"), key=lambda process: int(process.name)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            except PermissionError:
                hidden.append(process.name)
                continue
            if not any(server in " ".join(words[:_FIRST_WORDS]) for server in _SERVERS):
                continue
            host, network = _find_host(words), _read_network(process)
            # In a container of its own 0.0.0.0 is the container's; which port is published its engine says.
            if network not in {own_network, None}:
                continue
            if network is None and not _is_own(host):
                hidden.append(f"{process.name}, which listens on {host}")
                continue
            count += 1
            if not _is_own(host):
                exposed.append(f"process {process.name} listens on {host}")
                in_container |= process.name == "1"  # no machine begins with it
    fix = "start it with --host 127.0.0.1, and put a proxy that asks for a password before it" if exposed else ""
    state = "; ".join(exposed) or f"{count} running, none of them open to other machines"
    if in_container:
        state += ", in a container: they are reached by ports that it publishes, or on its host's network"
        fix = ""
    return Finding("Dagster's servers", state + _tell_hidden(hidden), fix)


def _read_network(process: Path) -> Path | None:
    """The network that a process is in; None where it is another user's."""
    try:
        return (process / "ns/net").readlink()
    except PermissionError:
        return None


def _tell_hidden(processes: Sequence[str]) -> str:
    if not processes:
        return ""
    shown = "; ".join([*processes[:3], *(["and so on"] if len(processes) > 3 else [])])
    return f". {len(processes)} of other users cannot be looked at (process {shown}): that takes them, or root"


def _read_config(path: Path) -> dict[str, Any] | Finding:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as err:
        return Finding("dagster.yaml", f"{path}: {err}", "copy the project's dagster.yaml, or one of deploy/, there")
    return config if isinstance(config, dict) else {}


def _examine_settings(config: Mapping[str, Any]) -> Finding:
    wrong = []
    for place, (wanted, why) in _NEEDED.items():
        found: Any = config
        for name in place:
            found = found.get(name) if isinstance(found, dict) else None
        if found != wanted:
            wrong.append(f"{'.'.join(place)} is {found}, must be {wanted}: {why}")
    return Finding("dagster.yaml", "; ".join(wrong) or "as the project's", "set that there" if wrong else "")


def _examine_storage(config: Mapping[str, Any], read_variable: Callable[[str], str | None]) -> Finding:
    storage = config.get("storage")
    storage = storage if isinstance(storage, dict) else {}
    if "postgres" not in storage:
        return Finding("Dagster's storage", f"{next(iter(storage), 'SQLite')} in DAGSTER_HOME")
    if importlib.util.find_spec("dagster_postgres") is None:
        return Finding("Dagster's storage", "PostgreSQL, without its package", "uv pip install -e '.[postgres]'")
    return _examine_postgres(storage["postgres"] or {}, read_variable)


def _examine_postgres(settings: Mapping[str, Any], read_variable: Callable[[str], str | None]) -> Finding:
    if "postgres_db" in settings:
        return Finding("Dagster's storage", "PostgreSQL by postgres_db: whether it answers was not asked")
    url = settings.get("postgres_url")
    named = url.get("env") if isinstance(url, dict) else None
    found = read_variable(named) if named else url
    if not named and not found:
        return Finding("Dagster's storage", "PostgreSQL without an address", "copy deploy/postgres/dagster.yaml there")
    if not isinstance(found, str):
        return Finding("Dagster's storage", f"PostgreSQL by the variable {named}, which is not set", f"set {named}")
    if not found.startswith(_SCHEME):
        scheme = found.partition("://")[0] if "://" in found else "no URL"
        return Finding("Dagster's storage", f"{named or 'postgres_url'} is {scheme}", f"it must begin with {_SCHEME}")
    return _examine_server("postgresql://" + found.removeprefix(_SCHEME))


def _examine_server(url: str) -> Finding:
    psycopg2 = importlib.import_module("psycopg2")  # of the extra: it need not be there for the types
    user, _, place = url.partition("://")[2].rpartition("@")
    place = place.partition("?")[0]
    if {"/", "?", "#"}.intersection(user):  # libpq would take a part of the password for a port, and quote it
        fix = "write a / before the @ as %2F, a ? as %3F, a # as %23"
        return Finding("Dagster's storage", f"PostgreSQL at {place}: user or password is not escaped", fix)
    try:
        connection = psycopg2.connect(url, connect_timeout=_ANSWER_SECONDS)
    except psycopg2.Error as err:
        # The message may quote what it was given.
        said = str(err).strip().splitlines()[-1] if "@" not in str(err) else type(err).__name__
        return Finding("Dagster's storage", f"PostgreSQL at {place}: {said}", "start it, or mend the URL")
    connection.close()
    return Finding("Dagster's storage", f"PostgreSQL at {place}")


def _find_host(words: Sequence[str]) -> str:
    for position, word in enumerate(words):
        if word in {"--host", "-h"}:
            return next(iter(words[position + 1 :]), "")
        if word.startswith("--host="):
            return word.removeprefix("--host=")
    return "127.0.0.1"  # Dagster's own default


def _is_own(host: str) -> bool:
    """Whether only this machine reaches it; what begins with a slash is a socket's path."""
    return host.startswith("/") or is_loopback(host)
