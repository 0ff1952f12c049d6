"""The token contract: what a conversation is to the model, checked before any GPU time is spent.

A row's ids are those of the chat template's rendering, cut after the last end-of-turn token: what follows it there
(ChatML's line break) is never generated. The completion is the last assistant turn; the loss sees nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.datasets.formats.conversation import Message
from ft_pipeline.errors import BaseModelError

# What torch.nn.CrossEntropyLoss leaves out.
IGNORED = -100
_PROBE = "sentinel"
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class TokenizedRow:
    """A conversation in tokens.

    Attributes:
        input_ids: Shape (tokens,).
        labels: Shape (tokens,): the id where the loss is taken, -100 elsewhere.
        prefix_holds: The prompt's ids begin the conversation's ids.
        bos_tokens: How many BOS the ids hold.
        ends_turn: The last id is the end-of-turn token, and it is unmasked.
    """

    input_ids: list[int]
    labels: list[int]
    prefix_holds: bool
    bos_tokens: int
    ends_turn: bool

    @property
    def completion_tokens(self) -> int:
        """Number of ids that the loss sees."""
        return sum(label != IGNORED for label in self.labels)


class TokenContract:
    """Renders and tokenizes conversations as the trainer will see them.

    Args:
        base: Folder of the base model.

    Raises:
        BaseModelError: no tokenizer, no chat template, or a template without an end-of-turn token.
    """

    def __init__(self, base: Path) -> None:
        self._tokenizer = _load_tokenizer(base)
        if not self._tokenizer.chat_template:
            raise BaseModelError(
                f"a base model must have a chat template; {base} has none in tokenizer_config.json or "
                "chat_template.jinja. Use an instruct model, or add the template that your runtime will use."
            )
        bos_id = self._tokenizer.bos_token_id
        self._bos_id = -1 if bos_id is None else int(bos_id)
        self._adds_bos = bos_id is not None and self._tokenizer(_PROBE)["input_ids"][:1] == [bos_id]
        self.end_of_turn_id = self._find_end_of_turn(base)
        self.expected_bos = self._probe().count(self._bos_id)

    def tokenize(self, messages: Sequence[Message]) -> TokenizedRow:
        """Ids and mask of one conversation whose last message is an assistant's."""
        full = self._encode(messages, add_generation_prompt=False)
        prompt = self._encode(messages[:-1], add_generation_prompt=True)
        prefix_holds = full[: len(prompt)] == prompt
        end = len(full) - 1 - full[::-1].index(self.end_of_turn_id) if self.end_of_turn_id in full else len(full) - 1
        ids = full[: end + 1]
        labels = [IGNORED] * min(len(prompt), len(ids)) + ids[len(prompt) :]
        return TokenizedRow(ids, labels, prefix_holds, ids.count(self._bos_id), labels[-1] == self.end_of_turn_id)

    def _encode(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        # A template that leaves BOS to the tokenizer gets it here; one that writes it must not get a second.
        return [self._bos_id, *ids] if self._adds_bos and ids[:1] != [self._bos_id] else ids

    def _probe(self) -> list[int]:
        user, answer = Message(role="user", content=_PROBE), Message(role="assistant", content=_PROBE)
        return self._encode([user, answer], add_generation_prompt=False)

    def _find_end_of_turn(self, base: Path) -> int:
        """The first control token that the template writes after an answer."""
        decode, ids = self._tokenizer.decode, self._probe()
        start = max((i for i in range(len(ids)) if _PROBE in decode(ids[i:])), default=len(ids))
        end = next((j for j in range(start, len(ids)) if _PROBE in decode(ids[start : j + 1])), len(ids)) + 1
        tokens = self._tokenizer.added_tokens_decoder
        for token_id in ids[end:]:
            if token_id in tokens and tokens[token_id].special and not _BYTE_TOKEN.fullmatch(tokens[token_id].content):
                return int(token_id)
        raise BaseModelError(
            "a chat template must end a turn with a special token, or the model never learns to stop; the template of "
            f"{base} writes {decode(ids[end:])!r} after an answer. Fix the template."
        )


def _load_tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise BaseModelError(f"the tokenizer of {base} does not load: {err}") from err
