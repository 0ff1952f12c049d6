"""What llama.cpp cannot read as the trained tokenizer does, whatever is done to a model folder.

A difference counts as known only if it goes away with exactly the characters that a known limit is about, so that a
wrong vocabulary, which differs elsewhere too, never passes for one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.references import Reference
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer

Encode = Callable[[str], Sequence[int]]
_UNNORMALIZED = "e\u0301 é ﬁ"
_FORMS: tuple[Literal["NFC", "NFKC", "NFD", "NFKD"], ...] = ("NFC", "NFKC", "NFD", "NFKD")
_ASCII_BLANKS = " \t\n\v\f\r"


@dataclass(frozen=True)
class _Limit:
    """Something that llama.cpp leaves undone.

    Attributes:
        rewrite: Takes what it is about out of a text.
        is_of_contents: The texts of messages are rewritten, and what the template writes must agree as it is. Else the
            whole rendering is, to what is the same to the trained tokenizer.
    """

    reason: str
    rewrite: Callable[[str], str]
    is_of_contents: bool


class KnownDifferences:
    """Tells a known limit of llama.cpp from a wrong vocabulary.

    Args:
        trained: The tokenizer as trained.
        encode: llama.cpp's ids of a text.
    """

    def __init__(self, trained: TrainedTokenizer, encode: Encode) -> None:
        self._trained = trained
        self._encode = encode
        self._limits = [
            *_limit_control_tokens(trained, encode),
            _NEWER,
            *_limit_blanks(trained),
            *_limit_forms(trained),
        ]

    def explain(self, reference: Reference) -> str | None:
        """Why llama.cpp reads a rendering otherwise; None: for no reason that is known."""
        for limit in self._limits:
            if self._agrees(reference, [limit]):
                return limit.reason
        if self._agrees(reference, self._limits):
            return "several of these at once"
        return None

    def _agrees(self, reference: Reference, limits: Sequence[_Limit]) -> bool:
        text = self._rewrite_contents(reference, [limit for limit in limits if limit.is_of_contents])
        for limit in limits:
            if not limit.is_of_contents:
                rewritten = limit.rewrite(text)
                text = rewritten if self._trained.encode(text) == self._trained.encode(rewritten) else text
        return text != reference.text and self._trained.encode(text) == list(self._encode(text))

    def _rewrite_contents(self, reference: Reference, limits: Sequence[_Limit]) -> str:
        contents = [message["content"] for message in reference.messages]
        for limit in limits:
            contents = [limit.rewrite(content) for content in contents]
        messages = [{**old, "content": new} for old, new in zip(reference.messages, contents, strict=True)]
        try:
            return self._trained.render(messages, add_generation_prompt=reference.add_generation_prompt)
        except ConversionError:  # the template does not take the rewritten conversation
            return reference.text


def _limit_blanks(trained: TrainedTokenizer) -> Iterator[_Limit]:
    if trained.right_stripped:
        after = re.compile(f"({'|'.join(map(re.escape, trained.right_stripped))})\\s*[^\\S{_ASCII_BLANKS}]\\s*")
        yield _Limit(
            "the trained tokenizer drops all blanks after a special token, llama.cpp only ASCII's",
            lambda text: after.sub(r"\1", text),
            is_of_contents=False,
        )


def _limit_forms(trained: TrainedTokenizer) -> Iterator[_Limit]:
    for form in _FORMS:
        normalized = unicodedata.normalize(form, _UNNORMALIZED)
        if trained.encode(normalized) == trained.encode(_UNNORMALIZED):
            yield _Limit(
                f"the tokenizer brings text to Unicode's {form}, llama.cpp reads it as it is",
                partial(unicodedata.normalize, form),
                is_of_contents=False,
            )


def _limit_control_tokens(trained: TrainedTokenizer, encode: Encode) -> Iterator[_Limit]:
    # llama-vocab.cpp makes "</s>", "<|eot_id|>" and the like control tokens of any vocabulary that has them.
    ordinary = trained.list_ordinary().items()
    alike = [text for text, token in ordinary if token in encode(text) and token not in trained.encode(text)]
    if alike:
        pattern = re.compile("|".join(map(re.escape, sorted(alike, key=len, reverse=True))))
        yield _Limit(
            "llama.cpp reads a control token where the trained tokenizer spells it out: "
            f"{', '.join(map(repr, alike[:3]))}{', ...' if len(alike) > 3 else ''}",
            lambda text: pattern.sub("x", text),  # nothing in its place could be a message that the template refuses
            is_of_contents=True,
        )


_NEWER = _Limit(
    f"the two know different versions of Unicode, and characters are newer than {unicodedata.unidata_version}",
    lambda text: "".join("x" if unicodedata.category(char) == "Cn" else char for char in text),
    is_of_contents=True,
)
