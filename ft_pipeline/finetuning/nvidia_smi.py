"""What NVIDIA's driver says about its cards, through `nvidia-smi`, which holds none of their memory.

A driver that cannot be asked is an error of its own: a run must not land on the CPU because of it, unseen.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from ft_pipeline.errors import EnvironmentMismatch, ResourceError

_WSL_FOLDER = "/usr/lib/wsl/lib"  # not always on the PATH there
_ANSWER_SECONDS = 60.0
_FIELDS = ("index", "uuid", "name", "memory.free", "memory.used", "memory.total", "driver_version", "compute_cap")
_CUDA_VERSION = re.compile(r"CUDA(?: UMD)? Version\s*:\s*(\d+)\.(\d+)")


@dataclass(frozen=True)
class Gpu:
    """A card as the driver sees it.

    Attributes:
        uuid: What it is called on every machine.
        free_bytes: None where the card shares the machine's memory.
        compute_capability: None from a driver that does not say (before 510).
    """

    index: str
    uuid: str
    name: str
    free_bytes: int | None
    used_bytes: int | None
    total_bytes: int | None
    driver_version: str
    compute_capability: tuple[int, int] | None


def find_program() -> str | None:
    """Where nvidia-smi is; None: no NVIDIA driver is installed."""
    return shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=_WSL_FOLDER)


def list_gpus() -> list[Gpu]:
    """Every card of the machine; empty where no driver is installed or it has no card.

    Raises:
        EnvironmentMismatch: the driver's kernel module and its library are of two versions.
        ResourceError: the driver does not answer.
    """
    if find_program() is None:
        return []
    fields: tuple[str, ...] = _FIELDS
    done = _ask_for(fields)
    if "compute_cap" in done.stdout + done.stderr:  # the answer of an old driver names the field that it does not know
        fields = _FIELDS[:-1]
        done = _ask_for(fields)
    if done.returncode != 0:
        _judge_failure(" ".join((done.stdout + done.stderr).split()))
        return []
    return [_read_gpu(line) for line in done.stdout.splitlines() if line.strip()]


def read_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver runs; None if it does not say."""
    found = _CUDA_VERSION.search(ask().stdout)
    return (int(found[1]), int(found[2])) if found else None


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run nvidia-smi.

    Raises:
        ResourceError: it is not there, or hangs.
    """
    program = find_program()
    if program is None:
        raise ResourceError("nvidia-smi must be on the PATH and is not. Install NVIDIA's driver.")
    try:
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired as err:
        raise ResourceError(
            f"nvidia-smi must answer within {_ANSWER_SECONDS:.0f} s and did not: the driver hangs. Restart the machine."
        ) from err


def _ask_for(fields: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return ask(f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")


def _judge_failure(said: str) -> None:
    if "version mismatch" in said:
        raise EnvironmentMismatch(
            "the NVIDIA driver must be of one version; its kernel module and its library are of two. "
            f"nvidia-smi: {said} "
            "Restart the machine: the driver was updated since it was started."
        )
    if "No devices were found" not in said and "couldn't communicate" not in said:
        raise ResourceError(f"the NVIDIA driver must answer and fails. nvidia-smi: {said}")


def _read_gpu(line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    try:
        index, uuid, name, free, used, total, driver = fields[:7]
        return Gpu(
            index=index,
            uuid=uuid,
            name=name,
            free_bytes=_read_mib(free),
            used_bytes=_read_mib(used),
            total_bytes=_read_mib(total),
            driver_version=driver,
            compute_capability=_read_capability(fields[7]) if len(fields) > 7 else None,
        )
    except ValueError as err:
        raise ResourceError(f"nvidia-smi must name a card in {len(_FIELDS)} fields, got '{line}'.") from err


def _read_mib(text: str) -> int | None:
    return int(text) << 20 if text.isdigit() else None  # [N/A]


def _read_capability(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
