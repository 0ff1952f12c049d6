"""The champion: one small file that names the artifacts it is made of, replaced at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ft_pipeline.durable import write_file
from ft_pipeline.errors import PublicationError
from ft_pipeline.file_lock import lock_file

_SUFFIX = ".champion.json"


class Champion(BaseModel):
    """The published model of a recipe.

    Attributes:
        gguf_model: Fingerprint of its files.
        evaluation_report: Fingerprint of the report that let it through.
        against: Fingerprint of the champion that it was scored against; None if it was the first.
        since: When it was published.
        previous: The champion before it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gguf_model: str
    evaluation_report: str
    against: str | None
    since: datetime
    previous: Champion | None = None


def alias_folder(store_root: Path) -> Path:
    """Where a store keeps its aliases."""
    return store_root / "_aliases"


def list_published(folder: Path) -> list[tuple[str, str]]:
    """Asset and fingerprint of what the champions of all recipes are made of, and of whom they were compared with."""
    names = [path.name.removesuffix(_SUFFIX) for path in sorted(folder.glob(f"[!.]*{_SUFFIX}"))]
    champions = [champion for name in names if (champion := read_champion(folder, name))]
    return [
        (asset, fingerprint)
        for champion in champions
        for asset, fingerprint in (
            ("gguf_model", champion.gguf_model),
            ("evaluation_report", champion.evaluation_report),
            ("gguf_model", champion.against),
        )
        if fingerprint
    ]


def read_champion(folder: Path, recipe_name: str) -> Champion | None:
    """The champion of a recipe, if there is one.

    Raises:
        PublicationError: the alias does not read.
    """
    path = _path(folder, recipe_name)
    try:
        return Champion.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as err:
        raise PublicationError(
            f"the alias {path} does not read: {err}. Restore it from a backup or remove it."
        ) from err


def promote(
    folder: Path, recipe_name: str, *, gguf_model: str, evaluation_report: str, against: str | None
) -> Champion:
    """Make a model the champion, unless somebody else became it since the report was made.

    Args:
        folder: The aliases' folder.
        recipe_name: Whose champion.
        gguf_model: Fingerprint of the new one.
        evaluation_report: Fingerprint of its report.
        against: Fingerprint of the champion that the report compares it with.

    Raises:
        PublicationError: the champion is another one than the report compares with.
    """
    with lock_file(folder / f".{recipe_name}.lock"):
        present = read_champion(folder, recipe_name)
        if present and present.gguf_model == gguf_model:
            return present
        if (present.gguf_model if present else None) != against:
            raise PublicationError(
                f"the report compares with the champion {against or 'none'}, and it is "
                f"{present.gguf_model if present else 'none'} now: another run published meanwhile. "
                "Run evaluation_report again."
            )
        champion = Champion(
            gguf_model=gguf_model,
            evaluation_report=evaluation_report,
            against=against,
            since=datetime.now(UTC),
            previous=present.model_copy(update={"previous": None}) if present else None,
        )
        write_file(_path(folder, recipe_name), champion.model_dump_json(indent=1))
    return champion


def _path(folder: Path, recipe_name: str) -> Path:
    return folder / f"{recipe_name}{_SUFFIX}"
