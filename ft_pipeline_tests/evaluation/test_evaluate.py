from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.evaluate import evaluate
from ft_pipeline.evaluation.request import Contestant, EvaluationRequest, Role
from ft_pipeline.recipe import EvaluationSection
from ft_pipeline.summary import Summary
from ft_pipeline_tests.evaluation.tiny_gguf import Say, make_scripted_weights, write_gguf

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} \x1b[31m \u202e <|im_end|> </pre><s>"
HISTORY = ({"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 1.5})


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, done: int, total: int, **_figures: float) -> None:
        self.steps.append((done, total))


def write_rows(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Rows of set, user text and reference."""
    pl.DataFrame(
        [
            {
                "set": name,
                "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reference}],
                "source_file": "data/<b>rows</b>.jsonl",
                "source_line": line,
            }
            for line, (name, user, reference) in enumerate(rows, start=1)
        ],
        schema_overrides={"messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String}))},
    ).write_parquet(path)
    return path


def make_request(folder: Path, files: dict[Role, Path], rows: Path, **settings: Any) -> EvaluationRequest:
    (folder / "out").mkdir()
    return EvaluationRequest(
        rows=rows,
        contestants=tuple(Contestant(role=role, quantization="F32", gguf=gguf) for role, gguf in files.items()),
        settings=EvaluationSection(max_new_tokens=8, **settings),
        out_dir=folder / "out",
        recipe_name="tiny",
        loss_history=HISTORY,
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    held_out = [("held_out", f"sky {n}", "blue") for n in range(34)]
    return write_rows(tmp_path / "rows.parquet", [("other", "what", "blue"), ("other", HOSTILE, "no"), *held_out])


def test_a_tuned_model_that_beats_its_base_is_published(tmp_path: Path, rows: Path, saying: Say) -> None:
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    recorder = Recorder()
    summary = evaluate(EvaluationRequest.model_validate_json(request.model_dump_json()), recorder)
    figures = summary.figures
    assert figures["publish"] is True
    assert figures["beats"] is True
    assert (figures["exact_match"], figures["exact_match_base"], figures["exact_match_other"]) == (1.0, 0.0, 0.5)
    assert (figures["stop_rate"], figures["rows"]) == (1.0, 34)
    assert isinstance(figures["perplexity"], float)
    assert figures["perplexity"] < float(str(figures["perplexity_base"]))
    assert summary.failed == []
    assert recorder.warnings == []
    assert recorder.steps[-1] == (72, 72)
    assert {path.name for path in request.out_dir.iterdir()} == {
        "report.html", "report.json", "predictions.parquet", "scores.png", "loss.png",
    }  # fmt: skip


def test_a_worse_model_is_reported_and_not_published(tmp_path: Path, rows: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "champion": saying(b"blue"), "challenger": saying(b"blur")}
    request = make_request(
        tmp_path, files, rows, gate={"min_exact_match": 0.9, "min_test_set_exact_match": {"other": 0.4}}
    )
    summary = evaluate(request, Recorder())
    assert summary.figures["publish"] is False
    found = {check.name: (check.passed, check.blocking) for check in summary.checks}
    assert found == {
        "exact_match": (False, True),
        "stop_rate": (True, True),
        "test_sets": (False, True),
        "better": (False, False),
    }
    page = (request.out_dir / "report.html").read_text(encoding="utf-8")
    assert "Do not publish" in page
    assert "worse than champion F32 by -100.0 points" in page


def test_predictions_hold_one_row_for_each_contestant_and_row(tmp_path: Path, rows: Path, saying: Say) -> None:
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    evaluate(request, Recorder())
    frame = pl.read_parquet(request.out_dir / "predictions.parquet")
    assert frame.height == 72
    hostile = frame.filter((pl.col("set") == "other") & (pl.col("row") == 1))
    assert hostile["prediction"].to_list() == ["red", "blue"]
    assert hostile["source_line"].to_list() == [2, 2]
    assert hostile["exact"].to_list() == [False, False]
    assert frame["logprob"].is_finite().all()


def test_the_json_has_the_figures_and_no_nan(tmp_path: Path, rows: Path, saying: Say) -> None:
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    evaluate(request, Recorder())
    document = json.loads((request.out_dir / "report.json").read_text(), parse_constant=pytest.fail)
    assert document["format"] == 1
    assert document["recipe"] == "tiny"
    assert document["verdict"]["publish"] is True
    assert [rule["rule"] for rule in document["gate"]] == ["exact_match", "stop_rate", "beats_base"]
    assert len(document["scores"]) == 4
    assert set(document["scores"][0]) == {
        "contestant", "set", "rows", "exact_match", "exact_match_low", "exact_match_high",
        "perplexity", "perplexity_low", "perplexity_high", "stop_rate", "stop_rate_low", "stop_rate_high",
    }  # fmt: skip
    assert document["contestants"][1]["size_bytes"] == saying(b"blue").stat().st_size


class TagCounter(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for name, value in attrs if name in {"src", "href", "onload", "onclick"}]


def test_hostile_text_neither_runs_nor_breaks_the_report(tmp_path: Path, rows: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"<script>", stops=False), "challenger": saying(b"\x1b<b>\xff'\"&")}
    request = make_request(tmp_path, files, rows, sample_rows=50)
    evaluate(request, Recorder())
    page = (request.out_dir / "report.html").read_text(encoding="utf-8")
    counter = TagCounter()
    counter.feed(page)
    assert not {"script", "b", "s", "iframe", "img"} & set(counter.tags)
    assert all(address.startswith("#") for address in counter.outside)
    assert counter.tags.count("article") == 36
    assert "{{ 7 * 7 }} {% raw %}" in page
    assert "data/&lt;b&gt;rows&lt;/b&gt;.jsonl" in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert "cut after 8 tokens" in page
    assert "default-src 'none'" in page


def test_a_model_whose_logits_are_no_numbers_is_not_published(tmp_path: Path, rows: Path, saying: Say) -> None:
    weights = make_scripted_weights(b"blue")
    weights["output.weight"][:, :] = 3e38
    broken = write_gguf(tmp_path / "broken.gguf", weights)
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": broken}, rows, gate={"max_perplexity": 9.0})
    summary = evaluate(request, Recorder())
    assert summary.figures["publish"] is False
    value = summary.figures["perplexity"]
    assert value is None or math.isfinite(float(value))
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_warns_of_few_rows_and_of_rows_that_do_not_fit(tmp_path: Path, saying: Say) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [("held_out", "sky", "blue"), ("held_out", "x" * 400, "blue")])
    recorder = Recorder()
    summary = evaluate(make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows), recorder)
    assert summary.figures["exact_match"] == 0.5
    assert "only 2 rows are held out" in recorder.warnings[0]
    assert "1 of 2 rows could not be put to the model" in recorder.warnings[1]
    assert "data/<b>rows</b>.jsonl:2" in recorder.warnings[1]


def test_a_set_of_which_no_row_fits_has_no_perplexity(tmp_path: Path, saying: Say) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [("held_out", "sky", "blue"), ("other", "x" * 400, "blue")])
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    summary = evaluate(request, Recorder())
    assert [row["perplexity"] for row in summary.tables["scores"] if row["set"] == "other"] == [None, None]


def test_scores_the_first_rows_of_each_set(tmp_path: Path, rows: Path, saying: Say) -> None:
    request = make_request(
        tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows, max_rows_per_set=1, sample_rows=0
    )
    summary = evaluate(request, Recorder())
    assert summary.figures["rows"] == 1
    assert summary.figures["exact_match_other"] == 1.0


def test_says_that_no_row_is_held_out(tmp_path: Path, saying: Say) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [("other", "sky", "blue")])
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    with pytest.raises(EvaluationError, match=r"at least one row must be held out .* \(sets: other\)"):
        evaluate(request, Recorder())


def test_says_that_the_rows_are_empty_or_no_parquet(tmp_path: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    request = make_request(tmp_path, files, write_rows(tmp_path / "rows.parquet", [("held_out", "a", "b")]))
    pl.read_parquet(request.rows).clear().write_parquet(request.rows)
    with pytest.raises(EvaluationError, match=r"has none \(sets: none\)"):
        evaluate(request, Recorder())
    request.rows.write_text("no parquet")
    with pytest.raises(EvaluationError, match="must be a Parquet file with set, messages"):
        evaluate(request, Recorder())


def test_names_the_champion_whose_file_is_gone_before_anything_is_scored(
    tmp_path: Path, rows: Path, saying: Say
) -> None:
    files: dict[Role, Path] = {
        "base": saying(b"red"),
        "challenger": saying(b"blue"),
        "champion": tmp_path / "gone.gguf",
    }
    recorder = Recorder()
    with pytest.raises(EvaluationError, match=r"GGUF must exist; .*gone\.gguf does not"):
        evaluate(make_request(tmp_path, files, rows), recorder)
    assert recorder.steps == []
