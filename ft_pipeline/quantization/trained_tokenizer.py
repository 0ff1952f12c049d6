"""The tokenizer and chat template as trained, on Hugging Face's side: what every GGUF is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft_pipeline.datasets.rendering import TEMPLATE_DATE, template_failures
from ft_pipeline.datasets.template_limits import TimeLimit, limit_memory, require_size
from ft_pipeline.errors import ConversionError

_PROBE = "sentinel"

Conversation = Sequence[Mapping[str, str]]


class TrainedTokenizer:
    """A model folder's tokenizer, loaded from its files alone.

    Args:
        folder: Of the model.
        is_limited: Rendering may take so much time and memory only (`template_limits.py`); in the main thread alone.

    Raises:
        ConversionError: it does not load, or has no chat template.
    """

    def __init__(self, folder: Path, *, is_limited: bool = True) -> None:
        self._folder = folder
        self._is_limited = is_limited
        self._tokenizer = _load_tokenizer(folder)
        self.template = self._find_template()
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

    @property
    def stop_candidates(self) -> list[str]:
        """Those of them that no answer holds: not the line breaks and markup that some vocabularies add."""
        ordinary = {str(token) for token in self._tokenizer.added_tokens_decoder.values() if not token.special}
        return [token for token in self.special_tokens if token not in ordinary]

    @property
    def right_stripped(self) -> list[str]:
        """The special tokens that take the blanks after them along."""
        return [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.rstrip]

    def list_ordinary(self) -> dict[str, int]:
        """Tokens and ids of those that look like special ones and are none."""
        special = set(self.special_tokens)
        tokens: dict[str, int] = self._tokenizer.get_vocab()
        return {text: i for text, i in tokens.items() if text[:1] == "<" and text[-1:] == ">" and text not in special}

    def token_id(self, text: str) -> int:
        """The id of a token by its text."""
        return int(self._tokenizer.convert_tokens_to_ids(text))

    def render(self, messages: Conversation, *, add_generation_prompt: bool) -> str:
        """The chat template's text of a conversation.

        Raises:
            ConversionError: the template does not take such a conversation.
            BaseModelError: it takes too long, or too much memory.
        """
        try:
            with self._limit():
                text: str = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    strftime_now=lambda _format: TEMPLATE_DATE,
                )
        except template_failures() as err:
            roles = ", ".join(message["role"] for message in messages)
            raise ConversionError(
                f"the chat template must render a conversation of {roles}; that of {self._folder} does not: {err!r}. "
                "Leave such conversations out, or fix the template."
            ) from err
        require_size(text, str(self._folder))
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered conversation, with the BOS that a template may leave to the tokenizer."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.bos_id, *ids] if self.bos_id is not None and self._adds_bos and ids[:1] != [self.bos_id] else ids

    def show(self, ids: Sequence[int]) -> list[str]:
        """How tokens are spelled in the vocabulary."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def find(self, text: str, position: int) -> int:
        """Where in a text the token begins that has this index in its ids."""
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        added = len(self.encode(text)) - len(found["input_ids"])
        starts = [*([0] * added), *(start for start, _ in found["offset_mapping"]), len(text)]
        return int(starts[min(position, len(starts) - 1)])

    def accepts(self, messages: Conversation) -> bool:
        """Whether the template renders such a conversation."""
        try:
            self.render(messages, add_generation_prompt=False)
        except ConversionError:
            return False
        return True

    @contextmanager
    def _limit(self) -> Iterator[None]:
        if self._is_limited:
            with limit_memory(str(self._folder)), TimeLimit(str(self._folder)):
                yield
        else:
            yield

    def _find_template(self) -> str:
        try:
            template: str = self._tokenizer.get_chat_template() if self._tokenizer.chat_template else ""
        except ValueError as err:  # named ones, and none of them for conversations without tools
            raise ConversionError(
                f"a GGUF carries one chat template; {self._folder} has several and none named 'default'. Name it so."
            ) from err
        if not template:
            raise ConversionError(
                f"a GGUF carries the trained chat template; {self._folder} has none. Save it with the model."
            )
        return template


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as err:
        raise ConversionError(f"the tokenizer of {folder} does not load: {err}") from err
