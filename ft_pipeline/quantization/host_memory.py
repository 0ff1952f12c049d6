"""How much memory a process may still take: the machine's, or what is left of its control group's limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# Of version 2 and of version 1: the limit, what is taken, and in memory.stat the file cache that gives way.
_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def available_memory_bytes(root: Path = _ROOT) -> int:
    """Bytes that can be taken without swapping or being killed.

    Args:
        root: Where proc and sys lie.
    """
    fields = dict(line.split(":", 1) for line in _read(root / "proc/meminfo").splitlines())
    if "MemAvailable" in fields:
        available = int(fields["MemAvailable"].split()[0]) << 10
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([available, *_list_group_rests(root)])


def _list_group_rests(root: Path) -> Iterator[int]:
    """What the limit of each group leaves: the process's own, and those around it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # In a container the path can be that of the host, which is not there.
        inner = mount / path.lstrip("/")
        for folder in {mount, inner, *(parent for parent in inner.parents if mount in parent.parents)}:
            yield from _measure_rest(folder)


def _measure_rest(folder: Path) -> Iterator[int]:
    for limit_file, used_file, cached in _FILES:
        limit, used = _read(folder / limit_file).strip(), _read(folder / used_file).strip()
        if limit.isdigit() and used.isdigit():
            statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            yield max(0, int(limit) - int(used) + sum(int(statistics.get(name, 0)) for name in cached))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
