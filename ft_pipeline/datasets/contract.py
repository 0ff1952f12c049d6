"""The token contract: what a row is to the model, made once, and checked before any GPU time is spent.

A conversation's ids are those of the chat template's rendering, cut after the last end-of-turn token: what follows it
there (ChatML's line break) is never generated. The loss sees the last answer, or every answer, each with its
end-of-turn token, and nothing else. A row of plain text is BOS, its tokens, EOS; all but BOS are learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.datasets.conversation import TEXT_ROLE, Message, unpack
from ft_pipeline.datasets.rendering import ChatRenderer, RenderedTurn, TemplateRefusal, count_common
from ft_pipeline.datasets.template_limits import limit_memory
from ft_pipeline.datasets.token_prefix import BatchEncoder
from ft_pipeline.datasets.tokenizer import Tokenizer
from ft_pipeline.errors import BaseModelError

# What torch.nn.CrossEntropyLoss leaves out.
IGNORED = -100
_NO_IDS: NDArray[np.int32] = np.empty(0, np.int32)
_PROBE = "sentinel"
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
# The Rust tokenizer's encodings are many times their ids: some rows at a time.
_ROWS_AT_ONCE = 1000
Fault = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row in tokens.

    Attributes:
        input_ids: Shape (tokens,); empty where the template refuses the row.
        labels: Shape (tokens,): the id where the loss is taken, -100 elsewhere.
        completion_tokens: Number of ids that the loss sees.
        faults: Reason code and detail of each breach; none in a row that may be trained on.
        truncated: The ids were cut to the longest row allowed.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    completion_tokens: int
    faults: tuple[Fault, ...]
    truncated: bool = False


@dataclass(slots=True)
class _Draft:
    text: str
    is_text: bool
    is_refused: bool = False
    turns: list[RenderedTurn] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def prompt_ends(self) -> list[int]:
        """Where in the text the prompts end that begin it."""
        return [len(turn.prompt) for turn in self.turns if turn.begins_text]


class TokenContract:
    """Renders and tokenizes rows as the trainer will see them.

    Args:
        tokenizer: Of the base model.
        loss_on: Which of the assistant's turns are learned.
        max_row_tokens: Longer rows are `too_many_tokens`.
        truncate: Cut them instead.

    Attributes:
        end_of_turn_id: The token that ends a turn; None where the base has no chat template.
        expected_bos: How many BOS a row has, 0 or 1.

    Raises:
        BaseModelError: a template without an end-of-turn token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        loss_on: Literal["last_answer", "all_answers"] = "last_answer",
        max_row_tokens: int,
        truncate: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._max_row_tokens = max_row_tokens
        self._truncate = truncate
        self._encoder = BatchEncoder(tokenizer)
        self._bos_id = -1 if tokenizer.bos_id is None else tokenizer.bos_id
        self._eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self._renderer = ChatRenderer(tokenizer) if tokenizer.templates else None
        probe = self._encode_probe()
        self.end_of_turn_id = self._find_end_of_turn(probe) if probe else None
        self._end_of_turn = "" if self.end_of_turn_id is None else tokenizer.spell(self.end_of_turn_id)
        # Of some bases BOS is also what begins or ends a turn: then only the first ids tell.
        self._bos_has_other_uses = probe.count(self._bos_id) > 1 or self._bos_id in [*self._eos, self.end_of_turn_id]
        self.expected_bos = min(self._count_bos(probe), 1) if probe else int(tokenizer.adds_bos)
        self._bos_of_text = int(tokenizer.adds_bos) if self._bos_has_other_uses else self.expected_bos

    def tokenize(self, rows: Sequence[tuple[Sequence[Message], str | None]]) -> list[TokenizedRow]:
        """Ids, mask and breaches of each row, given as its messages and its `extra`.

        Raises:
            BaseModelError: there are conversations, and the base has no chat template, or one that takes too much.
        """
        tokenized: list[TokenizedRow] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            with limit_memory(self._tokenizer.source):
                drafts = [self._draft(messages, extra) for messages, extra in rows[start : start + _ROWS_AT_ONCE]]
            ids = self._encoder.encode([draft.text for draft in drafts])
            ends = self._encoder.find_prompt_ends(
                [(draft.text, row, draft.prompt_ends) for draft, row in zip(drafts, ids, strict=True)]
            )
            tokenized += map(self._finish, drafts, ids, ends)
        return tokenized

    def _draft(self, messages: Sequence[Message], extra: str | None) -> _Draft:
        """A row's text and what of it is learned."""
        is_text = len(messages) == 1 and messages[0]["role"] == TEXT_ROLE
        draft = _Draft(messages[0]["content"] if is_text else "", is_text)
        for written in [*(message["content"] for message in messages), *([extra] if extra else [])]:
            if token := self._encoder.find_control_token(written):
                detail = f"a message holds {token!r}, which the tokenizer reads as a control token"
                draft.faults.append(("control_token", detail))
                break
        if not is_text:
            try:
                self._render(draft, *unpack(messages, extra))
            except TemplateRefusal as err:
                draft = _Draft("", is_text, True, faults=[*draft.faults, ("template_refuses", str(err))])
        return draft

    def _render(self, draft: _Draft, messages: list[dict[str, Any]], tools: list[Any] | None) -> None:
        if self._renderer is None:
            raise BaseModelError(
                f"a base model must have a chat template; {self._tokenizer.source} has none in tokenizer_config.json "
                "or chat_template.jinja. Use an instruct model, or add the template that your runtime will use."
            )
        draft.text = self._renderer.render_whole(messages, tools)
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        for turn in answers if self._loss_on == "all_answers" else answers[-1:]:
            rendered = self._renderer.render_turn(draft.text, messages, tools, turn, self._end_of_turn)
            draft.turns.append(rendered)
            if rendered.breach:
                draft.faults.append(("template_prefix", rendered.breach))

    def _finish(self, draft: _Draft, ids: list[int], ends: list[int | None]) -> TokenizedRow:
        if draft.is_refused:
            return TokenizedRow(_NO_IDS, _NO_IDS, 0, tuple(draft.faults))
        if draft.is_text:
            ids = [self._bos_id] * self._bos_of_text + ids + self._eos
            return self._check(draft, ids, [slice(self._bos_of_text, len(ids))], self._bos_of_text)
        # A template that leaves BOS to the tokenizer gets it here; one that writes it must not get a second.
        if self._tokenizer.adds_bos and ids[:1] != [self._bos_id]:
            ids = [self._bos_id, *ids]
            ends = [None if end is None else end + 1 for end in ends]
        found = iter(ends)
        learned, end = [], len(ids)
        for turn in draft.turns:
            span = self._find_span(draft, turn, ids, next(found) if turn.begins_text else None)
            if span is not None:
                learned.append(span)
                end = span.stop if turn.is_last else end
        return self._check(draft, ids[:end], learned, self.expected_bos)

    def _find_span(self, draft: _Draft, turn: RenderedTurn, ids: list[int], start: int | None) -> slice | None:
        """Which ids of a turn are learned; None of an earlier one that is not as the model would write it."""
        if start is None and not turn.breach:
            detail = "tokens merge across the place where the answer begins, so the prompt alone has other ids"
            draft.faults.append(("template_prefix", detail))
        if start is None and turn.is_last:
            # What TRL learns of such a row: all from where prompt and conversation part.
            prompt = self._encoder.encode([turn.prompt])[0]
            bos = [self._bos_id] if self._tokenizer.adds_bos and prompt[:1] != [self._bos_id] else []
            start = count_common(bos + prompt, ids)
        if start is None or (turn.breach and not turn.is_last):
            return None
        place = _index(ids, self.end_of_turn_id, start, from_end=turn.is_last) if turn.is_ended else None
        if place is None:
            detail = f"the template writes no {self._end_of_turn} after an answer, so its end is not learned"
            draft.faults.append(("no_end_of_turn", detail))
            return slice(start, len(ids)) if turn.is_last else None
        return slice(start, place + 1)

    def _check(self, draft: _Draft, ids: list[int], learned: list[slice], expected_bos: int) -> TokenizedRow:
        faults = draft.faults
        if (count := self._count_bos(ids)) != expected_bos:
            faults.append(("bos_count", f"{count} BOS tokens where the base's rows have {expected_bos}"))
        truncated = False
        if len(ids) > self._max_row_tokens:
            if self._truncate:
                ids, truncated = ids[: self._max_row_tokens], True
            else:
                faults.append(("too_many_tokens", f"{len(ids)} tokens, more than {self._max_row_tokens}"))
        row = np.array(ids, np.int32)
        labels = np.full(len(row), IGNORED, np.int32)
        for span in learned:
            labels[span] = row[span]
        completion_tokens = sum(max(0, min(span.stop, len(row)) - span.start) for span in learned)
        if not completion_tokens:
            cut = f" within the first {self._max_row_tokens}" if truncated else ""
            faults.append(("nothing_to_learn", f"no token{cut} is learned"))
        return TokenizedRow(row, labels, completion_tokens, tuple(faults), truncated)

    def _count_bos(self, ids: list[int]) -> int:
        if not self._bos_has_other_uses:
            return ids.count(self._bos_id)
        return next((place for place, token_id in enumerate(ids) if token_id != self._bos_id), len(ids))

    def _encode_probe(self) -> list[int]:
        if self._renderer is None:
            return []
        messages = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        try:
            with limit_memory(self._tokenizer.source):
                text = self._renderer.render(messages, None, open_turn=False)
        except TemplateRefusal as err:
            raise BaseModelError(
                f"a chat template must render a question and its answer; that of {self._tokenizer.source}: {err}"
            ) from err
        (ids,) = self._encoder.encode([text])
        return [self._bos_id, *ids] if self._tokenizer.adds_bos and ids[:1] != [self._bos_id] else ids

    def _find_end_of_turn(self, ids: list[int]) -> int:
        """The first control token that the template writes after an answer."""
        decode = self._tokenizer.decode
        start = max((i for i in range(len(ids)) if _PROBE in decode(ids[i:])), default=len(ids))
        end = next((j for j in range(start, len(ids)) if _PROBE in decode(ids[start : j + 1])), len(ids)) + 1
        tokens = self._tokenizer.added
        for token_id in ids[end:]:
            if token_id in tokens and tokens[token_id].special and not _BYTE_TOKEN.fullmatch(tokens[token_id].content):
                return int(token_id)
        raise BaseModelError(
            "a chat template must end a turn with a special token, or the model never learns to stop; the template of "
            f"{self._tokenizer.source} writes {decode(ids[end:])!r} after an answer. Fix the template."
        )


def _index(ids: list[int], token_id: int | None, start: int, *, from_end: bool) -> int | None:
    """Where a token stands at or after `start`: the first, or the last."""
    if from_end:
        return next((place for place in range(len(ids) - 1, start - 1, -1) if ids[place] == token_id), None)
    return next((place for place in range(start, len(ids)) if ids[place] == token_id), None)
