"""Which device trains, found out without touching it: a waiting process must hold none of a GPU's memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from ft_pipeline.errors import ResourceError

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """The CPU, or one NVIDIA GPU.

    Attributes:
        name: `cpu`, or the GPU's UUID; the lease goes by it.
        label: What people call it.
        free_bytes: Its memory that nobody uses now.
    """

    name: str
    label: str
    free_bytes: int
    total_bytes: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != CPU


def find_device(wanted: str) -> Device:
    """The device to train on.

    Args:
        wanted: `auto` (the first visible GPU, else the CPU), `cpu`, or a GPU's index or UUID.

    Raises:
        ResourceError: the GPU that was asked for is not there.
    """
    if wanted == CPU:
        return _describe_cpu()
    gpus = _list_gpus()
    if wanted == "auto":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return gpus[0][1] if gpus else _describe_cpu()
        wanted = visible.split(",")[0].strip()
        if wanted in ("", "-1"):
            return _describe_cpu()
    for index, gpu in gpus:
        if wanted == index or gpu.name.startswith(wanted):
            return gpu
    known = ", ".join(f"{index}: {gpu.label} {gpu.name}" for index, gpu in gpus) or "none"
    raise ResourceError(
        f"the device must be 'cpu', 'auto' or a GPU of this machine, got '{wanted}'. GPUs here: {known}."
    )


def _list_gpus() -> list[tuple[str, Device]]:
    """Index and device of each GPU that the driver shows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    query = "--query-gpu=index,uuid,name,memory.free,memory.total"
    done = subprocess.run(
        [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return []
    gpus = []
    for line in done.stdout.splitlines():
        index, uuid, name, free_mib, total_mib = (field.strip() for field in line.split(","))
        gpus.append((index, Device(uuid, name, int(free_mib) << 20, int(total_mib) << 20)))
    return gpus


def _describe_cpu() -> Device:
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    return Device(CPU, f"CPU, {len(os.sched_getaffinity(0))} cores", _available_bytes() or total, total)


def _available_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - no file on a disk
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):
        return None
