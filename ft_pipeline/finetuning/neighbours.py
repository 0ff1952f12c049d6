"""Who else is on the card, named before training starts and not after it ran out of memory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.errors import ResourceError
from ft_pipeline.finetuning import nvidia_smi
from ft_pipeline.finetuning.device import CPU

# Below it, what no process accounts for is a context's or the driver's own.
_UNSEEN_BYTES = 1 << 30
_NAME_CHARS = 80


@dataclass(frozen=True)
class Neighbour:
    """A process of somebody else on the card.

    Attributes:
        pid: Its process id; None for those that the driver does not show from here (another container's).
        vram_bytes: What it holds; None where the driver does not say (WSL2).
    """

    pid: int | None
    name: str
    vram_bytes: int | None


def list_neighbours(device_name: str) -> list[Neighbour]:
    """Processes on a GPU that are not this one, computing or drawing, the largest first; empty for the CPU.

    Args:
        device_name: `cpu`, or the GPU's UUID.
    """
    if device_name == CPU or nvidia_smi.find_program() is None:
        return []
    try:
        found = _read_processes(nvidia_smi.ask("-q", "-d", "PIDS", "-i", device_name).stdout)
        used_bytes = {gpu.uuid: gpu.used_bytes for gpu in nvidia_smi.list_gpus()}.get(device_name)
    except ResourceError:
        return []  # neighbours are a hint; what is wrong with the driver is find_device's to say
    others = [neighbour for neighbour in found if neighbour.pid != os.getpid()]
    if all(neighbour.vram_bytes is not None for neighbour in found):
        unseen_bytes = (used_bytes or 0) - sum(neighbour.vram_bytes or 0 for neighbour in found)
        if unseen_bytes >= _UNSEEN_BYTES:
            others.append(Neighbour(None, "processes that cannot be seen from here", unseen_bytes))
    return sorted(others, key=lambda neighbour: neighbour.vram_bytes or 0, reverse=True)


def describe_neighbours(neighbours: Sequence[Neighbour]) -> list[str]:
    """A sentence for the log for each of them."""
    return [_describe(neighbour) for neighbour in neighbours]


def _describe(neighbour: Neighbour) -> str:
    who = neighbour.name if neighbour.pid is None else f"{neighbour.name} (process {neighbour.pid})"
    held = "an unknown share" if neighbour.vram_bytes is None else f"{neighbour.vram_bytes >> 20:,} MiB"
    hint = " `ollama stop MODEL` frees it." if "ollama" in neighbour.name.lower() else ""
    return f"the card is shared: {held} of its memory is held by {who}.{hint}"


def _read_processes(text: str) -> list[Neighbour]:
    """Processes in what `nvidia-smi -q -d PIDS` prints: blocks of `key : value` that begin with a process id."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(" : "))
        if key == "Process ID" and value.isdigit():
            blocks.append({})
        if blocks:
            blocks[-1].setdefault(key, value)
    return [_read_process(block) for block in blocks]


def _read_process(block: dict[str, str]) -> Neighbour:
    name = "".join(char for char in block.get("Name", "") if char.isprintable())[:_NAME_CHARS]
    memory = re.match(r"(\d+) MiB", block.get("Used GPU Memory", ""))
    return Neighbour(int(block["Process ID"]), name or "a process", int(memory[1]) << 20 if memory else None)
