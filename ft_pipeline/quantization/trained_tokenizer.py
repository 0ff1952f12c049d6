"""The tokenizer and chat template as trained, on Hugging Face's side: what every GGUF is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from ft_pipeline.errors import ConversionError

_PROBE = "sentinel"

Conversation = Sequence[Mapping[str, str]]


class TrainedTokenizer:
    """A model folder's tokenizer, loaded from its files alone.

    Args:
        folder: Of the model.

    Raises:
        ConversionError: it does not load, or has no chat template.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load_tokenizer(folder)
        self.template: str = self._tokenizer.get_chat_template() if self._tokenizer.chat_template else ""
        if not self.template:
            raise ConversionError(
                f"a GGUF carries the trained chat template; {folder} has none. Save it with the model."
            )
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.eos_id: int | None = self._tokenizer.eos_token_id
        ids = self._tokenizer(_PROBE)["input_ids"]
        self._adds_bos = self.bos_id is not None and ids[:1] == [self.bos_id]

    @property
    def bos(self) -> str:
        """The BOS token's text, empty if there is none."""
        return self._tokenizer.bos_token or ""

    @property
    def eos(self) -> str:
        """The EOS token's text, empty if there is none."""
        return self._tokenizer.eos_token or ""

    @property
    def special_tokens(self) -> list[str]:
        """All tokens that are read as such wherever they stand in a text."""
        added = self._tokenizer.added_tokens_decoder.values()
        return list(dict.fromkeys([*self._tokenizer.all_special_tokens, *(str(token) for token in added)]))

    def token_id(self, text: str) -> int:
        """The id of a token by its text."""
        return int(self._tokenizer.convert_tokens_to_ids(text))

    def render(self, messages: Conversation, *, add_generation_prompt: bool) -> str:
        """The chat template's text of a conversation.

        Raises:
            TemplateError: the template does not take such a conversation.
        """
        text: str = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered conversation, with the BOS that a template may leave to the tokenizer."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.bos_id, *ids] if self.bos_id is not None and self._adds_bos and ids[:1] != [self.bos_id] else ids

    def accepts(self, messages: Conversation) -> bool:
        """Whether the template renders such a conversation."""
        try:
            self.render(messages, add_generation_prompt=False)
        except (TemplateError, TypeError):
            return False
        return True


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as err:
        raise ConversionError(f"the tokenizer of {folder} does not load: {err}") from err
