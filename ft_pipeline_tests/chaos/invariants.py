"""What must hold whatever has happened to a pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import CorruptArtifact, PublicationError
from ft_pipeline.file_lock import try_lock_file
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline_tests.chaos.undisturbed import NAME, Instance, Reference, list_results
from ft_pipeline_tests.dagster_server import list_processes

_POLL_SECONDS = 0.1


def find_damage(instance: Instance, champions: tuple[str, ...]) -> Iterator[str]:
    """What is broken on a disk whose pipeline was disturbed: every artifact that is there is whole, and a champion too.

    Args:
        instance: Whose disk.
        champions: The models that may be champion now.
    """
    unreadable: list[str] = []
    store = ArtifactStore(instance.store.root, tell=unreadable.append)
    for artifact in store.list_artifacts():
        try:
            store.verify(artifact)
        except CorruptArtifact as err:
            yield f"partial artifact: {err}"
    yield from (f"partial artifact: {sentence}" for sentence in unreadable)
    try:
        champion = instance.state.champion
    except PublicationError as err:
        yield f"lost champion: {err}"
        return
    if champion is None or champion.gguf_model not in champions:
        yield f"lost champion: it is {champion.gguf_model if champion else None}, expected one of {champions}"
    if not instance.published.is_symlink() or not instance.published.readlink().name.endswith(champions):
        yield f"lost champion: {instance.published} points to none of {champions}"
    yield from (f"lost champion: in the published folder {fault}" for fault in find_faults(instance.published))


def find_differences(instance: Instance, reference: Reference) -> Iterator[str]:
    """What is not as the second undisturbed run left it, to the byte where no clock is in it."""
    champion = reference.champions[1]
    yield from find_damage(instance, (champion,))
    ours, expected = list_results(instance.store), list_results(ArtifactStore(reference.after / "artifacts"))
    yield from (f"missing: {name}" for name in sorted(expected.keys() - ours.keys()))
    yield from (f"not in an undisturbed run: {name}" for name in sorted(ours.keys() - expected.keys()))
    for name in sorted(ours.keys() & expected.keys()):
        for file in sorted(ours[name].keys() | expected[name].keys()):
            if ours[name].get(file) != expected[name].get(file):
                yield f"another result: {file} of {name}"
    promoted = [event.model.gguf_model for event in instance.state.history]
    if promoted != list(reference.champions):
        yield f"another history: {promoted}, expected {reference.champions}"
    yield from (f"left behind: {path}" for path in _list_left(instance))


def _list_left(instance: Instance) -> Iterator[Path]:
    """Drafts, checkpoints and half versions, which a run that ends well clears away."""
    root, published = instance.store.root, instance.published.parent
    for pattern in ("[a-z]*/.*", "_checkpoints/*", "_aliases/.*.json.*", "_runs/.*.json.*"):
        yield from root.glob(pattern)
    yield from published.glob(f".{NAME}*")
    yield from published.glob(".versions/.*")


def wait_for_silence(instance: Instance, seconds: float) -> tuple[float, str | None]:
    """Wait until no process of an instance lives and its device is free.

    Returns:
        How long it took, and what there still is after that time.
    """
    started = time.monotonic()
    while True:
        alive, waited = list_processes(instance.home), time.monotonic() - started
        if not alive:
            with try_lock_file(instance.locks / "cpu.lock") as is_free:
                return waited, None if is_free else "stuck slot: the device is locked, and no process lives"
        if waited > seconds:
            return waited, f"stuck slot: processes live {waited:.0f} s after the kill: {alive}"
        time.sleep(_POLL_SECONDS)
