from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.contract import IGNORED, TokenContract, TokenizedRow
from ft_pipeline.datasets.conversation import Message, pack_extra, unpack
from ft_pipeline.datasets.token_prefix import BatchEncoder
from ft_pipeline.datasets.tokenizer import load_tokenizer, strip_tokenizer
from ft_pipeline_tests.datasets.families import NAMES, make_family

Conversation = tuple[list[Message], str | None]


def _turns(*contents: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    turns = [Message(role=roles[turn % 2], content=content) for turn, content in enumerate(contents)]
    return [Message(role="system", content=system), *turns] if system else turns


CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
EXTRA = pack_extra(TOOLS, {1: {"tool_calls": [CALL]}})
CONVERSATIONS: dict[str, Conversation] = {
    "one": (_turns("hi", "It is sunny."), None),
    "many": (_turns("hi", "yes", "and?", "It is\nsunny."), None),
    "system": (_turns("hi", "yes", "and?", "no", system="Be brief."), None),
    "call": (_turns("weather?", ""), EXTRA),
    "tool": ([*_turns("weather?", ""), Message(role="tool", content="sun"), *_turns("", "sunny")[1:]], EXTRA),
}
QWEN_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
MISTRAL_CALL = (
    '[TOOL_CALLS] [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]</s>'
)


def _plain(end: str, blank: str = "") -> dict[str, list[str]]:
    one, brief = f"{blank}It is sunny.{end}", f"{blank}It is\nsunny.{end}"
    return {"one": [one], "many": [f"{blank}yes{end}", brief], "system": [f"{blank}yes{end}", f"{blank}no{end}"]}


# What each family learns of a conversation, answer by answer: with loss_on last_answer the last of them.
LEARNED = {
    "chatml": _plain("<|im_end|>"),
    "llama3": _plain("<|eot_id|>"),
    "qwen2.5": _plain("<|im_end|>") | {"call": [QWEN_CALL], "tool": [QWEN_CALL, "sunny<|im_end|>"]},
    "mistral-metaspace": _plain("</s>", " ") | {"call": [MISTRAL_CALL], "tool": [MISTRAL_CALL, " sunny</s>"]},
    "mistral-normalized": _plain("</s>", " ") | {"call": [MISTRAL_CALL], "tool": [MISTRAL_CALL, " sunny</s>"]},
    # Its normalizer puts a blank before every piece between special tokens, and so does the decoder show it.
    "mistral": _plain("</s>", "  ")
    | {"call": [MISTRAL_CALL.replace("S] ", "S]  ")], "tool": [MISTRAL_CALL.replace("S] ", "S]  "), "  sunny</s>"]},
    "gemma": _plain("<end_of_turn>"),
    "phi3": _plain("<|end|>", " "),
}
REFUSED = {
    ("chatml", "call"): "leaves out the call of 'get_weather'",
    ("llama3", "call"): "leaves out the call of 'get_weather'",
    ("gemma", "system"): "System role not supported",
    ("gemma", "tool"): "roles must alternate",
    ("phi3", "tool"): "leaves out the call of 'get_weather' in message 1",
}
# Mistral v0.3 drops the system message as soon as an answer follows.
FORGOTTEN = {(name, "system") for name in ("mistral", "mistral-metaspace", "mistral-normalized")}
CASES = [
    (name, case)
    for name, cases in LEARNED.items()
    for case in cases
    if (name, case) not in REFUSED and (name, case) not in FORGOTTEN
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_family(name, tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture(scope="module")
def last(bases: dict[str, Path]) -> dict[str, TokenContract]:
    return {name: TokenContract(load_tokenizer(base), max_row_tokens=4000) for name, base in bases.items()}


@pytest.fixture(scope="module")
def every(bases: dict[str, Path]) -> dict[str, TokenContract]:
    return {
        name: TokenContract(load_tokenizer(base), loss_on="all_answers", max_row_tokens=4000)
        for name, base in bases.items()
    }


@pytest.fixture(scope="module")
def tokenizers(bases: dict[str, Path]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(base) for name, base in bases.items()}


def _learned(row: TokenizedRow, tokenizer: Any) -> list[str]:
    """The texts of the unmasked runs."""
    runs: list[list[int]] = [[]]
    for label in row.labels.tolist():
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_loss_sees_exactly_the_answers_with_their_ends(
    name: str, case: str, last: Any, every: Any, tokenizers: Any
) -> None:
    (row,) = last[name].tokenize([CONVERSATIONS[case]])
    assert (_learned(row, tokenizers[name]), row.faults) == (LEARNED[name][case][-1:], ())
    (row,) = every[name].tokenize([CONVERSATIONS[case]])
    assert (_learned(row, tokenizers[name]), row.faults) == (LEARNED[name][case], ())


@pytest.mark.parametrize(("name", "case"), list(REFUSED))
def test_what_a_template_does_not_write_is_refused(name: str, case: str, last: Any) -> None:
    (row,) = last[name].tokenize([CONVERSATIONS[case]])
    ((code, detail),) = row.faults
    assert (code, row.input_ids.tolist()) == ("template_refuses", [])
    assert REFUSED[name, case] in detail


@pytest.mark.parametrize("name", sorted({name for name, _ in FORGOTTEN}))
def test_a_prompt_that_is_rendered_differently_later_is_a_breach(name: str, last: Any) -> None:
    (row,) = last[name].tokenize([CONVERSATIONS["system"]])
    ((code, detail),) = row.faults
    assert code == "template_prefix"
    assert "'Be brief." in detail


def test_qwen3_learns_its_empty_reasoning_with_the_last_answer(last: Any, tokenizers: Any) -> None:
    rows = last["qwen3"].tokenize(list(CONVERSATIONS.values()))
    assert [row.faults for row in rows] == [()] * len(rows)
    assert [_learned(row, tokenizers["qwen3"]) for row in rows] == [
        [f"<think>\n\n</think>\n\n{answer}"]
        for answer in (
            "It is sunny.<|im_end|>",
            "It is\nsunny.<|im_end|>",
            "no<|im_end|>",
            QWEN_CALL,
            "sunny<|im_end|>",
        )
    ]


def test_qwen3_drops_the_reasoning_of_earlier_answers_which_is_a_breach(every: Any, tokenizers: Any) -> None:
    reasoned = _turns("hi", "<think>\nhm\n</think>\n\nyes", "and?", "<think>\nso\n</think>\n\nno")
    (row,) = every["qwen3"].tokenize([(reasoned, None)])
    ((code, detail),) = row.faults
    assert code == "template_prefix"
    assert "writes the answer of message 1 differently once another message follows: '<think>" in detail
    assert _learned(row, tokenizers["qwen3"]) == ["<think>\nso\n</think>\n\nno<|im_end|>"]


def test_qwen3_reasoning_before_a_call_changes_later_prompts(every: Any) -> None:
    calling = [*_turns("hi", "<think>\nhm\n</think>\n\n"), Message(role="tool", content="sun")]
    messages = [*calling, *_turns("", "sunny", "and?", "no")[1:]]
    (row,) = every["qwen3"].tokenize([(messages, EXTRA)])
    assert any("renders the prompt of message 3 differently" in detail for _, detail in row.faults)


TEXT = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(["\n", " ", "\n\n", "It", "sunny", "'s", "é", "\u0301", "日本", "🙂", "12", "\t"])).map(
        "".join
    ),
)
ROWS = st.builds(
    lambda contents, system: _turns(*contents[: len(contents) // 2 * 2], system=system),
    st.lists(TEXT, min_size=2, max_size=7),
    st.one_of(st.none(), TEXT),
)


# Some normalizers make special tokens of them.
WIDE = ["＜s＞", "＜/s＞", "［INST］"]


def _encode_slowly(
    contract: TokenContract, tokenizer: Any, messages: list[dict[str, Any]], tools: Any, *, open_turn: bool
) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=False, add_generation_prompt=open_turn
    )
    adds = contract.expected_bos and ids[:1] != [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id, *ids] if adds else ids


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ids_and_masks_are_those_of_encoding_the_prompt_alone(
    name: str, data: st.DataObject, last: Any, tokenizers: Any
) -> None:
    contract, tokenizer = last[name], tokenizers[name]
    row, extra = data.draw(st.one_of(ROWS.map(lambda turns: (turns, None)), st.sampled_from([*CONVERSATIONS.values()])))
    (found,) = contract.tokenize([(row, extra)])
    codes = {code for code, _ in found.faults}
    if "template_refuses" in codes:
        return
    messages, tools = unpack(row, extra)
    full = _encode_slowly(contract, tokenizer, messages, tools, open_turn=False)
    prompt = _encode_slowly(contract, tokenizer, messages[:-1], tools, open_turn=True)
    assert found.input_ids.tolist() == full[: len(found.input_ids.tolist())]
    assert contract.end_of_turn_id not in full[len(found.input_ids.tolist()) :]
    # A tokenizer without bytes gives different unknown texts the same ids: the texts tell.
    texts = [
        contract._renderer.render(turns, tools, open_turn=turns is not messages) for turns in (messages, messages[:-1])
    ]
    assert ("template_prefix" in codes) == (full[: len(prompt)] != prompt or not texts[0].startswith(texts[1]))
    if not codes:
        assert found.input_ids.tolist()[-1] == contract.end_of_turn_id
        assert found.labels.tolist() == [IGNORED] * len(prompt) + found.input_ids.tolist()[len(prompt) :]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_prefix_of_any_text_is_judged_as_by_encoding_it(name: str, data: st.DataObject, tokenizers: Any) -> None:
    tokenizer = tokenizers[name]
    added = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    part = st.one_of(TEXT, st.sampled_from([*added, *WIDE, *(token[:-1] for token in added)]))
    text = data.draw(st.lists(part, max_size=9).map("".join))
    cuts = data.draw(st.lists(st.integers(0, len(text)), min_size=1, max_size=4))
    encoder = BatchEncoder(strip_tokenizer(tokenizer))
    (ids,) = encoder.encode([text])
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    (ends,) = encoder.find_prompt_ends([(text, ids, cuts)])
    for cut, end in zip(cuts, ends, strict=True):
        prompt = tokenizer(text[:cut], add_special_tokens=False)["input_ids"]
        assert end == (len(prompt) if ids[: len(prompt)] == prompt else None)


def test_an_unknown_character_is_not_taken_for_the_unknown_token(tokenizers: Any) -> None:
    encoder = BatchEncoder(strip_tokenizer(tokenizers["mistral-unknown"]))
    text = "日本 <unk>It is"
    (ids,) = encoder.encode([text])
    assert ids.count(tokenizers["mistral-unknown"].unk_token_id) == 2
    assert encoder.find_prompt_ends([(text, ids, [len(text)])]) == [[len(ids)]]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_control_tokens_are_those_that_the_tokenizer_finds(name: str, data: st.DataObject, tokenizers: Any) -> None:
    tokenizer = tokenizers[name]
    tokens = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in tokens if token.special} - {tokenizer.unk_token}
    spelled = st.sampled_from([*sorted({token.content for token in tokens} - {tokenizer.unk_token}), "<0x0A>", *WIDE])
    text = data.draw(st.lists(st.one_of(TEXT, spelled), max_size=5).map("".join))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = next((token for token in tokenizer.convert_ids_to_tokens(ids) if token in special), None)
    assert BatchEncoder(strip_tokenizer(tokenizer)).find_control_token(text) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_rendering_is_that_of_apply_chat_template(name: str, last: Any, tokenizers: Any) -> None:
    from jinja2 import TemplateError

    for row, extra in CONVERSATIONS.values():
        messages, tools = unpack(row, extra)
        for turns, open_turn in ((messages, False), (messages[:-1], True)):
            try:
                text = tokenizers[name].apply_chat_template(
                    turns, tools=tools, tokenize=False, add_generation_prompt=open_turn
                )
            except TemplateError:
                continue
            assert last[name]._renderer.render(turns, tools, open_turn=open_turn) == text
