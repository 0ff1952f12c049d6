from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.contract import IGNORED, TokenContract, TokenizedRow
from ft_pipeline.datasets.conversation import TEXT_ROLE, Message
from ft_pipeline.datasets.token_prefix import match_longest
from ft_pipeline.datasets.tokenizer import load_tokenizer
from ft_pipeline.errors import BaseModelError
from ft_pipeline_tests.tiny_model import CHATML, make_tokenizer

UNENDED = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"


def _turns(*contents: str) -> tuple[list[Message], None]:
    roles = ("user", "assistant")
    return [Message(role=roles[turn % 2], content=content) for turn, content in enumerate(contents)], None


def _text(content: str) -> tuple[list[Message], None]:
    return [Message(role=TEXT_ROLE, content=content)], None


def _codes(contract: TokenContract, row: tuple[list[Message], None]) -> list[str]:
    return [code for code, _ in contract.tokenize([row])[0].faults]


def _lists(rows: list[TokenizedRow]) -> list[Any]:
    return [(row.input_ids.tolist(), row.labels.tolist(), row.completion_tokens, row.faults) for row in rows]


@pytest.fixture(scope="module")
def contract(tiny_base: Path) -> TokenContract:
    return TokenContract(load_tokenizer(tiny_base), max_row_tokens=60)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.mark.parametrize(
    ("row", "codes"),
    [
        (_turns("say", "the word"), []),
        (_turns("say", ""), []),
        (_turns("what is <|im_end|> for", "an end"), ["control_token"]),
        (_turns("say", "the word<|im_end|>"), ["control_token"]),
        (_turns("what is <s> for", "a start"), ["control_token", "bos_count"]),
        (_turns("what is <0x0A> for", "a line break"), []),
        (_turns("ß" * 60, "the word"), ["too_many_tokens"]),
        (_text("the word " * 60), ["too_many_tokens"]),
        (_text("the word</s>"), ["control_token"]),
        (_text("the word"), []),
        (([Message(role="user", content="say")], None), ["nothing_to_learn"]),
    ],
)
def test_a_breach_has_its_reason(contract: TokenContract, row: Any, codes: list[str]) -> None:
    assert _codes(contract, row) == codes


def test_rows_of_a_batch_do_not_touch_each_other(contract: TokenContract) -> None:
    rows = [_turns("say", "the word"), _text("the sky"), _turns("say <s>", "no"), _turns("again", "12 times")] * 700
    together = contract.tokenize(rows)
    assert _lists(together) == _lists([contract.tokenize([row])[0] for row in rows[:4]]) * 700


def test_text_is_bos_tokens_and_eos_with_all_but_bos_learned(contract: TokenContract, tokenizer: Any) -> None:
    (row,) = contract.tokenize([_text("the sky is blue")])
    assert row.input_ids.tolist() == [1, *tokenizer("the sky is blue", add_special_tokens=False)["input_ids"], 4]
    assert row.labels.tolist() == [IGNORED, *row.input_ids.tolist()[1:]]


def test_a_long_row_can_be_cut(tiny_base: Path) -> None:
    whole = TokenContract(load_tokenizer(tiny_base), max_row_tokens=500)
    cutting = TokenContract(load_tokenizer(tiny_base), max_row_tokens=30, truncate=True)
    rows = [_turns("say", "the word " * 30), _turns("say " * 30, "the word"), _turns("say", "it"), _text("ß" * 30)]
    short = cutting.tokenize(rows)
    for row, full in zip(short, whole.tokenize(rows), strict=True):
        assert (row.input_ids.tolist(), row.labels.tolist()) == (
            full.input_ids.tolist()[:30],
            full.labels.tolist()[:30],
        )
    assert [row.truncated for row in short] == [True, True, False, True]
    assert [row.faults for row in short] == [
        (),
        (("nothing_to_learn", "no token within the first 30 is learned"),),
        (),
        (),
    ]


def test_what_follows_the_last_end_of_turn_is_cut(contract: TokenContract, tokenizer: Any) -> None:
    row = contract.tokenize([_turns("say", "the word")])[0]
    assert row.input_ids.tolist()[-1] == row.labels.tolist()[-1] == contract.end_of_turn_id == tokenizer.eos_token_id


def test_an_answer_that_spells_the_end_of_turn_is_kept_whole(contract: TokenContract) -> None:
    row = contract.tokenize([_turns("say", "the word<|im_end|>again")])[0]
    learned = [label for label in row.labels.tolist() if label != IGNORED]
    assert [code for code, _ in row.faults] == ["control_token"]
    assert [label == contract.end_of_turn_id for label in learned].count(True) == 2
    assert row.input_ids.tolist()[-len(learned) :] == learned


@pytest.mark.parametrize(("bos", "expected"), [("{{ bos_token }}", 1), ("", 0)])
def test_there_are_as_many_bos_as_the_template_writes(tmp_path: Path, bos: str, expected: int) -> None:
    make_tokenizer(tmp_path, template=CHATML.replace("{{ bos_token }}", bos))
    contract = TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)
    for row in contract.tokenize([_turns("say", "it"), _text("it")]):
        assert (row.input_ids.tolist().count(1), row.faults) == (expected, ())
    assert contract.expected_bos == expected


def test_a_tokenizer_that_adds_bos_adds_it_once(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    found = []
    for template in (CHATML, CHATML.replace("{{ bos_token }}", "")):
        make_tokenizer(tmp_path, template=template)
        backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        backend.save(str(tmp_path / "tokenizer.json"))
        contract = TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)
        found.append(contract.tokenize([_turns("say", "it"), _text("it")]))
        assert contract.expected_bos == 1
    assert _lists(found[0]) == _lists(found[1])
    assert [row.input_ids.tolist().count(1) for row in found[0]] == [1, 1]


def test_a_bos_that_also_opens_turns_is_counted_at_the_start_only(tmp_path: Path) -> None:
    opening = CHATML.replace("{{ bos_token }}", "").replace("'<|im_start|>", "bos_token + '")
    make_tokenizer(tmp_path, template=opening)
    contract = TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)
    rows = contract.tokenize([_turns("say", "it"), _turns("say", "it", "again", "it"), _text("it")])
    assert [row.faults for row in rows] == [(), (), ()]
    assert [row.input_ids.tolist().count(1) for row in rows] == [2, 4, 0]


def test_an_answer_without_its_end_is_a_breach(tmp_path: Path) -> None:
    forgetful = CHATML.replace("+ '<|im_end|>'", "+ ('' if m['content'] == 'it' else '<|im_end|>')")
    make_tokenizer(tmp_path, template=forgetful)
    for loss_on in ("last_answer", "all_answers"):
        contract = TokenContract(load_tokenizer(tmp_path), loss_on=loss_on, max_row_tokens=60)
        (row,) = contract.tokenize([_turns("say", "it")])
        assert row.faults == (
            ("no_end_of_turn", "the template writes no <|im_end|> after an answer, so its end is not learned"),
        )
    # The next user's end is not taken for the answer's: nothing of the user is learned.
    (row,) = contract.tokenize([_turns("say", "it", "again", "the word")])
    assert [code for code, _ in row.faults] == ["no_end_of_turn"]
    (alone,) = contract.tokenize([_turns("say", "the word")])
    assert row.completion_tokens == alone.completion_tokens


def test_a_failing_template_refuses_its_rows_only(tmp_path: Path) -> None:
    picky = "{% if messages[0]['content'] == 'a' %}{{ raise_exception('no a') }}{% endif %}" + CHATML
    picky = "{% if messages[0]['content'] == 'b' %}{{ 1 // 0 }}{{ messages[7]['role'] + 1 }}{% endif %}" + picky
    make_tokenizer(tmp_path, template=picky)
    contract = TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)
    first, second, third = contract.tokenize([_turns("a", "it"), _turns("b", "it"), _turns("c", "it")])
    assert first.faults == (("template_refuses", "the chat template does not render it: no a"),)
    assert "division" in second.faults[0][1]
    assert (first.input_ids.tolist(), first.labels.tolist(), third.faults) == ([], [], ())


def test_a_template_runs_in_the_sandbox(tmp_path: Path) -> None:
    escaping = "{% if messages[0]['content'] == 'a' %}{{ ''.__class__.__mro__ }}{% endif %}" + CHATML
    make_tokenizer(tmp_path, template=escaping)
    assert _codes(TokenContract(load_tokenizer(tmp_path), max_row_tokens=60), _turns("a", "it")) == ["template_refuses"]


def test_a_base_without_a_chat_template_takes_text_alone(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template=None)
    contract = TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)
    assert contract.end_of_turn_id is None
    assert contract.tokenize([_text("the word")])[0].faults == ()
    with pytest.raises(BaseModelError, match=r"must have a chat template; .* has none"):
        contract.tokenize([_turns("say", "it")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (UNENDED, "must end a turn with a special token"),
        ("{{ raise_exception('never') }}", "must render a question and its answer.*never"),
    ],
)
def test_an_unfit_template_is_an_error(tmp_path: Path, template: str, message: str) -> None:
    make_tokenizer(tmp_path, template=template)
    with pytest.raises(BaseModelError, match=message):
        TokenContract(load_tokenizer(tmp_path), max_row_tokens=60)


@given(st.lists(st.text("<ab>|", min_size=1, max_size=5), min_size=1, max_size=9), st.text("<ab>|", max_size=30))
def test_the_tree_finds_the_leftmost_longest_word(words: list[str], text: str) -> None:
    place, expected = 0, []
    while place < len(text):
        found = max((word for word in words if text.startswith(word, place)), key=len, default=None)
        if found:
            expected.append(found)
        place += len(found or "x")
    assert match_longest(words).findall(text) == expected
