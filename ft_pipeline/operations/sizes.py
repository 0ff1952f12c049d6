"""Where a store's bytes are, why they stay, and what would go."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.leftovers import measure_files
from ft_pipeline.retention import REASONS, Collected, Judged, Reason
from ft_pipeline.store_names import ASSET_FORM, FINGERPRINT_FORM, find_folders

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class SizeRow:
    """A kind of thing on the disk.

    Attributes:
        name: An asset, or a folder of the store.
        count: Of artifacts, or of files.
        total_bytes: What it takes of the disk.
        kept_bytes: Of that what stays, by the reason why; nothing of a folder, where reasons do not matter.
        going_bytes: Of that what goes.
    """

    name: str
    count: int
    total_bytes: int
    kept_bytes: dict[Reason, int]
    going_bytes: int


def measure_store(store_root: Path, collected: Collected) -> list[SizeRow]:
    """The rows of a store as a dry run has found it; a file with several links counts once, where it is kept."""
    seen: set[int] = set()
    counts, sizes = Counter[str](), Counter[tuple[str, Reason | None]]()
    for one in sorted(collected.judged, key=_stays_first):
        asset = one.artifact.manifest.asset
        counts[asset] += 1
        sizes[asset, one.reason] += measure_files(one.artifact.path, seen)
    rows = []
    for asset in sorted(counts):
        kept = {reason: sizes[asset, reason] for reason in REASONS}
        going = sizes[asset, None]
        rows.append(SizeRow(asset, counts[asset], sum(kept.values()) + going, kept, going))
    read = {one.artifact.path for one in collected.judged}
    if unread := [path for path in find_folders(store_root, ASSET_FORM, FINGERPRINT_FORM) if path not in read]:
        rows.append(SizeRow("do not read", len(unread), sum(measure_files(path, seen) for path in unread), {}, 0))
    others = [*collected.leftovers, *collected.swept]
    if drafts := [path for folder in find_folders(store_root, ASSET_FORM) for path in sorted(folder.glob(".*"))]:
        going = sum(measure_files(path, seen) for path in drafts if path in others)
        rows.append(
            SizeRow("drafts", len(drafts), going + sum(measure_files(path, seen) for path in drafts), {}, going)
        )
    for folder in find_folders(store_root, "_.+"):
        inside = [path for path in others if path.is_relative_to(folder)]
        going = sum(measure_files(path, seen) for path in inside)
        files = sum(path.is_file() for path in folder.rglob("*"))
        rows.append(SizeRow(folder.name, files, going + measure_files(folder, seen), {}, going))
    return rows


def render_sizes(rows: Sequence[SizeRow], store_root: Path) -> list[str]:
    """Lines of a table in MiB, with the sum of all rows and what the disk has free."""
    kept = {reason: sum(row.kept_bytes.get(reason, 0) for row in rows) for reason in REASONS}
    numbers = [
        sum(row.count for row in rows),
        sum(row.total_bytes for row in rows),
        sum(row.going_bytes for row in rows),
    ]
    whole = SizeRow("all", numbers[0], numbers[1], kept, numbers[2])
    lines = render_columns([["", "count", "MiB", *REASONS, "goes"], *(_list_cells(row) for row in [*rows, whole])])
    if store_root.is_dir():
        disk = shutil.disk_usage(store_root)
        lines.append(f"disk of {store_root}: {disk.free / _GIB:.1f} of {disk.total / _GIB:.1f} GiB are free")
    return lines


def render_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, the first one ranged left, the others right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    ]


def _list_cells(row: SizeRow) -> list[str]:
    kept = [_show(row.kept_bytes.get(reason, 0)) for reason in REASONS]
    return [row.name, str(row.count), f"{row.total_bytes / _MIB:.1f}", *kept, _show(row.going_bytes)]


def _show(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f}" if size_bytes else "-"


def _stays_first(one: Judged) -> tuple[bool, int]:
    return one.reason is None, REASONS.index(one.reason) if one.reason else 0
