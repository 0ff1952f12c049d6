"""The 16-bit base: a folder of safetensors, from the project or from the Hub at a pinned commit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.base_weights import INDEX_FILE, SINGLE_FILE, read_index, require_weights
from ft_pipeline.errors import BaseModelError
from ft_pipeline.fingerprint import fingerprint, hash_file
from ft_pipeline.hub import hub_errors
from ft_pipeline.recipe import BaseModelSection

# All that a tokenizer and its template are made of, by the names that transformers and sentencepiece use.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_SUFFIXES = {".json", ".safetensors", ".model", ".jinja", ".txt"}
_NEEDED = ("config.json", "tokenizer_config.json")
# transformers and Unsloth take a folder with it for an adapter, and load the base that it names: another one.
_ADAPTER = "adapter_config.json"
# transformers takes templates from there too, its default.jinja before all others.
_MORE_TEMPLATES = "additional_chat_templates"
# Fields of a config that name code for attention or experts; with a / a package of the Hub.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BaseModel:
    """A base on disk.

    Attributes:
        name: The recipe's name for it.
        path: Its folder.
        identity: What its bytes are: a hash of the folder, or the Hub's commit.
        state: Names, sizes and times of its files, hashed: while it is the same, the files are not read again.
    """

    name: str
    path: Path
    identity: str
    state: str = ""


def open_base(section: BaseModelSection, root: Path, pinned: BaseModel | None = None) -> BaseModel:
    """Find the base that a recipe names.

    Args:
        section: The recipe's words.
        root: The project's folder.
        pinned: What it was when the run began.

    Raises:
        BaseModelError: it is not there, not whole, not safetensors, or not what its config says; a Hub name comes
            without a revision; or it is another one than was pinned.
    """
    if is_on_hub(section, root):
        return _fetch(section, pinned)
    folder = root / section.source
    _require_whole(folder)
    return _identify(section.source, folder, pinned)


def is_on_hub(section: BaseModelSection, root: Path) -> bool:
    """Whether a recipe's base is one of the Hub; a folder of the project goes first.

    Raises:
        BaseModelError: it is neither.
    """
    folder = root / section.source
    if folder.is_dir():
        return False
    if section.source.count("/") == 1 and not section.source.startswith((".", "/", "data/")):
        return True
    raise BaseModelError(
        f"base_model.source must be a folder of the project or a Hub name (org/model), got '{section.source}': "
        f"there is no folder {folder}."
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer and its chat template, byte by byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _require_whole(folder: Path) -> None:
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    weights = _list_weights(folder)
    if not weights:
        missing.append(f"{SINGLE_FILE} or {INDEX_FILE} (pickled weights are not loaded)")
    missing += [path.name for path in weights if not path.is_file()]
    if missing:
        raise BaseModelError(
            f"the base model in {folder} is not whole; it lacks: {', '.join(missing)}. Fetch it again."
        )
    config = read_config(folder)
    _require_no_detour(folder, config)
    require_weights(folder, weights, config)


def _require_no_detour(folder: Path, config: dict[str, Any]) -> None:
    """Refuse what would have the libraries load something else than this folder's weights, or code."""
    if (folder / _ADAPTER).exists():
        raise BaseModelError(
            f"a base must be a whole model; {folder} holds {_ADAPTER}, by which the libraries would load another base. "
            "Merge the adapter, or remove the file."
        )
    if (folder / _MORE_TEMPLATES).exists():
        raise BaseModelError(
            f"a base must have one chat template, which is trained and ships; {folder} holds {_MORE_TEMPLATES}, from "
            "which the libraries would take others. Remove that folder; what it has that is wanted goes into "
            "chat_template.jinja."
        )
    for key in _KERNELS:
        if "/" in str(config.get(key) or ""):
            raise BaseModelError(
                f"a base must bring no code; {folder / 'config.json'} names the package {config[key]!r} ({key}). "
                "Remove the field."
            )
    # Weights may lie on another disk. All else is copied into what is published, and must not be somebody's key; in
    # the Hub's cache it lies in the folder of blobs.
    whole = folder.resolve()
    own = (whole, whole.parent.parent / "blobs")
    for path in sorted(folder.iterdir()):
        is_copied = path.suffix in _SUFFIXES - {".safetensors"}
        if is_copied and path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in own):
            raise BaseModelError(
                f"a base's files must lie in its folder; {path} is a link to a file elsewhere, which would be copied "
                "into what is published. Put the file itself there."
            )


def _list_weights(folder: Path) -> list[Path]:
    """The files that transformers loads; beside them a base may have the same weights in another form."""
    index = read_index(folder)
    if index is not None:
        return [folder / name for name in sorted(set(index.values()))]
    return [folder / SINGLE_FILE] if (folder / SINGLE_FILE).is_file() else []


def require_context(base: BaseModel, row_tokens: int) -> None:
    """Refuse rows that are longer than what the base was made for: training would stretch its positions unasked.

    Raises:
        BaseModelError: the base's config does not read, or its context is shorter than a row may be.
    """
    config = read_config(base.path)
    context = (config.get("text_config") or config).get("max_position_embeddings")
    if context and row_tokens > context:
        raise BaseModelError(
            f"dataset.max_row_tokens must be at most the context of the base, got {row_tokens}: {base.name} has "
            f"{context} (max_position_embeddings). Lower dataset.max_row_tokens or take another base."
        )


def require_vocabulary(base: BaseModel) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for: a token of those ends training on the GPU.

    Special tokens that neither the chat template nor the tokenizer's own settings use are left out: Gemma 3's text
    models carry one for images, which is one more than their embedding has rows.

    Raises:
        BaseModelError: the config or the tokenizer does not read, or a token's id is too high.
    """
    config = read_config(base.path)
    rows = (config.get("text_config") or config).get("vocab_size")
    if not (base.path / "tokenizer.json").is_file() or not isinstance(rows, int):
        return
    over = {token: index for token, index in _read_tokens(base.path) if index >= rows}
    if over:
        token, index = max(over.items(), key=lambda item: item[1])
        raise BaseModelError(
            f"the tokenizer's ids must be below the rows of the embedding, {rows} (vocab_size in config.json); "
            f"{base.name} has {len(over)} above, up to {index} ({token!r}). Take the tokenizer that belongs to the "
            "base, or resize the base's embedding."
        )


def _read_tokens(folder: Path) -> Iterator[tuple[str, int]]:
    """Tokens that rows can hold, with their ids, from tokenizer.json."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        # Unigram lists [token, score] in the order of ids; the others map a token to its id.
        named = vocabulary.items() if isinstance(vocabulary, dict) else ((v[0], i) for i, v in enumerate(vocabulary))
        yield from ((str(token), int(index)) for token, index in named)
        used = _read_tokenizer_words(folder)
        for added in tokenizer.get("added_tokens", []):
            if not added.get("special") or added["content"] in used:
                yield added["content"], int(added["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise BaseModelError(f"{path} must be a tokenizer as the tokenizers library writes it: {err!r}") from err


def _read_tokenizer_words(folder: Path) -> str:
    """All text that names a special token if it is used: the template, and eos, bos, pad and the like."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {key: value for key, value in settings.items() if key.endswith("_token") or key == "chat_template"}
    template = folder / "chat_template.jinja"
    return json.dumps(named, ensure_ascii=False) + (template.read_text(encoding="utf-8") if template.is_file() else "")


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        BaseModelError: it is missing or no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BaseModelError(f"{folder / 'config.json'} must be the model's config: {err}") from err
    if not isinstance(config, dict):
        raise BaseModelError(f"{folder / 'config.json'} must be the model's config, a JSON object")
    return config


def _identify(name: str, folder: Path, pinned: BaseModel | None) -> BaseModel:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _SUFFIXES]
    state = fingerprint({path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files})
    if pinned and (pinned.path, pinned.state) == (folder, state):
        return pinned
    found = BaseModel(name, folder, fingerprint({path.name: hash_file(path) for path in files}), state)
    if pinned and found.identity != pinned.identity:
        raise BaseModelError(
            f"the base model in {folder} must stay as it is while a run goes on; it was {pinned.identity} when the run "
            f"began and is {found.identity} now. Start a new run."
        )
    return found


def _fetch(section: BaseModelSection, pinned: BaseModel | None) -> BaseModel:
    if not section.revision:
        raise BaseModelError(
            f"a Hub model must be pinned: set base_model.revision to the commit (40 hex digits) of {section.source} "
            "that you want, or let make pin record the present one; a branch name moves."
        )
    identity = f"{section.source}@{section.revision}"
    if pinned and pinned.identity == identity and pinned.path.is_dir():
        return pinned
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.safetensors.index.json", *_NEEDED, *TOKENIZER_FILES, "generation_config.json"]
    with hub_errors(section.source, section.revision, BaseModelError):
        path = snapshot_download(section.source, revision=section.revision, allow_patterns=patterns)
    _require_whole(Path(path))
    return BaseModel(section.source, Path(path), identity)


def published_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a base's weight files, by name, where the Hub has told it: its cache calls large files by their hash.

    The files are not read (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
    """
    targets = {path.name: path.resolve().name for path in folder.glob("*.safetensors") if path.is_symlink()}
    return {name: target for name, target in sorted(targets.items()) if _SHA256.fullmatch(target)}


def size_of_weights(folder: Path) -> int:
    """Bytes of the safetensors files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
