"""What artifacts that were removed were made of: by it what stays is still reached through them.

<store>/_traces/<asset>-<fingerprint>.json
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.artifact import Artifact
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError
from ft_pipeline.store_names import KEY_FORM, find_files
from ft_pipeline.stored_format import StoredFormat

_FORMAT = StoredFormat()


class _Trace(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    upstream: dict[str, str]


class TraceFolder:
    """The traces of a store.

    Args:
        store_root: Its folder.
    """

    def __init__(self, store_root: Path) -> None:
        self._folder = store_root / "_traces"

    def leave(self, artifact: Artifact) -> None:
        """Write down what an artifact was made of, for when it is not there any more."""
        if artifact.manifest.upstream:
            write_file(self._path(*artifact.key), _Trace(upstream=artifact.manifest.upstream).model_dump_json())

    def recall_upstream(self, asset: str, fingerprint: str) -> dict[str, str]:
        """What an artifact that was removed was made of; nothing where none was, or none is known.

        Raises:
            NewerFormat: a newer version has written it.
            ArtifactError: it does not read.
        """
        path = self._path(asset, fingerprint)
        try:
            return _FORMAT.read(path, _Trace).upstream
        except FileNotFoundError:
            return {}
        except ValueError as err:
            raise ArtifactError(f"{path} does not read: {err}. Restore it from a backup, or remove it.") from err

    def keep_only(self, needed: Set[tuple[str, str]]) -> None:
        """Remove the traces of all artifacts but these."""
        kept = {self._path(*key) for key in needed}
        for path in find_files(self._folder.parent, self._folder.name, rf"{KEY_FORM}\.json"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, asset: str, fingerprint: str) -> Path:
        return self._folder / f"{asset}-{fingerprint}.json"
