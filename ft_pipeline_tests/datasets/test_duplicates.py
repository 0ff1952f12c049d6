"""What repeats: exactly, nearly, or across the split, and which side a row is on."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.duplicates import find_repeats
from ft_pipeline.datasets.signatures import SIGNATURE
from ft_pipeline.datasets.validated import DUPLICATES_FILE, EVALUATION_FILE, TRAIN_FILE
from ft_pipeline.recipe import NearDuplicatesSection
from ft_pipeline_tests.datasets.data_folder import DataFolder, good, turns


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> DataFolder:
    return DataFolder(tmp_path, tiny_base)


def test_a_row_never_changes_side_as_data_grows(folder: DataFolder) -> None:
    def sides(count: int) -> tuple[set[str], set[str]]:
        folder.make([good(number) for number in range(count)], held_out_share=0.3, out=f"of-{count}")
        frames = (folder.table(name, f"of-{count}") for name in (TRAIN_FILE, EVALUATION_FILE))
        trained, held_out = ({str(messages) for messages in frame["messages"]} for frame in frames)
        return trained, held_out

    small, large = sides(40), sides(90)
    assert small[0] <= large[0]
    assert small[1] <= large[1]
    assert not large[0] & large[1]


def test_rows_of_a_group_stay_on_one_side(folder: DataFolder) -> None:
    lines = [turns(("user", f"question {i}"), ("assistant", "a"), thread=i % 9) for i in range(90)]
    folder.make(lines, columns={"group": "thread"}, held_out_share=0.4)
    groups = [set(folder.table(name)["group"]) for name in (TRAIN_FILE, EVALUATION_FILE)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]


def test_a_prompt_of_a_test_set_is_never_trained_on(folder: DataFolder) -> None:
    leaked = turns(("user", "Say  the word 7"), ("assistant", "another answer"))
    summary = folder.make([*map(good, range(40)), leaked], tested=[good(7)])
    prompts = {messages[0]["content"].casefold() for messages in folder.table(TRAIN_FILE)["messages"]}
    assert "say the word 7" not in prompts
    assert summary.figures["leaked_duplicates"] == 2
    assert folder.table(EVALUATION_FILE).filter(set="fresh").height == 1
    assert set(folder.table(DUPLICATES_FILE)["of_file"]) == {"data/tested.jsonl"}


STORY = " ".join(f"word{number}" for number in range(60))


def test_the_first_of_near_duplicates_stays(folder: DataFolder) -> None:
    near = [turns(("user", f"{STORY} {end}"), ("assistant", "it came back")) for end in ("one", "two", "three")]
    other = turns(("user", " ".join(reversed(STORY.split()))), ("assistant", "it came back"))
    summary = folder.make([*map(good, range(40)), *near, other], max_row_tokens=2000)
    assert summary.figures["near_duplicates"] == 2
    repeats = folder.table(DUPLICATES_FILE)
    assert repeats["of_line"].to_list() == [41, 41]
    assert all(0.8 <= similarity < 1 for similarity in repeats["similarity"])
    none = folder.make(
        [*map(good, range(40)), *near], near_duplicates={"enabled": False}, max_row_tokens=2000, out="off"
    )
    assert none.figures["duplicate_rows"] == 0


def test_a_near_duplicate_of_a_tested_row_is_never_trained_on(folder: DataFolder) -> None:
    near, tested = (turns(("user", f"{STORY} {end}"), ("assistant", "it came back")) for end in ("one", "two"))
    summary = folder.make([*map(good, range(40)), near], tested=[tested], max_row_tokens=2000)
    assert summary.figures["leaked_duplicates"] == 1
    assert folder.table(EVALUATION_FILE).filter(set="fresh").height == 1
    assert not any(STORY in messages[0]["content"] for messages in folder.table(TRAIN_FILE)["messages"])


def test_rows_that_all_repeat_a_test_set_fail_the_check_with_that_reason(folder: DataFolder) -> None:
    lines = [good(number) for number in range(20)]
    (check,) = folder.make(lines, tested=lines).failed
    assert check.name == "rows_on_both_sides"
    assert "duplicates: leaked 20" in check.detail


def test_a_prompt_in_two_groups_is_not_trained_on_where_it_is_tested(folder: DataFolder) -> None:
    lines = [turns(("user", f"question {i}"), ("assistant", "a"), topic="algebra") for i in range(20)]
    lines += [turns(("user", f"other {i}"), ("assistant", "a"), topic=f"topic {i}") for i in range(40)]
    tested = [turns(("user", "Question  3"), ("assistant", "b"), topic="algebra")]
    off = {"near_duplicates": {"enabled": False}}
    summary = folder.make(lines, tested=tested, columns={"group": "topic"}, **off)
    assert summary.figures["leaked_duplicates"] == 1
    (leaked,) = folder.table(DUPLICATES_FILE).to_dicts()
    assert (leaked["source_line"], leaked["kind"]) == (4, "leaked")


def test_conversations_that_only_begin_alike_are_no_leak(folder: DataFolder) -> None:
    def chat(number: int) -> str:
        return turns(("user", "Hi!"), ("assistant", "Hello."), ("user", f"count to {number}"), ("assistant", "no"))

    summary = folder.make([*map(good, range(40)), *map(chat, range(30))], tested=[chat(3), chat(99)])
    assert summary.figures["leaked_duplicates"] == 1


def test_a_system_turn_that_all_rows_share_makes_none_of_them_a_near_duplicate(folder: DataFolder) -> None:
    rules = " ".join(f"rule{number}" for number in range(300))
    lines = [turns(("system", rules), ("user", f"say {i}"), ("assistant", f"the word {i}")) for i in range(40)]
    assert folder.make(lines, max_row_tokens=4000).figures["near_duplicates"] == 0


def test_a_prompt_that_one_group_holds_out_is_not_trained_on_in_another(folder: DataFolder) -> None:
    lines = [turns(("user", "the same question"), ("assistant", f"answer {i}"), topic=f"topic {i}") for i in range(40)]
    lines += [turns(("user", f"other {i}"), ("assistant", "a"), topic=f"topic {i}") for i in range(40)]
    folder.make(lines, columns={"group": "topic"}, held_out_share=0.3)
    asked = [{row[0]["content"] for row in folder.table(name)["messages"]} for name in (TRAIN_FILE, EVALUATION_FILE)]
    assert "the same question" in asked[1]
    assert "the same question" not in asked[0]


def test_of_equal_rows_on_both_sides_the_held_out_one_stays(folder: DataFolder) -> None:
    lines = [turns(("user", "the same"), ("assistant", "answer"), topic=f"topic {i}") for i in range(30)]
    lines += [turns(("user", f"other {i}"), ("assistant", "a"), topic=f"topic {i}") for i in range(30)]
    folder.make(lines, columns={"group": "topic"}, held_out_share=0.4)
    repeats = folder.table(DUPLICATES_FILE)
    tested = folder.table(EVALUATION_FILE).to_dicts()
    (held_out,) = [row for row in tested if row["messages"][0]["content"] == "the same"]
    assert set(repeats["of_line"]) == {held_out["source_line"]}
    assert set(repeats["kind"]) == {"exact"}
    assert repeats.height == 29


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from("ABC"), st.booleans()), max_size=24))
@settings(max_examples=200, deadline=None)
def test_no_row_goes_for_one_that_went(rows: list[tuple[int, int, str, bool]]) -> None:
    names = pl.Enum(["train", "held_out", "fresh"])
    frame = pl.DataFrame(
        {
            "set": pl.Series([["train", "held_out", "fresh"][set_] for _, set_, _, _ in rows], dtype=names),
            "key": pl.Series([f"{prompt}{answer}".encode() for prompt, _, answer, _ in rows], dtype=pl.Binary),
            "prompt": pl.Series([prompt for prompt, _, _, _ in rows], dtype=pl.UInt64),
            "signature": pl.Series([[0] * SIGNATURE for _ in rows], dtype=pl.Array(pl.UInt16, SIGNATURE)),
        }
    )
    texts = [b"a b c d e f g h" if alike else f"{i} {i + 1} x{i}".encode() for i, (*_, alike) in enumerate(rows)]
    found = find_repeats(frame, NearDuplicatesSection(), lambda numbers: {n: texts[n] for n in numbers.tolist()})
    sets = frame["set"].to_list()
    for row, (kind, of) in enumerate(zip(found.kind, found.of, strict=True)):
        assert (kind == "") == (of == row)
        assert kind != "near" or found.kind[of] == ""
        # A held-out row that others ask the same as may turn out near to a tested one.
        assert kind != "leaked" or found.kind[of] == "" or sets[of] == "held_out"
    kept = [row for row in range(len(rows)) if not found.kind[row]]
    asked = {rows[row][0] for row in kept if sets[row] != "train"}
    assert not [row for row in kept if sets[row] == "train" and rows[row][0] in asked]
    assert bool(kept) == bool(rows)
