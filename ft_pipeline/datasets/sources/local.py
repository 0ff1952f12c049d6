"""Sources on this machine: a file, a folder or a glob, all below the allowed roots."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ft_pipeline.datasets.sources.source_file import shown
from ft_pipeline.datasets.sources.suffixes import find_suffix
from ft_pipeline.datasets.sources.urls import check_url, is_half_url
from ft_pipeline.errors import SourceError


@dataclass(frozen=True)
class AllowedRoots:
    """Where data may lie; links are resolved in both.

    Attributes:
        folders: Below these.
        own: Not below these, which the pipeline writes itself.
    """

    folders: tuple[Path, ...]
    own: tuple[Path, ...] = ()

    def find_own(self, resolved: Path) -> Path | None:
        """The folder of the pipeline's own that a path lies in."""
        return next((folder for folder in self.own if resolved.is_relative_to(folder)), None)

    def leads_to_own(self, path: Path) -> bool:
        """Whether a path is a link to what the pipeline has made."""
        return path.is_symlink() and self.find_own(Path(os.path.realpath(path))) is not None  # a loop is no error here

    def require(self, path: Path, resolved: Path) -> None:
        """See that data may lie there.

        Raises:
            SourceError: it may not.
        """
        if own := self.find_own(resolved):
            raise SourceError(
                f"{shown(str(path))}: lies in {shown(str(own))}, which the pipeline writes itself. Copy what you want "
                "of it to another folder"
            )
        if not any(resolved.is_relative_to(folder) for folder in self.folders):
            roots = ", ".join(map(str, self.folders)) or "no folder"
            place = shown(str(resolved if resolved.is_dir() else resolved.parent))
            raise SourceError(
                f"{shown(str(path))}: lies in {place}, outside dataset.allowed_roots ({roots}). Add its folder"
            )


def expand_local(pattern: str, root: Path, roots: AllowedRoots) -> tuple[list[Path], list[str]]:
    """All files that a path or pattern stands for, sorted; hidden ones only where the pattern names them.

    Returns:
        The files, and what is wrong with folders beside them, unreadable or outside the allowed roots.

    Raises:
        SourceError: nothing matches, the pattern is unusable, or its own folder is outside the allowed roots.
    """
    if is_half_url(pattern):
        check_url(pattern)  # which refuses it
    try:
        path = root / pattern
        if os.path.lexists(path):
            return _walk(path, roots) if path.is_dir() else ([path], [])
        if not glob.has_magic(pattern):
            raise SourceError(f"{shown(pattern)}: matches no file below {root}. Put one there or fix the path")
        found = _glob(pattern, root, roots)
    except (OSError, ValueError, IndexError, NotImplementedError, RuntimeError) as err:
        raise SourceError(f"{shown(pattern)}: is no usable path or pattern: {reason(err)}") from err
    if not found:
        raise SourceError(f"{shown(pattern)}: matches no file below {root}. Put a file there or fix the pattern")
    return found, []


def resolve_local(path: Path, roots: AllowedRoots) -> Path:
    """The plain file behind a path.

    Raises:
        SourceError: it lies outside the allowed roots, is missing, in a loop of links, or no plain file.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as err:
        raise SourceError(f"{shown(str(path))}: cannot be read: {reason(err)}") from err
    roots.require(path, resolved)
    if not resolved.is_file():
        raise SourceError(f"{shown(str(path))}: is no plain file. Name files, e.g. {shown(str(path.parent))}/*.jsonl")
    return resolved


def reason(err: Exception) -> str:
    """What an error says, without the path that the message names anyway."""
    return shown(getattr(err, "strerror", None) or str(err))


def _glob(pattern: str, root: Path, roots: AllowedRoots) -> list[Path]:
    whole = root / pattern
    base = root if whole.is_relative_to(root) else Path(whole.anchor)  # the project's folder is no pattern
    for part in whole.relative_to(base).parts:
        if glob.has_magic(part):
            break
        base /= part
    if not base.is_dir():
        return []
    # Looking is bounded too: a pattern such as /**/*.jsonl must not read the whole disk before it is refused.
    roots.require(base, base.resolve(strict=True))
    relative = whole.relative_to(base)
    is_own = cache(lambda folder: roots.find_own(folder.resolve()))
    wants_hidden = any(part.startswith(".") for part in relative.parts)
    return sorted(
        path
        for path in base.glob(str(relative))
        if (wants_hidden or not _is_hidden(path.relative_to(base)))
        and not (is_own(path.parent) or roots.leads_to_own(path))
        and (find_suffix(path.name) is not None or not path.is_dir())
    )


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _walk(folder: Path, roots: AllowedRoots) -> tuple[list[Path], list[str]]:
    """Files with a known suffix below a folder. Links to folders are followed, each folder once."""
    roots.require(folder, folder.resolve(strict=True))
    faults: list[str] = []
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(
        folder, followlinks=True, onerror=lambda err: faults.append(f"{shown(str(err.filename))}: {reason(err)}")
    ):
        if not _enter(Path(place), seen, roots, faults):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        named = [Path(place, name) for name in files if not name.startswith(".") and find_suffix(name)]
        found += [path for path in named if not roots.leads_to_own(path)]
    if not found:
        nothing = f"{shown(str(folder))}: has no file with a known suffix below it (e.g. .jsonl). Put one there"
        raise SourceError("\n".join(faults or [nothing]))
    return sorted(found), faults


def _enter(folder: Path, seen: set[tuple[int, int]], roots: AllowedRoots, faults: list[str]) -> bool:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return False
    seen.add((status.st_dev, status.st_ino))
    resolved = folder.resolve(strict=True)
    if roots.find_own(resolved):
        return False
    try:
        roots.require(folder, resolved)
    except SourceError as err:
        faults.append(str(err))
        return False
    return True
