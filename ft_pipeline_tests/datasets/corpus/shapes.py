"""Lines that are JSON and no conversation: types, roles, their order, empty texts, other formats."""

from __future__ import annotations

import json
from typing import Any

from ft_pipeline_tests.datasets.corpus import row
from ft_pipeline_tests.datasets.data_folder import turns

_TURN = {"role": "user", "content": "a"}
_ANSWER = {"role": "assistant", "content": "b"}
_WRONG: tuple[Any, ...] = (1, -1.5, True, False, {}, {"text": "a"})
_ORDERS = {
    "unknown_role": ("User,assistant", "user,ASSISTANT", "user,bot", "user,", "human,gpt", "user,assistant ", "u\nser"),
    "role_order": (
        *("user", "assistant", "system", "tool", "user,user", "assistant,user", "assistant,assistant", "system,user"),
        *("system,assistant", "user,system,assistant", "user,assistant,system", "user,assistant,user", "tool,user"),
        *("system,system,user,assistant", "user,user,assistant", "user,assistant,assistant", "user,tool,assistant"),
        *("user,assistant,tool", "user,assistant,tool,user", "system,user,assistant,user", "developer,developer"),
    ),
}
_EMPTY = {"nothing": "", "space": " ", "breaks": "\n\r\n\t", "no_break_space": "\u00a0", "wide": "\u3000\u2003"}
_CONTROL = {"nul": "\0", "bell": "\a", "escape": "\x1b[31m", "delete": "\x7f", "next_line": "\x85", "c1": "\x9f"}
_PARTS: dict[str, Any] = {
    "picture": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}],
    "sound": [{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {}}],
    "number": [1],
    "null": [None],
    "bare_text": ["a"],
    "list": [[]],
    "text_of_null": [{"type": "text", "text": None}],
    "no_text": [{"type": "text"}],
}


def _messages(value: Any, **beside: Any) -> str:
    return json.dumps({"messages": value} | beside)


def _without(field: str) -> dict[str, str]:
    return {name: value for name, value in _TURN.items() if name != field}


SHAPE_CASES = [
    *(
        row(f"row_{name}", text, "wrong_shape")
        for name, text in {
            **{"number": "1", "text": '"messages"', "null": "null", "true": "true", "array": "[]"},
            **{"array_of_turns": json.dumps([_TURN, _ANSWER]), "no_key": "{}", "other_key": '{"message": []}'},
        }.items()
    ),
    *(row(f"messages_{i}", _messages(value), "wrong_shape") for i, value in enumerate([None, "a", [], *_WRONG])),
    *(row(f"turn_{i}", _messages([value]), "wrong_shape") for i, value in enumerate([None, "a", [], *_WRONG])),
    *(
        row(f"{field}_{i}", _messages([{**_TURN, field: value}, _ANSWER]), "wrong_shape")
        for field in ("role", "content")
        for i, value in enumerate([None, *_WRONG])
    ),
    *(row(f"role_list_{i}", _messages([{**_TURN, "role": v}]), "wrong_shape") for i, v in enumerate([[], ["user"]])),
    *(row(f"no_{field}", _messages([_without(field), _ANSWER]), "wrong_shape") for field in _TURN),
    *(row(f"parts_{name}", _messages([{**_TURN, "content": v}, _ANSWER]), "not_text") for name, v in _PARTS.items()),
    row("parts_none", _messages([{**_TURN, "content": []}, _ANSWER]), "empty_turn"),
    *(row(f"tools_{i}", _messages([_TURN, _ANSWER], tools=v), "wrong_shape") for i, v in enumerate(["a", *_WRONG])),
    row("openai_error", '{"error": {"message": "rate limit"}}', "wrong_shape"),
    row("mixed_text", '{"text": "a"}', "mixed_formats"),
    row("mixed_alpaca", '{"instruction": "a", "output": "b"}', "mixed_formats"),
    row("mixed_prompt_completion", '{"prompt": "a", "completion": "b"}', "mixed_formats"),
    row("mixed_sharegpt", '{"conversations": [{"from": "human", "value": "a"}]}', "mixed_formats"),
    *(
        row(
            f"order_{roles!r}",
            turns(*((role, f"text {i}") for i, role in enumerate(roles.split(",")))),
            "role_order",
            code,
        )
        for code, orders in _ORDERS.items()
        for roles in orders
    ),
    *(
        row(
            f"empty_{role}_{name}",
            turns(("user", text if role == "user" else "a"), ("assistant", answer)),
            "empty_turn",
        )
        for name, text in _EMPTY.items()
        for role, answer in (("user", "b"), ("assistant", text))
    ),
    *(
        row(f"control_{n}", turns(("user", f"a{t}b"), ("assistant", "c")), "control_character")
        for n, t in _CONTROL.items()
    ),
    row("message_of_300_000", turns(("user", "a " * 150_000), ("assistant", "b")), "message_too_long"),
    row("fine_parts", _messages([{**_TURN, "content": [{"type": "text", "text": "a"}]}, _ANSWER])),
    row("fine_mark_in_text", turns(("user", "\ufeffa question"), ("assistant", "b"))),
    row("fine_lost_bytes", turns(("user", "a \ufffd question"), ("assistant", "b"))),
    row("fine_not_nfc", turns(("user", "cafe\u0301"), ("assistant", "b"))),
    row("fine_markup", turns(("user", "<script>alert(1)</script>"), ("assistant", "<b>b</b>"))),
    row("bidirectional_override", turns(("user", "a"), ("assistant", "\u202eb")), "control_character"),
    row("group_of_a_list", _messages([_TURN, _ANSWER], group=[1, {"a": None}]), "wrong_shape"),
    row("fine_group_of_a_number", _messages([_TURN, _ANSWER], group=1.0)),
    row("tags_of_an_object", _messages([_TURN, _ANSWER], tags={"a": 1})),
    row("tag_with_an_escape", _messages([_TURN, _ANSWER], tag="\x1b[2J")),
    row("fine_tags", _messages([_TURN, _ANSWER], tags=["a", None, 2.0])),
    row("fine_developer", turns(("developer", "s"), ("user", "a"), ("assistant", "b"))),
]
