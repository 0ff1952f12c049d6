"""Finds the files that a recipe names and says what is in them by a hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import SourceError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import DatasetSection

TRAINING_SET = "train"


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        set: `train`, or the name of a test set.
        name: Its path relative to the project, as shown to people.
        sha256: Hash of its bytes, in hex.
    """

    set: str
    path: Path
    name: str
    sha256: str
    size_bytes: int


def find_sources(section: DatasetSection, root: Path) -> tuple[SourceFile, ...]:
    """All files of the recipe's sources and test sets, in the order of set and content hash.

    That order, and so all that is made of the files, does not change when a file is touched or renamed.

    Raises:
        SourceError: a pattern matches no file, a file is outside the allowed roots, unreadable or no plain file; all
            faults are named.
    """
    patterns: Mapping[str, Sequence[str]] = {TRAINING_SET: section.sources, **section.test_sets}
    roots = [(root / allowed).resolve() for allowed in section.allowed_roots]
    faults: list[str] = []
    found: dict[tuple[str, Path], SourceFile] = {}
    for set_name, globs in patterns.items():
        for pattern in globs:
            paths = _expand(pattern, root)
            if not paths:
                faults.append(
                    f"{pattern} ({set_name}): matches no file below {root}. Put a file there or fix the pattern"
                )
            for path in paths:
                try:
                    found[(set_name, path)] = _inspect(path, set_name, root, roots)
                except SourceError as err:
                    faults.append(str(err))
    if faults:
        raise SourceError("\n".join(["the recipe's data sources cannot be used:", *faults]))
    return tuple(sorted(found.values(), key=lambda source: (source.set, source.sha256, source.name)))


def _expand(pattern: str, root: Path) -> list[Path]:
    path = Path(pattern)
    base, relative = (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (root, path)
    try:
        return sorted(base.glob(str(relative)))
    except (ValueError, IndexError, NotImplementedError) as err:
        raise SourceError(f"{pattern!r} is no usable pattern of files: {err}. Use e.g. data/raw/*.jsonl") from err


def _inspect(path: Path, set_name: str, root: Path, allowed: Sequence[Path]) -> SourceFile:
    try:
        resolved = path.resolve(strict=True)
        if not any(resolved.is_relative_to(folder) for folder in allowed):
            shown = ", ".join(str(folder) for folder in allowed)
            raise SourceError(
                f"{path}: lies in {resolved.parent}, outside dataset.allowed_roots ({shown}). Add its folder"
            )
        if not resolved.is_file():
            raise SourceError(f"{path}: is no plain file. Name files, e.g. {path}/*.jsonl")
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        return SourceFile(set_name, resolved, name, hash_file(resolved), resolved.stat().st_size)
    except (OSError, RuntimeError) as err:
        raise SourceError(f"{path}: cannot be read: {getattr(err, 'strerror', None) or err}") from err
