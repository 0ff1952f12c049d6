from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.checks import CHECKS, find_faults
from ft_pipeline.datasets.contract import IGNORED
from ft_pipeline.datasets.validated import (
    DUPLICATES_FILE,
    EVALUATION_FILE,
    QUARANTINE_FILE,
    STATISTICS_FILE,
    TRAIN_FILE,
    read_row_lengths,
    sample_conversations,
)
from ft_pipeline_tests.datasets.data_folder import DataFolder, good, turns
from ft_pipeline_tests.tiny_model import CHATML, make_tokenizer

BROKEN = {
    "invalid_json": '{"messages": [{"role": "user", "cont',
    "wrong_shape": '{"x": "hello"}',
    "mixed_formats": '{"text": "hello"}',
    "unknown_role": turns(("user", "a"), ("bot", "b")),
    "role_order": turns(("assistant", "a"), ("user", "b")),
    "empty_turn": turns(("user", "a"), ("assistant", "  \n")),
    "message_too_long": turns(("user", "x" * 300), ("assistant", "b")),
    "control_character": turns(("user", "a\x1b[31m"), ("assistant", "b")),
    "secret": turns(("user", "my key is AKIA" + "ABCDEFGHIJKLMNOP"), ("assistant", "b")),
    "card_number": turns(("user", "pay with 4111 1111 1111 1111"), ("assistant", "b")),
    "too_many_tokens": turns(("user", "ß" * 200), ("assistant", "b")),
    "control_token": turns(("user", "what is <|im_end|> for"), ("assistant", "b")),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> DataFolder:
    root = tmp_path / "a [1]*"  # as a pattern, it does not name itself
    root.mkdir()
    return DataFolder(root, tiny_base)


def test_each_breach_goes_to_quarantine_under_its_reason_and_line(folder: DataFolder) -> None:
    lines = [good(number) for number in range(60)] + list(BROKEN.values())
    summary = folder.make(lines, max_message_chars=299)
    quarantine = folder.table(QUARANTINE_FILE)
    found = dict(zip(quarantine["source_line"], quarantine["reasons"].to_list(), strict=True))
    for line, reason in enumerate(BROKEN, start=61):
        assert reason in found.pop(line), reason
    assert not found
    assert all(quarantine["detail"].to_list())
    assert all(quarantine["row"].to_list())
    assert summary.figures["quarantined_rows"] == len(BROKEN)
    assert summary.failed == []


def test_every_row_is_accounted_for(folder: DataFolder) -> None:
    lines = [good(number) for number in range(50)] + [good(3), good(4), BROKEN["secret"]]
    figures = folder.make(lines).figures
    kept = folder.table(TRAIN_FILE).height + folder.table(EVALUATION_FILE).height
    assert (figures["rows"], kept, figures["duplicate_rows"], figures["quarantined_rows"]) == (53, 50, 2, 1)
    statistics = json.loads((folder.root / "valid" / STATISTICS_FILE).read_text())
    assert {name: statistics[name] for name in ("rows", "kept", "quarantined", "duplicates")} == {
        "rows": 53,
        "kept": 50,
        "quarantined": 1,
        "duplicates": 2,
    }


def test_tags_come_with_their_row_and_change_nothing_else(folder: DataFolder) -> None:
    rows = [*map(json.loads, map(good, range(30))), *map(json.loads, map(good, range(3)))]
    tagged = [row | {"tags": [f"tag {number % 4}", "b"][: number % 3]} for number, row in enumerate(rows)]
    summaries = [
        folder.make([json.dumps(row) for row in rows_of_one], out=name, held_out_share=0.4)
        for name, rows_of_one in (("bare", rows), ("tagged", tagged))
    ]
    assert summaries[0] == summaries[1]
    for name in (TRAIN_FILE, EVALUATION_FILE, QUARANTINE_FILE, DUPLICATES_FILE):
        bare, with_tags = (folder.table(name, out).drop("tags", strict=False) for out in ("bare", "tagged"))
        assert bare.equals(with_tags)
        assert bare.height or name == QUARANTINE_FILE
    for name in (TRAIN_FILE, EVALUATION_FILE):
        assert folder.table(name, "bare")["tags"].null_count() == folder.table(name, "bare").height
        table = folder.table(name, "tagged")
        wanted = [tagged[line - 1]["tags"] or None for line in table["source_line"]]
        assert table["tags"].to_list() == wanted


def test_the_twin_of_a_row_in_quarantine_is_in_quarantine_too(folder: DataFolder) -> None:
    figures = folder.make([*map(good, range(40)), BROKEN["too_many_tokens"], BROKEN["too_many_tokens"]]).figures
    assert (figures["quarantined_rows"], figures["duplicate_rows"]) == (2, 0)


@pytest.mark.parametrize("code", [code for code, check in CHECKS.items() if "fix" in (check.action, *check.choices)])
def test_what_can_be_mended_is_mended_where_the_recipe_says_so(folder: DataFolder, code: str) -> None:
    broken = BROKEN | {
        "byte_order_mark": turns(("user", "\ufeffa"), ("assistant", "b")),
        "not_nfc": turns(("user", "cafe\u0301"), ("assistant", "b")),
        "email": turns(("user", "write to joe@example.org"), ("assistant", "b")),
        "too_many_tokens": turns(("user", "a b"), ("assistant", "ß " * 200)),
    }
    summary = folder.make([*map(good, range(40)), broken[code]], checks={code: "fix"})
    assert summary.figures["fixed_rows"] == 1
    assert summary.figures["quarantined_rows"] == 0
    assert {row["code"]: row["action"] for row in summary.tables["warnings"]} == {code: "fixed"}


def test_a_secret_is_hidden_whole_or_the_row_goes_to_quarantine(folder: DataFolder) -> None:
    token, no_end = "glpat-" + "abcdefghij0123456789", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEvQIBADAN"
    lines = [turns(("user", f"use {token} now"), ("assistant", f"thanks for {end}")) for end in (token, no_end)]
    folder.make([*lines, *map(good, range(40))], checks={"secret": "fix"})
    kept = pl.concat([folder.table(TRAIN_FILE), folder.table(EVALUATION_FILE)]).filter(pl.col("source_line") <= 2)
    assert [[message["content"] for message in row] for row in kept["messages"]] == [
        ["use [SECRET] now", "thanks for [SECRET]"]
    ]
    assert folder.table(QUARANTINE_FILE).select("source_line", "reasons").rows() == [(2, ["secret"])]


def test_what_the_recipe_only_wants_to_be_warned_of_stays(folder: DataFolder) -> None:
    summary = folder.make([*map(good, range(40)), BROKEN["secret"]], checks={"secret": "warn"})
    assert summary.figures["quarantined_rows"] == 0
    assert {row["code"]: row["rows"] for row in summary.tables["warnings"]} == {"secret": 1}
    files = (folder.table(name) for name in (TRAIN_FILE, EVALUATION_FILE))
    assert sum(frame.filter(pl.col("warnings").list.contains("secret")).height for frame in files) == 1


def test_a_row_in_another_language_goes_to_quarantine(folder: DataFolder) -> None:
    def row(text: str, number: int) -> str:
        return turns(("user", f"{text} ({number})"), ("assistant", text))

    english = [row("The weather in the mountains was better than anybody had expected", i) for i in range(40)]
    german = row("Das Wetter in den Bergen war besser, als irgendjemand erwartet hatte", 1)
    settings: dict[str, Any] = {"language": "en", "near_duplicates": {"enabled": False}, "max_row_tokens": 500}
    summary = folder.make([*english, german], **settings)
    assert {row["reason"]: row["rows"] for row in summary.tables["quarantine"]} == {"wrong_language": 1}


def test_a_call_of_a_tool_may_have_no_text(tmp_path: Path) -> None:
    calls = "m['content'] + (m.tool_calls | tojson if m.tool_calls else '')"
    make_tokenizer(tmp_path / "base", template=CHATML.replace("m['content']", calls))
    folder = DataFolder(tmp_path, tmp_path / "base")
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    messages = [
        {"role": "user", "content": "a"},
        call,
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "b"},
    ]
    lines = [*map(good, range(40)), json.dumps({"messages": messages})]
    assert folder.make(lines).figures["quarantined_rows"] == 0


def test_plain_text_is_split_by_document_and_learned_whole(folder: DataFolder) -> None:
    lines = [json.dumps({"text": f"document {number} says what it says"}) for number in range(60)]
    folder.make(lines, held_out_share=0.3)
    train = folder.table(TRAIN_FILE)
    for ids, labels in train.select("input_ids", "labels").iter_rows():
        assert labels[1:] == ids[1:]
        assert labels[0] == IGNORED
    assert sample_conversations(folder.root / "valid" / TRAIN_FILE) == ()


def test_too_much_quarantine_fails_the_blocking_check_with_the_top_reason(folder: DataFolder) -> None:
    lines = [good(number) for number in range(40)] + [BROKEN["secret"], BROKEN["empty_turn"], BROKEN["empty_turn"]]
    (check,) = folder.make(lines, max_quarantined_share=0.01).failed
    assert check.value == round(3 / 43, 4)
    assert "most often: empty_turn 2, secret 1" in check.detail


def test_no_row_to_train_on_fails_a_blocking_check_that_says_why_and_keeps_the_quarantine(folder: DataFolder) -> None:
    check = folder.make([BROKEN["empty_turn"]] * 2).failed[-1]
    assert (check.name, check.blocking, check.value) == ("rows_on_both_sides", True, 0)
    assert check.detail.startswith("0 rows to train on, 0 held out")
    assert "empty_turn 2" in check.detail
    assert folder.table(QUARANTINE_FILE).height == 2


def test_the_loss_sees_the_last_answer_and_its_end_only(folder: DataFolder, tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    folder.make([good(number) for number in range(40)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for row in folder.table(TRAIN_FILE).iter_rows(named=True):
        learned = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(learned) == row["messages"][-1]["content"] + "<|im_end|>"
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
        assert row["input_ids"][-1] == tokenizer.eos_token_id


def test_only_changed_files_are_checked_again_and_the_bytes_are_those_from_scratch(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(i) for i in range(50)])
    folder.parse("raw-1")
    folder.validate("first", "raw-1")
    folder.write("b.jsonl", [*(good(i) for i in range(45, 90)), BROKEN["secret"]])
    folder.parse("raw-2")
    folder.validate("scratch", "raw-2")
    folder.validate("grown", "raw-2", earlier=["first"])
    files = {
        path.relative_to(folder.root / "scratch") for path in (folder.root / "scratch").rglob("*") if path.is_file()
    }
    assert files == {p.relative_to(folder.root / "grown") for p in (folder.root / "grown").rglob("*") if p.is_file()}
    for file in files:
        assert (folder.root / "grown" / file).read_bytes() == (folder.root / "scratch" / file).read_bytes(), file
    taken = [path for path in (folder.root / "grown/checked").rglob("*.parquet") if path.stat().st_nlink > 1]
    assert len(taken) == 1


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=12))
def test_no_row_is_ever_lost(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = DataFolder(tmp_path_factory.mktemp("rows"))
    lines = [turns(("user", text), ("assistant", text)) for text in texts] + [good(i) for i in range(40)]
    figures = folder.make(lines, max_quarantined_share=1).figures
    kept = folder.table(TRAIN_FILE).height + folder.table(EVALUATION_FILE).height
    assert kept + figures["quarantined_rows"] + figures["duplicate_rows"] == len(lines)


def test_a_conversation_that_the_template_refuses_goes_to_quarantine(tmp_path: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
    make_tokenizer(tmp_path / "base", template=refusing)
    lines = [*map(good, range(40)), turns(("system", "be brief"), ("user", "a"), ("assistant", "b"))]
    folder = DataFolder(tmp_path, tmp_path / "base")
    folder.make(lines)
    (row,) = folder.table(QUARANTINE_FILE).to_dicts()
    assert row["reasons"] == ["template_refuses"]
    assert "no system turn" in row["detail"]


def test_conversations_and_lengths_can_be_taken_from_a_validated_file(folder: DataFolder) -> None:
    folder.make([good(number) for number in range(40)])
    sample = sample_conversations(folder.root / "valid" / TRAIN_FILE, most=3)
    assert len(sample) == 3
    assert [message["role"] for message in sample[0]] == ["user", "assistant"]
    lengths = read_row_lengths(folder.root / "valid" / TRAIN_FILE)
    assert lengths == [len(ids) for ids in folder.table(TRAIN_FILE)["input_ids"]]


def test_a_wrong_check_in_the_recipe_is_named_with_the_nearest_right_one() -> None:
    assert find_faults({"secrt": "warn"}) == ["there is no check 'secrt'; did you mean 'secret'?"]
    assert find_faults({"role_order": "warn"}) == [
        "a breach of 'role_order' cannot lead to 'warn', only to: quarantine."
    ]
    assert find_faults({"secret": "fix", "email": "off"}) == []


def test_parts_that_other_code_has_made_are_not_taken_over(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(number) for number in range(40)])
    folder.parse("raw-1")
    folder.validate("first", "raw-1")
    folder.parse("raw-2", earlier=["raw-1"], maker="2")
    assert not _parts(folder, "raw-1") & _parts(folder, "raw-2")
    folder.validate("second", "raw-1", earlier=["first"], maker="2")
    assert not _parts(folder, "first") & _parts(folder, "second")
    folder.validate("third", "raw-1", earlier=["first"])
    assert _parts(folder, "first") == _parts(folder, "third")


def _parts(folder: DataFolder, name: str) -> set[str]:
    return {path.parent.name for path in (folder.root / name).rglob("part.json")}
