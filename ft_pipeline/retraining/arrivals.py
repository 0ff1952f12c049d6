"""What lies in a recipe's sources now: files that are quiet and whole, and those that are still on their way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile, raise_faults, search_sources
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import Recipe
from ft_pipeline.retraining.rows import RowFolder

_Identity = tuple[int, int, int, int]
_UNKNOWN = ""
# Of each of the two below, for all recipes: some hundred megabytes.
_MOST_REMEMBERED = 1_000_000
# Of files that have not changed since they were hashed, by their path: a look every half minute reads none twice.
_hashes: dict[Path, tuple[_Identity, str]] = {}
# Whether a file ends whole, and why it cannot be read, by its `SourceFile.rows_key`.
_ends: dict[tuple[str, str], tuple[bool, str]] = {}


@dataclass(frozen=True)
class Unsettled:
    """A file that is not taken yet.

    Attributes:
        sentence: Which one and why, for people.
        is_tested: It belongs to a test set.
        is_unknown: What is in it cannot be told, so it may be any file, one that was trained on before among them.
    """

    sentence: str
    is_tested: bool
    is_unknown: bool


@dataclass(frozen=True)
class Arrivals:
    """What was found.

    Attributes:
        files: Quiet and whole.
        changed_at: When each of these was changed last, in seconds since 1970.
        unsettled: The others.
    """

    files: tuple[SourceFile, ...]
    changed_at: tuple[float, ...]
    unsettled: tuple[Unsettled, ...]


def find_arrivals(recipe: Recipe, root: Path, store_root: Path, now: float, *, is_patient: bool = True) -> Arrivals:
    """Look at all files of the recipe's sources and test sets.

    A file is quiet when the kernel has not seen it change for `quiet_seconds`; a copied, renamed or touched one has
    changed, whatever its time stamp says. A file from elsewhere is whole when its copy is there, and has changed when
    that was fetched: who is patient waits for others that come with it.

    Args:
        now: In seconds since 1970, when the look begins; it may take a while.

    Raises:
        SourceError: a source stands for nothing, or one elsewhere does not give what it stands for.
        DiskSpaceError: there is no room for a copy.
    """
    look = _Look(recipe, store_root, now, is_patient=is_patient)
    for remembered in (_hashes, _ends):
        if len(remembered) > _MOST_REMEMBERED:
            remembered.clear()
    own = environment.own_folders(store_root)
    found = search_sources(recipe.dataset, root, look.downloads, look.hash_of, own=own)
    raise_faults(fault for fault in found.faults if not fault.is_of_entry)
    files, times = [], []
    unsettled = [
        Unsettled(fault.sentence, fault.set != TRAINING_SET, is_unknown=not fault.is_no_data) for fault in found.faults
    ]
    for source in found.files:
        state = look.examine(source)
        if isinstance(state, Unsettled):
            unsettled.append(state)
        else:
            files.append(source)
            times.append(state)
    return Arrivals(tuple(files), tuple(times), tuple(unsettled))


def changed_at(path: Path) -> float:
    """When the file was written, renamed or touched last, by the kernel's clock, which no program can set back."""
    return path.lstat().st_ctime


class _Look:
    """One look at all files."""

    def __init__(self, recipe: Recipe, store_root: Path, now: float, *, is_patient: bool) -> None:
        self.downloads = store_root / "_downloads"
        self._settings = recipe.retraining
        self._rows = RowFolder(store_root, recipe.name)
        self._now, self._began = now, time.monotonic()
        self._is_patient = is_patient

    def hash_of(self, path: Path) -> str:
        """The hash of a file that is at rest. A copy is so always, and its hash decides if it is fetched again."""
        return _hash_once(path) if self._is_copy(path) or self._is_quiet(path) else _UNKNOWN

    def examine(self, source: SourceFile) -> float | Unsettled:
        """When the file was changed last if it is taken, or why it is not.

        One that cannot be read to its end never is, for it would fail the run. One whose last row is cut off is taken
        after the longest wait: the row goes to quarantine.
        """

        def wait(sentence: str, *, is_unknown: bool = True) -> Unsettled:
            return Unsettled(f"{source.name} {sentence}", source.set != TRAINING_SET, is_unknown)

        path = source.path
        try:
            if source.sha256 == _UNKNOWN or not self._is_quiet(path):
                return wait(f"changed {self._age(path):.0f} s ago")
            if source.link and not self._is_quiet(source.link):
                return wait(f"is a link that was made {self._age(source.link):.0f} s ago")
            ends_whole, fault = self._read_end(source)
            if not self._is_as_hashed(path):
                return wait("changed while it was looked at")
            waits_for_end = not ends_whole and self._age(path) < self._settings.longest_wait_minutes * 60
            if fault or waits_for_end:
                return wait(fault or "ends in the middle of a row, or lacks its last line break", is_unknown=False)
            return max(changed_at(path), changed_at(source.link or path))
        except OSError as err:
            return wait(f"cannot be read: {err.strerror or err}")

    def _read_end(self, source: SourceFile) -> tuple[bool, str]:
        """Whether a file ends whole, and why it cannot be read; empty if it can."""
        if source.rows_key in _ends:
            return _ends[source.rows_key]
        found = self._rows.read(source, lambda: self._is_as_hashed(source.path))
        if self._is_as_hashed(source.path):
            _ends[source.rows_key] = (found.ends_whole, found.fault)
        return found.ends_whole, found.fault

    def _is_quiet(self, path: Path) -> bool:
        if self._is_copy(path) and not self._is_patient:
            return True
        return self._age(path) >= self._settings.quiet_seconds

    def _age(self, path: Path) -> float:
        """Seconds since a file was changed; of one from the future, how far: the clock has been set back since then."""
        return abs(self._now + time.monotonic() - self._began - changed_at(path))

    def _is_copy(self, path: Path) -> bool:
        return path.is_relative_to(self.downloads)

    def _is_as_hashed(self, path: Path) -> bool:
        known = _hashes.get(path)
        return self._is_copy(path) or (known is not None and known[0] == _identify(path))


def _hash_once(path: Path) -> str:
    identity = _identify(path)
    known = _hashes.get(path)
    if known is None or known[0] != identity:
        known = _hashes[path] = (identity, hash_file(path))
    return known[1]


def _identify(path: Path) -> _Identity:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
