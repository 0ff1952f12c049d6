"""Who is champion of a recipe, who challenged it, who was best, and how that came to be: one small file.

<store>/_aliases/<recipe>.json    replaced at once, by who holds the recipe's lock
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ft_pipeline.durable import write_file
from ft_pipeline.errors import PublicationError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.listing import tell_some

_SUFFIX = ".json"
# Of versions that knew a champion alone.
_FIRST_SUFFIX = ".champion"
_FORMAT = 1
_SHOWN_FAULTS = 2
_SETTINGS = ConfigDict(extra="forbid", frozen=True)
Score = Annotated[float, Field(allow_inf_nan=False)]


class JudgedModel(BaseModel):
    """A model that was judged.

    Attributes:
        gguf_model: Fingerprint of its files.
        evaluation_report: Fingerprint of the report on it.
        against: Fingerprint of the champion that it was scored against; None if there was none.
        against_best: Fingerprint of the best champion ever, where it was scored against that too.
        since: When the report was acted on. Going back to a model does not change it.
        score: What the gate is about; None of models of versions that did not write it down.
    """

    model_config = _SETTINGS

    gguf_model: str
    evaluation_report: str
    against: str | None
    since: datetime
    against_best: str | None = None
    score: Score | None = None


class Event(BaseModel):
    """Something that happened to a recipe's aliases.

    Attributes:
        model: The model that was promoted, rejected or gone back to.
        run: The run that did it; None: a person.
    """

    model_config = _SETTINGS

    at: datetime
    kind: Literal["promoted", "rejected", "rolled_back"]
    model: JudgedModel
    run: str | None
    reason: str


class Delivery(BaseModel):
    """What another program was last told; `fault` says why it has not got it."""

    model_config = _SETTINGS

    gguf_model: str
    at: datetime
    fault: str | None = None


class AliasState(BaseModel):
    """All that is known of a recipe's models.

    Attributes:
        champion: The published model.
        challenger: The last one that the present champion did not give way to.
        best: The best champion ever: each new one that is as good on the same rows takes its place.
        history: Oldest first.
        deliveries: By receiver, the last one.
    """

    model_config = _SETTINGS

    format: Literal[1] = 1
    champion: JudgedModel | None = None
    challenger: JudgedModel | None = None
    best: JudgedModel | None = None
    history: tuple[Event, ...] = ()
    deliveries: dict[str, Delivery] = {}


class _FirstChampion(BaseModel):
    """The whole alias, as versions before the history wrote it."""

    model_config = _SETTINGS

    gguf_model: str
    evaluation_report: str
    against: str | None
    since: datetime
    previous: _FirstChampion | None = None

    def upgrade(self) -> AliasState:
        """The same as a state, with a history as far as it is known."""
        models = [
            JudgedModel.model_validate(champion.model_dump(exclude={"previous"}))
            for champion in (self.previous, self)
            if champion
        ]
        events = [
            Event(at=model.since, kind="promoted", model=model, run=None, reason="published by an earlier version")
            for model in models
        ]
        return AliasState(champion=models[-1], best=models[-1], history=tuple(events))


def alias_folder(store_root: Path) -> Path:
    """Where a store keeps its aliases."""
    return store_root / "_aliases"


def alias_lock(folder: Path, recipe_name: str) -> AbstractContextManager[None]:
    """Held by who changes a recipe's aliases or its published folder."""
    return _lock(folder / f".{recipe_name}.lock")


def delivery_lock(folder: Path, recipe_name: str) -> AbstractContextManager[None]:
    """Held by who tells other programs of a recipe's champion; no recipe's name has the mark in it."""
    return _lock(folder / f".{recipe_name}~delivery.lock")


def read_state(folder: Path, recipe_name: str) -> AliasState:
    """The aliases of a recipe; empty ones where nothing was ever published.

    Raises:
        PublicationError: the file does not read, or a newer version has written it.
    """
    path = _path(folder, recipe_name)
    try:
        return AliasState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _read_first(folder, recipe_name) or AliasState()
    except OSError as err:
        raise PublicationError(f"the alias {path} cannot be read: {err}. Mend that.") from err
    except ValidationError as err:
        raise _unreadable(path, err) from err


def write_state(folder: Path, recipe_name: str, state: AliasState) -> None:
    """Replace the aliases of a recipe at once; the recipe's lock must be held.

    Raises:
        PublicationError: the file cannot be written; the one before is as it was.
    """
    first = _first_path(folder, recipe_name)
    with _writing(folder):
        write_file(_path(folder, recipe_name), state.model_dump_json(indent=1))
        # Its champion would come back if the new file were ever taken away.
        if first.exists() and not _has_format(first):
            first.unlink()


def sweep_drafts(folder: Path, recipe_name: str) -> None:
    """Remove what killed writers have left; the recipe's lock must be held."""
    is_draft = re.compile(rf"\.{re.escape(_path(folder, recipe_name).name)}\.[0-9a-f]{{8}}")
    with _writing(folder):
        for path in folder.iterdir():
            if is_draft.fullmatch(path.name):
                path.unlink(missing_ok=True)


def read_champion(folder: Path, recipe_name: str) -> JudgedModel | None:
    """The champion of a recipe, if there is one.

    Raises:
        PublicationError: the file does not read.
    """
    return read_state(folder, recipe_name).champion


def list_recipes(folder: Path) -> list[str]:
    """Names of the recipes that have aliases."""
    found = set()
    for path in folder.glob(f"[!.]*{_SUFFIX}"):
        name = path.name.removesuffix(_SUFFIX)
        is_first = name.endswith(_FIRST_SUFFIX) and not _has_format(path)
        found.add(name.removesuffix(_FIRST_SUFFIX) if is_first else name)
    return sorted(found)


def _read_first(folder: Path, recipe_name: str) -> AliasState | None:
    path = _first_path(folder, recipe_name)
    if not path.exists() or _has_format(path):  # a recipe may be called x.champion
        return None
    try:
        return _FirstChampion.model_validate_json(path.read_bytes()).upgrade()
    except ValidationError as err:
        raise _unreadable(path, err) from err


def _has_format(path: Path) -> bool:
    return "format" in _read_fields(path)


def _read_fields(path: Path) -> dict[str, Any]:
    """What stands in a file; nothing where it is no JSON object."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _unreadable(path: Path, err: ValidationError) -> PublicationError:
    written = _read_fields(path).get("format")
    if isinstance(written, int) and written > _FORMAT:
        return PublicationError(
            f"the alias {path} has format {written}, and this version reads {_FORMAT}: it was written by a newer "
            "version of ft_pipeline. Update to that one."
        )
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in err.errors()]
    return PublicationError(
        f"the alias {path} does not read: {tell_some(faults, _SHOWN_FAULTS)}. Restore it from a backup, or "
        "remove it: then the recipe has no champion and no history."
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with ExitStack() as held:
        with _writing(path.parent):
            held.enter_context(lock_file(path))
        yield


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise PublicationError(
            f"the aliases in {folder} cannot be written: {err}. Make room there, or mend the rights."
        ) from err


def _path(folder: Path, recipe_name: str) -> Path:
    return folder / f"{recipe_name}{_SUFFIX}"


def _first_path(folder: Path, recipe_name: str) -> Path:
    return _path(folder, f"{recipe_name}{_FIRST_SUFFIX}")
