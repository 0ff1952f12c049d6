"""The memory that is left, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

from ft_pipeline.quantization.host_memory import available_memory_bytes

_GIB = 2**30


def test_available_memory_is_the_machines_without_a_limit(tmp_path: Path) -> None:
    _write_machine(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "max"})
    assert available_memory_bytes(tmp_path) == 8 * _GIB


def test_available_memory_is_what_a_group_around_the_process_leaves(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a"
    files = {
        f"{group}/b/memory.max": "max",
        f"{group}/b/memory.current": str(1 * _GIB),
        f"{group}/memory.max": str(4 * _GIB),
        f"{group}/memory.current": str(3 * _GIB),
        f"{group}/memory.stat": f"anon 7\ninactive_file {_GIB}\nactive_file {_GIB // 2}",
    }
    _write_machine(tmp_path, "0::/a/b\n", files)
    assert available_memory_bytes(tmp_path) == 2.5 * _GIB


def test_available_memory_heeds_limits_of_the_first_version(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        f"{group}/memory.limit_in_bytes": str(2 * _GIB),
        f"{group}/memory.usage_in_bytes": str(3 * _GIB // 2),
        f"{group}/memory.stat": "total_inactive_file 0",
    }
    # The path is the host's: in the container there is no such folder.
    _write_machine(tmp_path, "4:cpu:/docker/1\n3:memory:/docker/1\n", files)
    assert available_memory_bytes(tmp_path) == _GIB // 2


def _write_machine(root: Path, groups: str, files: dict[str, str]) -> None:
    meminfo = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n", "proc/self/cgroup": groups}
    for name, text in (files | meminfo).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
