from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.datasets.report.plots import plot_lengths
from ft_pipeline.datasets.report.tally import Tally, measure_js_divergence, measure_ks_distance
from ft_pipeline.errors import DatasetError
from ft_pipeline_tests.datasets.validated_folder import Folder, chat, make_row, quarantined, repeat, text
from ft_pipeline_tests.datasets.written_report import Report

HOSTILE = "<script>alert(1)</script> ]]> \"quoted\" 'too' </pre><s> {{ 7 * 7 }} & \u202e \x00"


def many(count: int, **other: Any) -> list[dict[str, Any]]:
    return [chat(f"question {n}", f"answer {n}", source_line=n + 1, **other) for n in range(count)]


def pad(numbers: list[int]) -> Tally:
    tally = Tally()
    tally.add(np.array(numbers))
    return tally


def test_says_where_every_row_went(tmp_path: Path) -> None:
    duplicates = [repeat("exact", 1, [{"role": "user", "content": "question 0"}])]
    folder = Folder(many(6), [quarantined("{", "bad_json")], duplicates, {"fixed": 2, "fixes": {"trimmed": 2}})
    report = Report(tmp_path / "out", folder.write(tmp_path / "set"))
    sentence = (
        "8 rows came in: 4 kept as they are, 2 fixed and kept, 1 in quarantine and 1 left out for repeating another."
    )
    assert report.summary.figures["verdict"] == sentence
    assert report.recorder.infos == [sentence]
    assert sentence in report.page.text
    assert report.json["rows"] == {
        "rows": 8, "kept": 6, "fixed": 2, "quarantined": 1, "duplicates": 1, "unaccounted": 0, "truncated": 0,
    }  # fmt: skip
    assert report.summary.figures["level"] == "fair"
    assert "12.5\N{NO-BREAK SPACE}% of the rows are in quarantine" in report.page.source


def test_rows_that_are_nowhere_are_called_a_bug(tmp_path: Path) -> None:
    report = Report(tmp_path / "out", Folder(many(3), statistics={"rows": 5}).write(tmp_path / "set"))
    assert report.summary.figures["level"] == "bad"
    assert "2 rows missing: this is a bug" in report.page.text


def test_writes_what_the_summary_names_and_nothing_else(tmp_path: Path) -> None:
    set_path = Folder(many(4)).write(tmp_path / "set")
    report = Report(tmp_path / "out", set_path, set_path)
    named = {"data_report.json", *report.summary.files.values(), *report.summary.plots.values()}
    assert {path.name for path in report.folder.iterdir()} == named
    assert set(report.summary.plots) == {
        "tokens per row", "learned tokens per row", "turns per row", "tokens per row, before and now",
    }  # fmt: skip


def test_lengths_are_the_ones_counted_by_hand(tmp_path: Path) -> None:
    rows = [chat("a", "b", range(length), source_line=length) for length in (3, 4, 4, 9)]
    rows.append(chat("c", "d", range(6), set="held_out"))
    report = Report(tmp_path / "out", Folder(rows).write(tmp_path / "set"))
    train, held_out = report.json["sets"]
    assert (train["set"], train["rows"], held_out["set"], held_out["rows"]) == ("train", 4, "held_out", 1)
    assert (train["tokens_median"], train["tokens_p95"], train["tokens_max"], train["tokens_mean"]) == (4, 9, 9, 5.0)
    assert (train["learned_tokens_median"], train["turns_median"]) == (2, 2)
    assert report.json["histograms"]["train"]["tokens"] == {"3": 1, "4": 2, "9": 1}
    assert report.json["held_out_share"] == 0.2


def test_hostile_text_is_shown_and_never_markup(tmp_path: Path) -> None:
    file = 'data/<b onclick="x">\u202e"evil".jsonl'
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "x" * 100_000}]
    at = {"source_file": file, "source_line": 3}
    row = make_row(messages, [5, 2], [-100, 2], warnings=["<i>odd"], extra=HOSTILE, **at)
    folder = Folder(
        [row, row | {"set": "<u>test", "key": "0" * 32}],
        [quarantined(HOSTILE, "<i>code", detail=HOSTILE, **at)],
        [repeat(kind, 3, messages, of_file=file, **at) for kind in ("exact", "near", "leaked")],
    )
    set_path = folder.write(tmp_path / "set")
    page = Report(tmp_path / "out", set_path, set_path).page
    assert not page.tags & {"script", "b", "i", "u", "s"}
    assert page.outside == [value for value in page.outside if value.startswith("href=#")]
    assert "default-src 'none'" in page.source
    assert '<span class="escape">\\u202e</span>' in page.source
    assert '<span class="escape">\\x00</span>' in page.source
    assert not {"\u202e", "\x00"} & set(page.source)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ]]&gt;" in page.source
    assert "{{ 7 * 7 }}" in page.source
    assert "x" * 2_001 not in page.source
    assert "98,000 more characters" in page.text
    assert "&lt;i&gt;odd" in page.source


def test_reasons_come_with_their_count_and_first_three_rows(tmp_path: Path) -> None:
    out = [quarantined(f"row {n}", "too_long", source_line=n, column=n % 2) for n in range(1, 6)]
    out += [quarantined("both", "bad_json", "too_long", source_line=9)]
    report = Report(tmp_path / "out", Folder(many(4), out).write(tmp_path / "set"))
    too_long, bad_json = report.json["quarantine"]
    assert (too_long["code"], too_long["rows"]) == ("too_long", 6)
    assert [example["place"] for example in too_long["examples"]] == [
        "data/raw/a.jsonl:1:1", "data/raw/a.jsonl:2", "data/raw/a.jsonl:3:1",
    ]  # fmt: skip
    assert (bad_json["code"], bad_json["rows"], bad_json["examples"][0]["text"]) == ("bad_json", 1, "both")
    assert report.summary.tables["quarantine"][0]["first"] == "data/raw/a.jsonl:1:1"


def test_warnings_show_kept_rows_of_both_files(tmp_path: Path) -> None:
    rows = [*many(3), chat("odd 1", "x", source_line=7, warnings=["odd"])]
    rows.append(chat("odd 2", "y", source_line=8, warnings=["odd"], set="held_out"))
    report = Report(tmp_path / "out", Folder(rows).write(tmp_path / "set"))
    (odd,) = report.json["warnings"]
    assert (odd["code"], odd["rows"]) == ("odd", 2)
    assert [example["text"] for example in odd["examples"]] == [
        "user: odd 1\nassistant: x",
        "user: odd 2\nassistant: y",
    ]
    assert "user: odd 2" in report.page.text


def test_near_repeats_stand_beside_the_row_that_stayed(tmp_path: Path) -> None:
    rows = many(3)
    near = [{"role": "user", "content": "question 1!"}, {"role": "assistant", "content": "answer 1"}]
    out = [
        repeat("near", 2, near, source_line=11, similarity=0.9),
        repeat("near", 2, rows[1]["messages"], source_line=12, similarity=0.95),
        repeat("near", 77, near, source_line=13, similarity=0.8),
        repeat("leaked", 5, near, source_line=14),
        repeat("near", 3, near, source_line=15, row='[{"role": "user", "content": "cut he'),
    ]
    report = Report(tmp_path / "out", Folder(rows, duplicates=out).write(tmp_path / "set"))
    repeats = report.json["repeats"]
    assert repeats["counts"] == {"exact": 0, "near": 4, "leaked": 1}
    assert repeats["clusters"]["near"][0] == {
        "kept": "data/raw/a.jsonl:2",
        "rows": 2,
        "repeats": [
            {"place": "data/raw/a.jsonl:12", "similarity": 0.95},
            {"place": "data/raw/a.jsonl:11", "similarity": 0.9},
        ],
    }
    assert "user: question 1<ins>!</ins>" in report.page.source
    assert "(not among the kept rows)" in report.page.text
    assert "user: cut he" in report.page.text
    assert report.summary.figures["leaked_repeats"] == 1


def test_each_source_has_its_share_held_out(tmp_path: Path) -> None:
    rows = [*many(3), *many(1, set="held_out"), *many(2, source_file="data/raw/b.jsonl")]
    rows += many(2, set="faq", source_file="data/test_sets/faq.jsonl")
    report = Report(tmp_path / "out", Folder(rows).write(tmp_path / "set"))
    shares = {source["file"]: source["held_out_share"] for source in report.json["sources"]}
    assert shares == {"data/raw/a.jsonl": 0.25, "data/raw/b.jsonl": 0.0, "data/test_sets/faq.jsonl": None}
    assert "data/raw/b.jsonl: nothing of it is held out (2 rows), so no score covers it." in report.recorder.warnings
    assert "The test set faq has only 2 rows. Fewer than 30 give a rough score." in report.recorder.warnings


def test_a_large_and_even_set_has_nothing_to_complain_of(tmp_path: Path) -> None:
    report = Report(tmp_path / "out", Folder([*many(100), *many(100, set="held_out")]).write(tmp_path / "set"))
    assert report.recorder.warnings == []
    assert "Look at this first" not in report.page.text
    assert report.summary.figures["level"] == "good"


def test_few_held_out_rows_are_said_plainly(tmp_path: Path) -> None:
    report = Report(tmp_path / "out", Folder([*many(100), *many(99, set="held_out")]).write(tmp_path / "set"))
    (warning,) = report.recorder.warnings
    assert warning.startswith("Only 99 rows held out. Fewer than 100 cannot tell two models apart")
    assert warning in report.page.text


def test_without_an_earlier_set_there_is_no_drift(tmp_path: Path) -> None:
    report = Report(tmp_path / "out", Folder(many(3)).write(tmp_path / "set"))
    assert report.json["drift"] is None
    assert "There is no earlier data set to compare with." in report.page.text
    assert "No row is in quarantine." in report.page.text
    assert "new_rows" not in report.summary.figures


def test_the_same_set_again_has_no_drift(tmp_path: Path) -> None:
    set_path = Folder([*many(5), *many(2, set="held_out")]).write(tmp_path / "set")
    drift = Report(tmp_path / "out", set_path, set_path).json["drift"]
    assert drift["rows"]["added"] == drift["rows"]["removed"] == 0
    assert drift["rows"]["unchanged"] == 5
    assert drift["token_divergence_bits"] == 0
    assert [shift["ks_distance"] for shift in drift["lengths"]] == [0, 0, 0]
    assert drift["words"]["risen"] == drift["words"]["fallen"] == drift["tokens_risen"] == []


def test_drift_is_the_one_worked_out_by_hand(tmp_path: Path) -> None:
    kept, gone, moved = chat("same", "x", [1, 2]), chat("gone", "x", [1, 2]), chat("moved", "x", [1, 2])
    before = Folder([kept, gone, moved | {"set": "held_out"}, *many(3, set="faq")]).write(tmp_path / "before")
    new = chat("brand brand", "x", [3, 3, 3, 2])
    now = Folder([kept, moved, new]).write(tmp_path / "now")
    report = Report(tmp_path / "out", now, before)
    drift = report.json["drift"]
    assert drift["rows"] == {
        "added": 1, "removed": 1, "unchanged": 2, "moved_to_training": 1, "moved_to_held_out": 0,
    }  # fmt: skip
    tokens = drift["lengths"][0]
    assert (tokens["median_before"], tokens["median"], tokens["p95_before"], tokens["p95"]) == (2, 2, 2, 4)
    assert tokens["ks_distance"] == pytest.approx(1 / 3)
    # Before: ids 1 and 2 three times each. Now: 1 twice, 2 three times, 3 three times, of eight.
    p, q = [1 / 2, 1 / 2, 0], [2 / 8, 3 / 8, 3 / 8]
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    halves = [sum(s * math.log2(s / m) for s, m in zip(shares, middle, strict=True) if s) for shares in (p, q)]
    assert drift["token_divergence_bits"] == pytest.approx(sum(halves) / 2)
    assert drift["tokens_risen"] == [{"name": "3", "before": 0.0, "now": 0.375}]
    assert [shift["name"] for shift in drift["tokens_fallen"]] == ["1", "2"]
    assert drift["words"]["risen"][0] == {"name": "brand", "before": 0.0, "now": 0.5}
    assert any(warning.startswith("Held out before and trained on now: 1 row.") for warning in report.recorder.warnings)


@pytest.mark.parametrize(
    ("first", "second", "ks", "js"),
    [
        ([1, 2, 3], [1, 2, 3], 0.0, 0.0),
        ([1, 1], [2, 2], 1.0, 1.0),
        ([1, 2], [2, 3], 0.5, 0.5),
        ([0], [0, 1], 0.5, 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25),
        ([], [1], None, None),
    ],
)
def test_distances_are_the_ones_worked_out_by_hand(
    first: list[int], second: list[int], ks: float | None, js: float | None
) -> None:
    assert measure_ks_distance(pad(first), pad(second)) == pytest.approx(ks)
    assert measure_js_divergence(pad(first), pad(second)) == pytest.approx(js)
    assert measure_js_divergence(pad(second), pad(first)) == pytest.approx(js)


def test_quantiles_are_numbers_that_occur() -> None:
    tally = pad([4, 1, 9, 4])
    assert [tally.quantile(share) for share in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)] == [1, 1, 4, 4, 9, 9]
    assert Tally().quantile(0.5) is None


def test_a_set_of_plain_text_is_learned_as_a_whole(tmp_path: Path) -> None:
    rows = [text(f"Once upon a time {n}", source_line=n) for n in range(3)]
    report = Report(tmp_path / "out", Folder(rows, statistics={"end_of_turn_id": None}).write(tmp_path / "set"))
    assert report.json["sets"][0]["learned_tokens_median"] == 3
    assert "All 3 tokens are learned." in report.page.text
    assert "learned, 3 tokens" in report.page.text
    assert "Once upon a time 1" in report.page.text


def test_samples_say_what_is_learned(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    row = make_row(turns, range(8), [-100, 1, 2, -100, -100, 5, 6, 3])
    report = Report(tmp_path / "out", Folder([row]).write(tmp_path / "set"))
    assert "5 of 8 tokens are learned: 2–3, 6–8; the last of them is not the end-of-turn token." in report.page.text
    assert "learned, 2 tokens" in report.page.text
    assert "learned, 3 tokens" in report.page.text
    assert "Only 1 row to train on." in report.page.text


def test_the_same_input_gives_the_same_bytes_but_for_the_time(tmp_path: Path) -> None:
    rows = [*many(40), *many(9, set="held_out")]
    out = [repeat("near", n % 4, rows[0]["messages"], source_line=n) for n in range(30)]
    set_path = Folder(rows, [quarantined("{", f"code{n % 7}") for n in range(30)], out).write(tmp_path / "set")
    first, second = (Report(tmp_path / name, set_path, set_path) for name in ("first", "second"))
    for path in first.folder.iterdir():
        contents = [(report.folder / path.name).read_bytes() for report in (first, second)]
        if path.suffix == ".html":
            contents = [re.sub(rb"<time.*?</time>", b"", content) for content in contents]
        assert contents[0] == contents[1], path.name


def test_one_far_row_leaves_the_others_their_room() -> None:
    axes = plot_lengths({"training": (pad([*range(10, 30)] * 50 + [5000]), "red")}, "tokens").axes[0]
    assert axes.get_xlim()[1] < 40
    assert axes.get_xlabel() == "tokens; the longest, 5,000, is not shown"


def test_a_folder_without_counts_is_refused(tmp_path: Path) -> None:
    set_path = Folder(many(2)).write(tmp_path / "set")
    (set_path / "statistics.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"statistics\.json: must be the counts of a validated data set"):
        Report(tmp_path / "out", set_path)
