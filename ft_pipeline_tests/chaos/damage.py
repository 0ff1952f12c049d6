"""A file of the store or of the published folder is damaged; the next run heals it, or says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.artifact import MANIFEST, Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline_tests.chaos.invariants import find_differences
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import END, NAME, Instance, Reference

_Damage = Callable[[Instance, Reference], None]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _spoil(path: Path) -> None:
    path.write_text("{")


def _find_made(instance: Instance, reference: Reference, asset: str) -> Artifact:
    """What the second run has made of an asset."""
    earlier = ArtifactStore(reference.before / "artifacts")
    known = {artifact.manifest.fingerprint for artifact in earlier.list_artifacts()}
    (made,) = [
        artifact
        for artifact in instance.store.list_artifacts()
        if artifact.manifest.asset == asset and artifact.manifest.fingerprint not in known
    ]
    return made


def _largest(artifact: Artifact) -> Path:
    name = max(artifact.manifest.files, key=lambda name: artifact.manifest.files[name].size_bytes)
    return artifact.path / name


def _damage_asset(asset: str, spoil: Callable[[Path], None]) -> _Damage:
    return lambda instance, reference: spoil(_largest(_find_made(instance, reference, asset)))


def _damage_manifest(asset: str) -> _Damage:
    return lambda instance, reference: _spoil(_find_made(instance, reference, asset).path / MANIFEST)


def _find_published(instance: Instance) -> Path:
    return instance.published / f"{NAME}-Q8_0.gguf"


def _damage_both(instance: Instance, reference: Reference) -> None:
    """As it is when both are names of one file."""
    _flip(_largest(_find_made(instance, reference, "gguf_model")))
    _flip(_find_published(instance))


def _damage_first_champion(instance: Instance, reference: Reference) -> None:
    _flip(_largest(instance.store.load("gguf_model", reference.champions[0])))


def _damage_record(instance: Instance, _: Reference) -> None:
    newest = max(instance.store.root.glob("_runs/*-*.json"), key=lambda path: path.stat().st_mtime)
    _spoil(newest)


# What is damaged, by its description.
DAMAGES: dict[str, _Damage] = {
    "a byte flipped in raw_dataset": _damage_asset("raw_dataset", _flip),
    "the end cut off a file of validated_dataset": _damage_asset("validated_dataset", _truncate),
    "a file of data_report gone": _damage_asset("data_report", Path.unlink),
    "a byte flipped in trained_adapter": _damage_asset("trained_adapter", _flip),
    "the manifest of merged_model spoilt": _damage_manifest("merged_model"),
    "the end cut off a file of gguf_model": _damage_asset("gguf_model", _truncate),
    "a file of evaluation_report gone": _damage_asset("evaluation_report", Path.unlink),
    "a byte flipped in the published model": lambda instance, _: _flip(_find_published(instance)),
    "a byte flipped in the published model and the store's": _damage_both,
    "a byte flipped in the champion before": _damage_first_champion,
    "the link to the champion gone": lambda instance, _: instance.published.unlink(),
    "the newest run's record spoilt": _damage_record,
}
# Those that a person must mend, what is said, and how it is mended: the file is put back.
TOLD: dict[str, tuple[str, str]] = {
    "the aliases spoilt": (f"artifacts/_aliases/{NAME}.json", r"does not read.*Restore it from a backup"),
    "the counts of forced builds spoilt": ("artifacts/_runs/generations.json", r"does not read.*Restore it, or remove"),
}


def survive_damage(reference: Reference, folder: Path, what: str) -> Outcome:
    """Damage something after a run, and run again.

    Args:
        reference: What undisturbed runs gave.
        folder: The event's.
        what: A key of DAMAGES or TOLD.
    """
    instance = Instance(reference.project, folder)
    instance.prepare(reference.after)
    outcome = Outcome("damage", what, END)
    if what in TOLD:
        outcome.faults += _ask_for_help(instance, reference, *TOLD[what])
    else:
        DAMAGES[what](instance, reference)
    if instance.run(name="rerun"):
        outcome.faults.append(f"the rerun failed: {instance.read_log('rerun')[-1500:]}")
    outcome.faults += find_differences(instance, reference)
    return outcome


def _ask_for_help(instance: Instance, reference: Reference, name: str, words: str) -> Iterator[str]:
    with _spoilt(instance.disk / name):
        if not instance.run():
            yield "it went unnoticed"
        if not re.search(words, instance.read_log(), re.DOTALL):
            yield f"unclear error: {instance.read_log()[-1500:]}"
        yield from (f"lost champion: {fault}" for fault in find_faults(instance.published))
        if not instance.published.readlink().name.endswith(reference.champions[1]):
            yield "lost champion: the link has moved"


@contextmanager
def _spoilt(path: Path) -> Iterator[None]:
    before = path.read_bytes() if path.exists() else None
    _spoil(path)
    yield
    path.unlink() if before is None else path.write_bytes(before)
