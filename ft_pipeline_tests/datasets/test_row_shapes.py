"""What stands beside a row's texts: kept where a template can see it, otherwise a fault; no crash and no silence."""

from __future__ import annotations

import datetime
import inspect
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

from ft_pipeline.datasets.contract import TokenContract
from ft_pipeline.datasets.conversation import RowFault, pack_extra
from ft_pipeline.datasets.formats import FORMATS
from ft_pipeline.datasets.formats.detect import Layout
from ft_pipeline.datasets.formats.text import parse_text
from ft_pipeline.datasets.tokenizer import load_tokenizer
from ft_pipeline.recipe import SourceSection
from ft_pipeline_tests.datasets.families import make_family

_ASK = {"role": "user", "content": "a"}
_ANSWER = {"role": "assistant", "content": "b"}
_NAMELESS: tuple[Any, ...] = (None, "x", {}, {"name": None}, {"name": ""}, {"name": 1})
_ROWS: dict[str, dict[str, Any]] = {
    "chat_messages": {"messages": [_ASK, _ANSWER]},
    "sharegpt": {"conversations": [_ASK, _ANSWER]},
    "alpaca": {"instruction": "a", "output": "b"},
    "prompt_completion": {"prompt": "a", "completion": "b"},
}


def _fault(name: str, row: Any) -> RowFault:
    with pytest.raises(RowFault) as caught:
        Layout(name, {}).parse(row)
    return caught.value


@pytest.mark.parametrize(
    "calls",
    [
        *(5, True, False, "", "x", {"a": 1}, ["x"], [None], [[]], [{}], [{"id": "c1"}]),
        *([{"function": value}] for value in _NAMELESS),
        *([{"function": {"name": "f", "arguments": value}}] for value in (5, 1.5, True)),
        [{"name": "f", "arguments": []}],
        *([{"name": value}] for value in (None, 1)),
    ],
)
def test_tool_calls_of_another_shape_are_a_fault(calls: Any) -> None:
    fault = _fault("chat_messages", {"messages": [_ASK, {**_ANSWER, "tool_calls": calls}]})
    assert fault.code == "wrong_shape"
    assert "of message 2 must be" in str(fault) or "must have arguments" in str(fault)


@pytest.mark.parametrize("arguments", [None, '{"a": 1}', "", {"a": 1}])
@pytest.mark.parametrize("is_flat", [True, False])
def test_tool_calls_are_kept_as_they_are(arguments: Any, is_flat: bool) -> None:
    function = {"name": "f", "arguments": arguments}
    calls = [function if is_flat else {"id": "1", "type": "function", "function": function}]
    conversation, *_ = Layout("chat_messages", {}).parse({"messages": [_ASK, {**_ANSWER, "tool_calls": calls}]})
    assert conversation.extra is not None
    assert json.loads(conversation.extra)["turns"]["1"]["tool_calls"] == calls


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        *(
            ("alpaca", {"instruction": "a", "output": "b", "history": value}, '"history" must be')
            for value in (3, True, False, "x", {"a": 1}, ["ab"], [["a"]], [["a", 1]])
        ),
        *(
            (name, row | {"system": value}, '"system" must be text')
            for value in (3, [], ["a"], False)
            for name, row in _ROWS.items()
        ),
        *(
            (name, row | {column: value}, f'"{column}" must be')
            for column in ("tools", "functions")
            for value in (3, True, "x", [5], ["a"], [None], {"a": 1}, '{"a": 1}')
            for name, row in _ROWS.items()
        ),
        ("text", {"text": "a", "group": [1]}, '"group" must be text'),
        ("chat_messages", {"messages": [_ASK, _ANSWER], "tools": [{}], "functions": [{}]}, "not both"),
        (
            "chat_messages",
            {"messages": [_ASK, {**_ANSWER, "tool_calls": [{"name": "f"}], "function_call": {"name": "f"}}]},
            "not both",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "x"}, {"from": "human", "value": "a"}], "system": "y"},
            '"system" must be what the system turn says',
        ),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "f(1)"}]}, "message 1, .* must be JSON"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "[]"}]}, "must call a function"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": '{"a": 1}'}]}, "names its function"),
        *(
            ("chat_messages", {"messages": [{**_ASK, field: 5}, _ANSWER]}, f'"{field}" of message 1 must be text')
            for field in ("name", "tool_call_id", "reasoning_content")
        ),
        *(
            (
                "chat_messages",
                {"messages": [_ASK, {**_ANSWER, "weight": value}]},
                '"weight" of message 2 must be 0 or 1',
            )
            for value in (0.5, True, "0", 2)
        ),
        (
            "chat_messages",
            {"messages": [_ASK, _ANSWER, _ASK, {**_ANSWER, "weight": 0}]},
            "message 4, has weight 0.*weights are not supported yet",
        ),
    ],
)
def test_what_cannot_be_kept_is_a_fault(name: str, row: Any, message: str) -> None:
    with pytest.raises(RowFault, match=message) as caught:
        Layout(name, {}).parse(row)
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), "wrong_shape"),
        (b"\xff", "wrong_shape"),
        (Decimal("1.5"), "wrong_shape"),
        ({1, 2}, "wrong_shape"),
        (float("nan"), "not_finite"),
        (float("inf"), "not_finite"),
    ],
)
def test_what_parquet_holds_and_json_does_not_is_a_fault(value: Any, code: str) -> None:
    assert _fault("chat_messages", {"messages": [_ASK, _ANSWER], "tools": [{"default": value}]}).code == code


def test_tools_are_as_deep_as_every_later_reader_can_read() -> None:
    def nest(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = {"items": [value]}
        return value

    assert pack_extra([nest(40)], {}) is not None
    for levels in (60, 300, 50_000):
        with pytest.raises(RowFault, match="at most 100 levels") as caught:
            pack_extra([nest(levels)], {})
        assert caught.value.code == "too_deep"


def test_an_answer_of_weight_0_is_not_learned_in_silence(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_family("chatml", tmp_path))
    row = {"messages": [_ASK, {**_ANSWER, "weight": 0}, _ASK, _ANSWER]}
    conversation, *_ = Layout("chat_messages", {}).parse(row)
    (last,) = TokenContract(tokenizer, max_row_tokens=100).tokenize([(conversation.messages, conversation.extra)])
    assert not last.faults
    contract = TokenContract(tokenizer, loss_on="all_answers", max_row_tokens=100)
    (every,) = contract.tokenize([(conversation.messages, conversation.extra)])
    ((code, detail),) = every.faults
    assert (code, "message 1 has weight 0" in detail) == ("template_refuses", True)


def test_the_recipe_knows_every_format() -> None:
    annotation = SourceSection.model_fields["format"].annotation
    names = [value for part in get_args(annotation) for value in get_args(part)]
    assert names == ["auto", *FORMATS]


def test_the_recipe_is_light_to_load(project: Path) -> None:
    heavy = ("pyarrow", "polars", "numpy", "torch", "transformers")
    code = f"import sys, ft_pipeline.recipe; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_guide_shows_a_format_as_it_is(project: Path) -> None:
    guide = (project / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = "".join(f"    {line}" if line.strip() else line for line in inspect.getsource(parse_text).splitlines(True))
    assert shown in guide
    assert (project / "ft_pipeline_tests/datasets/formats/text.json").read_text(encoding="utf-8").strip() in guide
    line = '"text": Format(("text",), parse_text),'
    assert line in guide
    assert line in (project / "ft_pipeline/datasets/formats/__init__.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["chat_messages", "sharegpt"])
def test_a_chat_cannot_pass_for_plain_text(name: str) -> None:
    (column,) = FORMATS[name].columns
    assert _fault(name, {column: [{"role": "text", "content": "a document"}]}).code == "unknown_role"
