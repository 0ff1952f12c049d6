"""`ollama create` for the champion.

The forms of OLLAMA_HOST are those of Ollama's envconfig/config.go; a Modelfile's FROM is looked for beside it
(parser/parser.go): https://github.com/ollama/ollama
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ft_pipeline.datasets.sources.urls import split_url
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.delivery import DeliveryOutcome
from ft_pipeline.quantization.runtime_files import MODELFILE
from ft_pipeline.text_marks import show_plain

_PROGRAM = "ollama"
_ANSWER_SECONDS = 2.0
_CREATE_SECONDS = 1800.0
_LOGGED_CHARS, _TOLD_CHARS = 4000, 400
_PORTS = {"http": "80", "https": "443"}
# Colours and cursor moves, and what spinners and bars are drawn with.
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\n\r]")


@dataclass(frozen=True)
class OllamaReceiver:
    """The Ollama of this machine, or the one that OLLAMA_HOST names.

    Attributes:
        model: What it calls the model.
        required: That it is not there is a failure.
    """

    model: str
    required: bool = False

    @property
    def name(self) -> str:
        return f"Ollama {self.model}"

    def bring(self, version: Path, title: str, reporter: Reporter) -> DeliveryOutcome:  # noqa: ARG002 - the Hub's alone
        """Create the model from the Modelfile of a version."""
        absent: Literal["failed", "skipped"] = "failed" if self.required else "skipped"
        if not (version / MODELFILE).is_file():
            return DeliveryOutcome(absent, "the model has no Modelfile (quantization.ollama is false)")
        if why := find_absence():
            return DeliveryOutcome(absent, why)
        return _create([shutil.which(_PROGRAM) or _PROGRAM, "create", self.model, "-f", MODELFILE], version, reporter)


def find_absence() -> str | None:
    """Why nothing can be brought to Ollama; None where it is there."""
    if shutil.which(_PROGRAM) is None:
        return f"there is no program {_PROGRAM} on PATH"
    address = ollama_address(os.environ.get("OLLAMA_HOST", ""))
    if not _answers(address):
        return f"no Ollama server answers at {show_address(address)} (OLLAMA_HOST)"
    return None


def ollama_address(host: str) -> str:
    """The server's address as Ollama's client reads it from OLLAMA_HOST: all but the host may be left out."""
    text = host.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    default_port = _PORTS.get(scheme, "11434") if separator else "11434"
    authority, slash, path = rest.rstrip("/").partition("/")
    name, port = _split_port(authority, default_port)
    return f"{scheme}://{_connectable(name)}:{port}{slash}{path}"


def show_address(address: str) -> str:
    """A server's address for people: scheme, host and port, and no user, password, path or query."""
    parts = split_url(address)
    return show_plain(f"{parts.scheme}://{parts.authority}")


def _split_port(authority: str, default: str) -> tuple[str, str]:
    if match := re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*)):([0-9]*)", authority):
        is_port = re.fullmatch("[0-9]{1,5}", match[3]) and int(match[3]) <= 65535
        return match[1] or match[2] or "", match[3] if is_port else default
    return authority.strip("[]"), default


def _connectable(name: str) -> str:
    """A host to connect to: one that a server listens on may stand for all of its addresses."""
    try:
        address = ipaddress.ip_address(name or "127.0.0.1")
    except ValueError:
        return name
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)


def _answers(address: str) -> bool:
    import httpx

    try:
        # No proxy: the server is this machine, or one beside it.
        with httpx.Client(trust_env=False, timeout=_ANSWER_SECONDS) as client:
            answer = client.get(f"{address}/api/version")
            said = answer.json()
            return answer.is_success and isinstance(said, dict) and "version" in said
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError):  # a port may be no Ollama's
        return False


def _create(command: list[str], folder: Path, reporter: Reporter) -> DeliveryOutcome:
    try:
        code, output = _run(command, folder)
    except subprocess.TimeoutExpired:
        return DeliveryOutcome("failed", f"{_PROGRAM} create took longer than {_CREATE_SECONDS:,g} seconds")
    except OSError as err:
        return DeliveryOutcome("failed", f"{command[0]} cannot be run: {err}")
    said = _plain(output)
    reporter.info(f"{' '.join(command[1:])}\n{said[-_LOGGED_CHARS:]}")
    if code:
        shown = " / ".join(said[-_TOLD_CHARS:].splitlines())
        return DeliveryOutcome("failed", f"{_PROGRAM} create ended with exit code {code}: {shown or 'no word'}")
    return DeliveryOutcome("delivered")


def _run(command: list[str], folder: Path) -> tuple[int, bytes]:
    """Exit code and output. All that it has started ends with it if it takes too long, or we are stopped.

    Raises:
        subprocess.TimeoutExpired: it took too long.
        OSError: there is no such program, or it is none.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=_CREATE_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so the group is still its own
            raise
    return process.returncode, output


def _plain(output: bytes) -> str:
    """The lines that a terminal would show, one below the other: progress is drawn over and over."""
    lines = _TERMINAL.sub("", output.decode("utf-8", errors="replace")).replace("\r", "\n").splitlines()
    return "\n".join(dict.fromkeys(line.strip() for line in lines if line.strip()))
