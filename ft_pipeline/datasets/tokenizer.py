"""The base's tokenizer as `transformers` makes it, kept without `transformers`.

Loading one takes four seconds and 650 MB, nearly all of it for importing torch. It is loaded once; what the token
contract needs of it goes to the processes that tokenize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import BaseModelError

_PROBE = "sentinel"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that adds no tokens by itself.

    Attributes:
        source: The base's folder, for errors.
        engine: The one in Rust; where there is none, that of `transformers`, which is slow, and right.
        is_rust: Which of them it is.
        added: The added tokens by their ids.
        special: The text of BOS, EOS and others by their names, as templates see them.
        adds_bos: The base's own tokenizer begins a text with BOS.
        templates: Chat templates: for conversations without tools (False) and with them; none where there is none.
    """

    source: str
    engine: Any
    is_rust: bool
    added: Mapping[int, Any]
    special: Mapping[str, Any]
    bos_id: int | None
    eos_id: int | None
    unk_token: str | None
    adds_bos: bool
    templates: Mapping[bool, str]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if not texts:
            return []
        if not self.is_rust:
            ids: list[list[int]] = self.engine(list(texts), add_special_tokens=False)["input_ids"]
            return ids
        return [encoding.ids for encoding in self.engine.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens among it."""
        return str(self.engine.decode(list(ids), skip_special_tokens=False))

    def spell(self, token_id: int) -> str:
        """The token of an id, as it stands in the vocabulary."""
        look_up = self.engine.id_to_token if self.is_rust else self.engine.convert_ids_to_tokens
        return str(look_up(token_id))


def load_tokenizer(base: Path) -> Tokenizer:
    """The tokenizer of a base model.

    Raises:
        BaseModelError: it does not load.
    """
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise BaseModelError(f"the tokenizer of {base} does not load: {err}") from err
    return strip_tokenizer(loaded, str(base))


def strip_tokenizer(loaded: Any, source: str = "") -> Tokenizer:
    """What is needed of a tokenizer of `transformers`."""
    rust = getattr(loaded, "backend_tokenizer", None)
    bos_id = loaded.bos_token_id
    adds_bos = bos_id is not None and loaded(_PROBE)["input_ids"][:1] == [bos_id]
    if rust is not None:
        rust.no_truncation()
        rust.no_padding()
    return Tokenizer(
        source=source,
        engine=loaded if rust is None else rust,
        is_rust=rust is not None,
        added={int(token_id): token for token_id, token in loaded.added_tokens_decoder.items()},
        special=dict(loaded.special_tokens_map),
        bos_id=None if bos_id is None else int(bos_id),
        eos_id=None if loaded.eos_token_id is None else int(loaded.eos_token_id),
        unk_token=loaded.unk_token,
        adds_bos=adds_bos,
        templates=_find_templates(loaded) if loaded.chat_template else {},
    )


def _find_templates(loaded: Any) -> dict[bool, str]:
    found = {}
    for has_tools in (False, True):
        with suppress(ValueError):  # several templates, and none of them is for this
            found[has_tools] = loaded.get_chat_template(None, [{}] if has_tools else None)
    return found
