"""Rules that tell a right answer where many are right: the last number, a word that must be there, a pattern."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ft_pipeline.evaluation.final_answer import count_groups, find_last_number, matches_whole, read_number
from ft_pipeline.evaluation.metrics.json_text import read_object
from ft_pipeline.evaluation.metrics.words import fold, is_unspaced


class AnswerCheck(BaseModel):
    """One rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact", "number", "contains", "regex", "json_keys"] = Field(
        description="What `value` is. exact: all of the answer, but for white space around it. number: its last "
        "number. contains: words that stand in it, whatever their case. regex: a pattern that matches all of it, but "
        "for white space around it. json_keys: all keys of the JSON object that it is, separated by commas."
    )
    value: str

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.kind == "number" and read_number(self.value) is None:
            raise ValueError(f"a check for a number must have a number; {self.value!r} is none")
        if self.kind == "contains" and not self.value.strip():
            raise ValueError("a check for words must have one; its value is empty")
        if self.kind == "regex":
            count_groups(self.value)
        if self.kind == "json_keys" and ("" in self._keys or len(set(self._keys)) < len(self._keys)):
            raise ValueError(f"a check for keys must have each once, separated by commas; it has {self.value!r}")
        return self

    @property
    def _keys(self) -> list[str]:
        return [key.strip() for key in self.value.split(",")]

    def passes(self, answer: str) -> bool:
        """Whether an answer keeps the rule."""
        match self.kind:
            case "exact":
                return answer.strip() == self.value.strip()
            case "number":
                return find_last_number(answer) == read_number(self.value)
            case "contains":
                return _words_pattern(self.value).search(fold(answer)) is not None
            case "regex":
                return matches_whole(self.value, answer.strip())
            case "json_keys":
                found = read_object(answer)
                return found is not None and found.keys() == set(self._keys)


def _words_pattern(value: str) -> re.Pattern[str]:
    """The words of the value, any white space between them, not within longer words."""
    words = fold(value).split()
    before = r"(?<!\w)" if _is_bounded(words[0][0]) else ""
    after = r"(?!\w)" if _is_bounded(words[-1][-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)


def _is_bounded(edge: str) -> bool:
    return edge.isalnum() and not is_unspaced(edge)
