"""A small general set, to see what a fine-tune forgot: the base and the tuned model answer the same questions.

80 questions in four tags of 20: `chat` (a greeting, what was said before, the system turn), `arithmetic`, `copying`,
`instructions`. `scripts/make_general_set.py` writes them; every answer is judged by a check, not by its wording.

What it can show: that a tuned model lost something that its base can do. A change of 10 of the 80 rows is worth a look,
and one of a few rows is noise. What it cannot show: how good a model is, or that nothing was lost. The questions are
easy, few and almost all in English; it is no benchmark, and figures of two bases do not compare.
"""

from __future__ import annotations

import json
from importlib.resources import files

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.evaluation.rules import GENERAL

# The longest reference has fewer bytes, so that it fits even where every byte is a token.
GENERAL_NEW_TOKENS = 64
GENERAL_TAGS = ("chat", "arithmetic", "copying", "instructions")
GENERAL_FILE = "general_set.jsonl"


def load_general_rows() -> list[EvaluationRow]:
    """All rows, tag by tag."""
    text = files("ft_pipeline.evaluation").joinpath(GENERAL_FILE).read_text(encoding="utf-8")
    return [_to_row(number, line) for number, line in enumerate(text.splitlines())]


def _to_row(number: int, line: str) -> EvaluationRow:
    record = json.loads(line)
    return EvaluationRow(
        set_name=GENERAL,
        number=number,
        messages=tuple(Message(role=turn["role"], content=turn["content"]) for turn in record["messages"]),
        source_file=GENERAL_FILE,
        source_line=number + 1,
        tags=tuple(record["tags"]),
        check=AnswerCheck.model_validate(record["check"]),
    )
