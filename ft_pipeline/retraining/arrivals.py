"""What lies in a recipe's sources now: files that are quiet and whole, and those that are still on their way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.datasets.sources import SourceFile, find_sources
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import Recipe, RetrainingSection
from ft_pipeline.retraining.rows import RowFolder

_Identity = tuple[int, int, int, int]
_UNKNOWN = ""
# Of files that have not changed since they were hashed, by their path: a look every half minute reads none twice.
_hashes: dict[Path, tuple[_Identity, str]] = {}
# Whether a file ends whole, and why it cannot be read, by its hash and its kind.
_ends: dict[tuple[str, str], tuple[bool, str]] = {}


@dataclass(frozen=True)
class Arrivals:
    """What was found.

    Attributes:
        files: Quiet and whole.
        changed_at: When each of these was changed last, in seconds since 1970.
        unsettled: A sentence for each of the others.
    """

    files: tuple[SourceFile, ...]
    changed_at: tuple[float, ...]
    unsettled: tuple[str, ...]


def find_arrivals(recipe: Recipe, root: Path, store_root: Path, now: float) -> Arrivals:
    """Look at all files of the recipe's sources and test sets.

    A file is quiet when the kernel has not seen it change for `quiet_seconds`; a copied, renamed or touched one has
    changed, whatever its time stamp says. A file from elsewhere has changed when its copy was fetched.

    Args:
        now: In seconds since 1970.

    Raises:
        SourceError: as of `find_sources`.
        DiskSpaceError: there is no room for a copy.
    """
    settings, rows = recipe.retraining, RowFolder(store_root, recipe.name)
    downloads = store_root / "_downloads"

    def hash_of(path: Path) -> str:
        # A copy is whole as soon as it is there, and its hash decides whether it is fetched again.
        is_copy = path.is_relative_to(downloads)
        return _hash_once(path) if is_copy or _age(path, now) >= settings.quiet_seconds else _UNKNOWN

    files, times, unsettled = [], [], []
    for source in find_sources(recipe.dataset, root, downloads, hash_of):
        age = _age(source.path, now)
        if source.sha256 == _UNKNOWN or age < settings.quiet_seconds:
            unsettled.append(f"{source.name} changed {age:.0f} s ago")
        elif fault := _find_fault(source, rows, age, settings):
            unsettled.append(fault)
        else:
            files.append(source)
            times.append(changed_at(source.path))
    return Arrivals(tuple(files), tuple(times), tuple(unsettled))


def changed_at(path: Path) -> float:
    """When the file was written, renamed or touched last, by the kernel's clock, which no program can set back."""
    return path.stat().st_ctime


def _age(path: Path, now: float) -> float:
    """Seconds since a file was changed; of one from the future, how far: the clock has been set back since then."""
    return abs(now - changed_at(path))


def _find_fault(source: SourceFile, rows: RowFolder, age: float, settings: RetrainingSection) -> str:
    """Why a quiet file is not taken yet; empty if it is.

    One that cannot be read to its end never is, for it would fail the run. One whose last row is cut off is taken after
    the longest wait: the row goes to quarantine.
    """
    file = (source.sha256, source.kind)
    if file not in _ends:
        found = rows.read(source)
        _ends[file] = (found.ends_whole, found.fault)
    ends_whole, fault = _ends[file]
    if fault or ends_whole or age >= settings.longest_wait_minutes * 60:
        return fault
    return f"{source.name} ends in the middle of a row"


def _hash_once(path: Path) -> str:
    status = path.stat()
    identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = _hashes.get(path)
    if known is None or known[0] != identity:
        known = _hashes[path] = (identity, hash_file(path))
    return known[1]
