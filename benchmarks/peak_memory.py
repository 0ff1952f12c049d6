"""How much memory a process and all that it starts hold at most, seen from outside.

Two figures of the same run. Held: RssAnon + RssShmem, what has no file behind it; the kernel keeps no peak of it, so it
is sampled. Resident: also the pages of mapped files, which the kernel can drop; of this one each process has a
high-water mark (VmHWM), which a sample cannot miss.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SAMPLE_SECONDS = 0.02
# Finding processes means reading the status of all on the machine.
_SAMPLES_BETWEEN_SEARCHES = 5
_FIELDS = ("RssAnon:", "RssShmem:", "VmRSS:", "VmHWM:")


class MemoryWatch:
    """Peaks of the descendants of a process; it is not counted itself.

    Attributes:
        held_bytes: Most of RssAnon + RssShmem of all of them at once.
        resident_bytes: Most of VmRSS of all of them at once, and at least the highest VmHWM of one.
        samples: Number of times that there was something to see.
    """

    def __init__(self, ancestor: int) -> None:
        self.held_bytes = 0
        self.resident_bytes = 0
        self.samples = 0
        self._ancestor = ancestor
        self._is_over = threading.Event()

    def follow(self) -> None:
        """Sample until `end`."""
        count, processes = 0, list[int]()
        while not self._is_over.wait(_SAMPLE_SECONDS):
            if count % _SAMPLES_BETWEEN_SEARCHES == 0 or not processes:
                processes = find_descendants(self._ancestor)
            count += 1
            self._sample(processes)

    def end(self) -> None:
        """Stop."""
        self._is_over.set()

    def _sample(self, processes: list[int]) -> None:
        found = [fields for process in processes if (fields := _read_memory(process))]
        if not found:
            return
        self.samples += 1
        held = sum(fields["RssAnon:"] + fields["RssShmem:"] for fields in found)
        resident = max(sum(fields["VmRSS:"] for fields in found), *(fields["VmHWM:"] for fields in found))
        self.held_bytes = max(self.held_bytes, held)
        self.resident_bytes = max(self.resident_bytes, resident)


@contextmanager
def watching_memory() -> Iterator[MemoryWatch]:
    """Watch what the body starts in processes of their own."""
    watch = MemoryWatch(os.getpid())
    thread = threading.Thread(target=watch.follow, name="memory", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def find_descendants(ancestor: int) -> list[int]:
    """Processes that this one has started, theirs, and so on."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 - many times a second
        if name.isdigit() and (parent := _read_parent(int(name))):
            children[parent].append(int(name))
    found, left = list[int](), [ancestor]
    while left:
        born = children.get(left.pop(), [])
        found += born
        left += born
    return found


def _read_parent(process: int) -> int | None:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # it has ended meanwhile
    return int(stat.rpartition(")")[2].split()[1])


def _read_memory(process: int) -> dict[str, int] | None:
    """Bytes by the names of `_FIELDS`; None for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = {words[0]: int(words[1]) * 1024 for line in lines if (words := line.split()) and words[0] in _FIELDS}
    return found if len(found) == len(_FIELDS) else None
