"""TRL's own preparation is the reference for ids and masks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.datasets.contract import IGNORED, TokenContract
from ft_pipeline.datasets.conversation import Message, pack_extra, unpack
from ft_pipeline.datasets.tokenizer import load_tokenizer
from ft_pipeline_tests.datasets.families import make_family
from ft_pipeline_tests.tiny_model import CHATML, make_base, make_model, make_tokenizer

# TRL reads the answers' places from these marks, which write nothing.
MARKED = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}",
)
_WORDS = ["say", "the word", "12", "é", "日本", "🙂", "sky", "is blue", "\n", "  ", "\n\n", "**bold**", "x = 'y'"]
# What the template writes after the last end of turn, which the contract cuts.
AFTER = {"chatml": "\n", "qwen2.5": "\n", "llama3": "", "mistral": "", "gemma": "\n"}


def _generate(count: int, most_turns: int) -> list[list[Message]]:
    """Conversations of any blanks and scripts, whose answers begin with a letter."""
    draw = random.Random(5)
    rows = []
    for _ in range(count):
        turns = []
        for _ in range(draw.randint(1, most_turns)):
            question, answer = (draw.choices(_WORDS, k=draw.randint(1, 12)) for _ in range(2))
            turns.append(Message(role="user", content=draw.choice(["", " "]).join(question)))
            turns.append(Message(role="assistant", content="it " + " ".join(answer)))
        rows.append(turns)
    return rows


def _prepare_by_trl(base: Path, out: Path, rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(output_dir=str(out), report_to="none", use_cpu=True, bf16=False, max_length=None, **settings)
    trainer = SFTTrainer(
        model=LlamaForCausalLM.from_pretrained(base),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    return list(trainer.train_dataset)


def _make_family_model(name: str, folder: Path) -> Path:
    from transformers import AutoTokenizer

    make_family(name, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    return make_model(folder, len(tokenizer), "bfloat16")


def _require_equal(ours: Any, theirs: list[dict[str, Any]], after: list[int]) -> None:
    assert len(ours) == len(theirs)
    for row, reference in zip(ours, theirs, strict=True):
        assert row.faults == ()
        # Alike but for what the template writes after the last end of turn, which is never generated.
        assert reference["input_ids"] == row.input_ids.tolist() + after
        assert reference["labels"][: len(row.labels.tolist())] == row.labels.tolist()


def _after(name: str, base: Path) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    whole: list[int] = tokenizer("<|im_end|>" + AFTER[name], add_special_tokens=False)["input_ids"]
    alone: list[int] = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    return whole[len(alone) :]


@pytest.mark.parametrize(
    ("name", "count"), [("chatml", 1000), ("llama3", 300), ("qwen2.5", 300), ("gemma", 300), ("mistral", 300)]
)
def test_last_answers_are_those_of_trl(tmp_path: Path, name: str, count: int) -> None:
    base = make_base(tmp_path / "base") if name == "chatml" else _make_family_model(name, tmp_path / "base")
    rows = _generate(count, most_turns=3)
    theirs = _prepare_by_trl(
        base,
        tmp_path,
        [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in rows],
        completion_only_loss=True,
    )
    contract = TokenContract(load_tokenizer(base), max_row_tokens=4000)
    _require_equal(contract.tokenize([(turns, None) for turns in rows]), theirs, _after(name, base))


def test_all_answers_are_those_of_a_template_with_generation_marks(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", template=MARKED)
    rows = _generate(1000, most_turns=4)
    theirs = _prepare_by_trl(base, tmp_path, [{"messages": turns} for turns in rows], assistant_only_loss=True)
    contract = TokenContract(load_tokenizer(base), loss_on="all_answers", max_row_tokens=4000)
    _require_equal(contract.tokenize([(turns, None) for turns in rows]), theirs, _after("chatml", base))


@pytest.mark.parametrize("name", ["llama3", "qwen2.5", "gemma"])
def test_all_answers_are_those_of_the_templates_that_trl_trains_with(tmp_path: Path, name: str) -> None:
    """TRL swaps these templates for its own with generation marks; the contract reads the base's as it stands.

    TRL's marks take in the line break after each `<|im_end|>` and `<end_of_turn>`, and for Qwen2.5 also the one that
    ends the header. The model generates neither. Without those single ids the masks are the same.
    """
    base = _make_family_model(name, tmp_path / "base")
    rows = _generate(300, most_turns=4)
    theirs = _prepare_by_trl(base, tmp_path, [{"messages": turns} for turns in rows], assistant_only_loss=True)
    contract = TokenContract(load_tokenizer(base), loss_on="all_answers", max_row_tokens=4000)
    after = _after(name, base)
    for reference in theirs:
        _mask_line_breaks(reference, contract.end_of_turn_id, after, header=name == "qwen2.5")
    _require_equal(contract.tokenize([(turns, None) for turns in rows]), theirs, after)


def _mask_line_breaks(reference: dict[str, Any], end_of_turn: int | None, after: list[int], *, header: bool) -> None:
    ids, marked = reference["input_ids"], list(reference["labels"])
    for place in range(1, len(ids)):
        opens = header and marked[place - 1] == IGNORED
        if [ids[place]] == after and marked[place] != IGNORED and (ids[place - 1] == end_of_turn or opens):
            reference["labels"][place] = IGNORED


def test_tool_calls_are_those_of_trl(tmp_path: Path) -> None:
    base = _make_family_model("qwen2.5", tmp_path / "base")
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    call = {"type": "function", "function": {"name": "find", "arguments": {"city": "Paris"}}}
    extra = pack_extra(tools, {1: {"tool_calls": [call]}})
    turns = [Message(role="user", content="find it"), Message(role="assistant", content="")]
    messages, tools = unpack(turns, extra)  # type: ignore[assignment]
    theirs = _prepare_by_trl(
        base,
        tmp_path,
        [{"prompt": messages[:1], "completion": messages[1:], "tools": tools}],
        completion_only_loss=True,
    )
    ours = TokenContract(load_tokenizer(base), max_row_tokens=4000).tokenize([(turns, extra)])
    _require_equal(ours, theirs, _after("qwen2.5", base))


def test_a_row_whose_prompt_is_no_prefix_learns_what_trl_learns(tmp_path: Path) -> None:
    forgetful = CHATML.replace("{{ bos_token }}", "{{ bos_token }}{% if add_generation_prompt %}{{ 'say' }}{% endif %}")
    make_model(tmp_path / "base", make_tokenizer(tmp_path / "base", forgetful), "bfloat16")
    turns = _generate(1, most_turns=1)[0]
    (theirs,) = _prepare_by_trl(
        tmp_path / "base", tmp_path, [{"prompt": turns[:1], "completion": turns[1:]}], completion_only_loss=True
    )
    (ours,) = TokenContract(load_tokenizer(tmp_path / "base"), max_row_tokens=4000).tokenize([(turns, None)])
    assert [code for code, _ in ours.faults] == ["template_prefix"]
    assert theirs["labels"][: len(ours.labels.tolist())] == ours.labels.tolist()
    assert ours.labels.tolist().count(IGNORED) < 4
