from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ft_pipeline.datasets.contract import IGNORED, TokenContract
from ft_pipeline.datasets.snapshot import snapshot_sources
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.datasets.validate import validate_dataset
from ft_pipeline.datasets.validated import (
    EVALUATION_FILE,
    QUARANTINE_FILE,
    TRAIN_FILE,
    ValidateRequest,
    sample_conversations,
)
from ft_pipeline.errors import BaseModelError, DatasetError
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Summary
from ft_pipeline_tests.tiny_model import CHATML, make_tokenizer


def _turns(*pairs: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


def _good(number: int) -> str:
    return _turns(("user", f"say the word {number}"), ("assistant", f"the word {number}"))


def _validate(
    tmp_path: Path, base: Path, lines: list[str], tested: list[str] | None = None, **settings: Any
) -> Summary:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/rows.jsonl").write_text("\n".join(lines))
    values: dict[str, Any] = {"sources": ["data/rows.jsonl"], "max_quarantined_share": 0.5, "max_row_tokens": 200}
    if tested is not None:
        (tmp_path / "data/tested.jsonl").write_text("\n".join(tested))
        values["test_sets"] = {"fresh": ["data/tested.jsonl"]}
    section = DatasetSection.model_validate(values | settings)
    snapshot_sources(find_sources(section, tmp_path), tmp_path)
    request = ValidateRequest(raw_rows=tmp_path / "rows.parquet", base=base, settings=section, out_dir=tmp_path)
    return validate_dataset(request, LogReporter(logging.getLogger(__name__)))


BROKEN = {
    "invalid_json": '{"messages": [{"role": "user", "cont',
    "wrong_shape": '{"text": "hello"}',
    "unknown_role": _turns(("user", "a"), ("bot", "b")),
    "role_order": _turns(("assistant", "a"), ("user", "b")),
    "empty_turn": _turns(("user", "a"), ("assistant", "  \n")),
    "message_too_long": _turns(("user", "x" * 300), ("assistant", "b")),
    "control_character": _turns(("user", "a\x1b[31m"), ("assistant", "b")),
    "secret": _turns(("user", "my key is AKIA" + "ABCDEFGHIJKLMNOP"), ("assistant", "b")),
    "too_many_tokens": _turns(("user", "ß" * 200), ("assistant", "b")),
    "bos_count": _turns(("user", "what is <s> for"), ("assistant", "b")),
}


def test_each_breach_goes_to_quarantine_under_its_reason_and_line(tmp_path: Path, tiny_base: Path) -> None:
    lines = [_good(number) for number in range(60)] + list(BROKEN.values())
    summary = _validate(tmp_path, tiny_base, lines, max_message_chars=299)
    quarantine = pl.read_parquet(tmp_path / QUARANTINE_FILE)
    found = dict(zip(quarantine["source_line"], quarantine["reason"].to_list(), strict=True))
    for line, reason in enumerate(BROKEN, start=61):
        assert reason in found.pop(line)
    assert not found
    assert quarantine["text"].to_list() == list(BROKEN.values())
    assert summary.figures["quarantined_rows"] == len(BROKEN)
    assert summary.failed == []


def test_every_row_is_accounted_for(tmp_path: Path, tiny_base: Path) -> None:
    lines = [_good(number) for number in range(50)] + [_good(3), _good(4), BROKEN["secret"]]
    figures = _validate(tmp_path, tiny_base, lines).figures
    kept = pl.read_parquet(tmp_path / TRAIN_FILE).height + pl.read_parquet(tmp_path / EVALUATION_FILE).height
    assert (figures["rows"], kept, figures["duplicate_rows"], figures["quarantined_rows"]) == (53, 50, 2, 1)


def test_a_row_never_changes_side_as_data_grows(tmp_path: Path, tiny_base: Path) -> None:
    def sides(count: int) -> tuple[set[str], set[str]]:
        _validate(tmp_path, tiny_base, [_good(number) for number in range(count)], held_out_share=0.3)
        files = (pl.read_parquet(tmp_path / name) for name in (TRAIN_FILE, EVALUATION_FILE))
        trained, held_out = ({str(messages) for messages in frame["messages"]} for frame in files)
        return trained, held_out

    small, large = sides(40), sides(90)
    assert small[0] <= large[0]
    assert small[1] <= large[1]
    assert not large[0] & large[1]


def test_a_prompt_of_a_test_set_is_never_trained_on(tmp_path: Path, tiny_base: Path) -> None:
    leaked = _turns(("user", "Say  the word 7"), ("assistant", "another answer"))
    summary = _validate(tmp_path, tiny_base, [*map(_good, range(40)), leaked], tested=[_good(7)])
    prompts = {messages[0]["content"].casefold() for messages in pl.read_parquet(tmp_path / TRAIN_FILE)["messages"]}
    assert "say the word 7" not in prompts
    assert summary.figures["duplicate_rows"] == 2
    evaluation = pl.read_parquet(tmp_path / EVALUATION_FILE)
    assert evaluation.filter(set="fresh").height == 1


def test_too_much_quarantine_fails_the_blocking_check_with_the_top_reason(tmp_path: Path, tiny_base: Path) -> None:
    lines = [_good(number) for number in range(40)] + [BROKEN["secret"], BROKEN["empty_turn"], BROKEN["empty_turn"]]
    (check,) = _validate(tmp_path, tiny_base, lines, max_quarantined_share=0.01).failed
    assert check.value == round(3 / 43, 4)
    assert "most often: empty_turn 2, secret 1" in check.detail


def test_no_row_to_train_on_is_an_error_that_says_why(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"train split must have at least one row; of 2 rows 0 are clean.*empty_turn: 2"
    ):
        _validate(tmp_path, tiny_base, [BROKEN["empty_turn"]] * 2)


def test_the_loss_sees_the_last_answer_and_its_end_only(tmp_path: Path, tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    _validate(tmp_path, tiny_base, [_good(number) for number in range(40)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for row in pl.read_parquet(tmp_path / TRAIN_FILE).iter_rows(named=True):
        learned = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(learned) == row["messages"][-1]["content"] + "<|im_end|>"
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
        assert row["input_ids"][-1] == tokenizer.eos_token_id


def test_masks_are_those_of_trl(tmp_path: Path, tiny_base: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    contract = TokenContract(tiny_base)
    conversations = [json.loads(_good(number))["messages"] for number in range(20)]
    rows = Dataset.from_list([{"prompt": c[:1], "completion": c[1:]} for c in conversations])
    config = SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, completion_only_loss=True)
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    for messages, theirs in zip(conversations, trainer.train_dataset, strict=True):
        ours = contract.tokenize(messages)
        # TRL keeps ChatML's line break after the end of the turn; here the end of the turn is the end.
        assert theirs["input_ids"][: len(ours.input_ids)] == ours.input_ids
        assert theirs["labels"][: len(ours.labels)] == ours.labels
        assert tokenizer.decode(theirs["input_ids"][len(ours.input_ids) :]).strip() == ""


def test_a_base_without_a_chat_template_is_an_error(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template=None)
    with pytest.raises(BaseModelError, match="must have a chat template"):
        TokenContract(tmp_path)


def test_a_template_that_never_ends_a_turn_is_an_error(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template="{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")
    with pytest.raises(BaseModelError, match="must end a turn with a special token"):
        TokenContract(tmp_path)


def test_a_template_that_writes_no_bos_has_none_to_expect(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, template=CHATML.replace("{{ bos_token }}", ""))
    contract = TokenContract(tmp_path)
    assert contract.expected_bos == 0
    assert contract.tokenize([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).bos_tokens == 0


def test_a_conversation_that_the_template_refuses_goes_to_quarantine(tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
    make_tokenizer(tmp_path / "base", template=refusing)
    lines = [*map(_good, range(40)), _turns(("system", "be brief"), ("user", "a"), ("assistant", "b"))]
    _validate(tmp_path, tmp_path / "base", lines)
    (row,) = pl.read_parquet(tmp_path / QUARANTINE_FILE).to_dicts()
    assert row["reason"] == ["template_refuses"]
    assert "no system turn" in row["detail"]


def test_conversations_can_be_taken_from_a_validated_file(tmp_path: Path, tiny_base: Path) -> None:
    _validate(tmp_path, tiny_base, [_good(number) for number in range(40)])
    sample = sample_conversations(tmp_path / TRAIN_FILE, most=3)
    assert len(sample) == 3
    assert [message["role"] for message in sample[0]] == ["user", "assistant"]
