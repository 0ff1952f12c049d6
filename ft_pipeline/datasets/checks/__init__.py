"""What can be wrong with a row, and what that leads to unless the recipe says otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal["quarantine", "fix", "warn", "off"]
Severity = Literal["error", "risk", "quality"]


@dataclass(frozen=True)
class Check:
    """One promise about a row.

    Attributes:
        rule: What holds of a row that keeps it.
        severity: `error`: nothing can be made of the row; `risk`: it may do harm; `quality`: it may teach little.
        action: What a breach leads to by default.
        choices: What the recipe may choose instead. `fix` mends messages: where a breach is in tools or tool calls, or
            outlives the mending, it is a quarantine.
    """

    rule: str
    severity: Severity
    action: Action
    choices: tuple[Action, ...] = ()


_ANY: tuple[Action, ...] = ("quarantine", "fix", "warn", "off")
_NO_FIX: tuple[Action, ...] = ("quarantine", "warn", "off")

CHECKS: dict[str, Check] = {
    # a row that cannot be read
    "invalid_json": Check("a row must be valid JSON", "error", "quarantine"),
    "invalid_csv": Check("a row must be valid CSV", "error", "quarantine"),
    "invalid_utf8": Check("text must be UTF-8", "error", "quarantine"),
    "invalid_unicode": Check("text must hold whole characters", "error", "quarantine"),
    "duplicate_key": Check("a key must stand once in an object", "error", "quarantine"),
    "not_finite": Check("numbers must be those of JSON", "error", "quarantine"),
    "too_deep": Check("a row must not be nested too deeply to be read", "error", "quarantine"),
    "line_too_long": Check("a row must have at most 16 MiB", "error", "quarantine"),
    "wrong_shape": Check("a row must have the columns and types of its format", "error", "quarantine"),
    "mixed_formats": Check("all rows of a file must be of one format", "error", "quarantine"),
    "not_text": Check("messages must be text", "error", "quarantine"),
    # its turns
    "unknown_role": Check("roles must be system, user, assistant or tool", "error", "quarantine"),
    "role_order": Check(
        "a system turn may come first, then user and assistant must alternate, tools between the assistant's turns, "
        "and the last must be an assistant's",
        "error",
        "quarantine",
    ),
    "empty_turn": Check("every turn must have text", "error", "quarantine", _NO_FIX),
    "message_too_long": Check("a message must have at most dataset.max_message_chars", "error", "quarantine", _NO_FIX),
    # its text
    "byte_order_mark": Check("text must be free of byte order marks", "quality", "fix", _ANY),
    "control_character": Check(
        "text must be free of control characters, tags and overrides of its direction", "risk", "quarantine", _ANY
    ),
    "not_nfc": Check("text should be in Unicode's normal form C", "quality", "fix", _ANY),
    "replacement_character": Check("text should be free of U+FFFD, the mark of lost bytes", "quality", "warn", _NO_FIX),
    "secret": Check("text must be free of keys and tokens", "risk", "quarantine", _ANY),
    "email": Check("text should be free of e-mail addresses", "risk", "warn", _ANY),
    "card_number": Check("text must be free of payment card numbers", "risk", "quarantine", _ANY),
    "refusal": Check("answers should not refuse by rote", "quality", "warn", _NO_FIX),
    "wrong_language": Check(
        "turns, but the system's and tools', must be in dataset.language", "quality", "quarantine", _NO_FIX
    ),
    # its tokens
    "template_refuses": Check("the chat template must render the row", "error", "quarantine"),
    "template_prefix": Check("the prompt's tokens must begin those of the conversation", "error", "quarantine"),
    "bos_count": Check("a row must have as many BOS as the base defines", "error", "quarantine"),
    "control_token": Check("text must not spell control tokens", "risk", "quarantine", _NO_FIX),
    "no_end_of_turn": Check("an answer must end with the end-of-turn token", "error", "quarantine"),
    "nothing_to_learn": Check("an answer must have tokens", "error", "quarantine"),
    "too_many_tokens": Check(
        "a row must have at most dataset.max_row_tokens", "error", "quarantine", ("quarantine", "fix")
    ),
}


def find_faults(actions: Mapping[str, str]) -> list[str]:
    """What is wrong with a recipe's `dataset.checks`: one sentence a fault."""
    faults = []
    for code, action in actions.items():
        check = CHECKS.get(code)
        if check is None:
            near = difflib.get_close_matches(code, CHECKS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(CHECKS)}."
            faults.append(f"there is no check '{code}'; {hint}")
        elif action != check.action and action not in check.choices:
            choices = ", ".join(check.choices) or check.action
            faults.append(f"a breach of '{code}' cannot lead to '{action}', only to: {choices}.")
    return faults


def choose_actions(chosen: Mapping[str, Action]) -> dict[str, Action]:
    """The action of each check under a recipe's choices."""
    return {code: chosen.get(code, check.action) for code, check in CHECKS.items()}
