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
from ft_pipeline.evaluation.request import Absence, Contestant, EvaluationRequest, OwnFile, Role
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe_evaluation import EvaluationSection
from ft_pipeline.summary import Summary
from ft_pipeline_tests.evaluation.tiny_gguf import Say, make_scripted_weights, write_gguf

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} \x1b[31m \u202e <|im_end|> </pre><s>"
FEW = "The set other has 2 rows: an interval over fewer than 30 is too narrow to trust. Add data."
FINITE = {"rules": ("exact_match > champion", "perplexity <= 9")}
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


def make_request(
    folder: Path,
    files: dict[Role, Path],
    rows: Path,
    *,
    absent: tuple[Absence, ...] = (),
    metrics: tuple[Path, ...] = (),
    **settings: Any,
) -> EvaluationRequest:
    (folder / "out").mkdir()
    return EvaluationRequest(
        rows=rows,
        contestants=tuple(Contestant(role=role, quantization="F32", gguf=gguf) for role, gguf in files.items()),
        absent=absent,
        settings=EvaluationSection(**{"max_new_tokens": 8, "general_set": False, **settings}),
        metric_files=tuple(OwnFile(path=path, sha256=hash_file(path)) for path in metrics),
        gpu=GpuSettings("cpu", folder / "locks"),
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
    assert figures["is_best"] is True
    assert (figures["exact_match"], figures["exact_match_base"], figures["exact_match@other"]) == (1.0, 0.0, 0.5)
    assert (figures["stop_rate"], figures["rows"]) == (1.0, 34)
    assert isinstance(figures["perplexity"], float)
    assert figures["perplexity"] < float(str(figures["perplexity_base"]))
    assert summary.failed == []
    assert recorder.warnings == [FEW]
    assert recorder.steps[-1] == (72, 72)
    written = {path.name for path in request.out_dir.iterdir()}
    assert {"report.html", "report.json", "report.md", "predictions.parquet"} | set(summary.plots.values()) == written


def test_a_worse_model_is_reported_and_not_published(tmp_path: Path, rows: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "champion": saying(b"blue"), "challenger": saying(b"blur")}
    rules = ("exact_match > champion", "exact_match >= 0.9", "exact_match@other >= 0.4", "stop_rate >= 0.99")
    request = make_request(tmp_path, files, rows, gate={"rules": rules})
    summary = evaluate(request, Recorder())
    assert summary.figures["publish"] is False
    found = {check.name: (check.passed, check.blocking) for check in summary.checks}
    assert found == {
        "exact_match_vs_champion": (False, False),
        "exact_match_min": (False, True),
        "exact_match_other_min": (False, True),
        "stop_rate_min": (True, True),
        "gate": (False, True),
        "better": (False, False),
    }
    page = (request.out_dir / "report.html").read_text(encoding="utf-8")
    assert "Do not publish" in page
    assert "worse than champion F32" in page


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
    assert document["recipe"] == "tiny"
    assert document["verdict"]["publish"] is True
    assert [rule["name"] for rule in document["gate"]] == ["exact_match_vs_champion", "stop_rate_min"]


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
    assert not {"script", "s", "iframe", "img"} & set(counter.tags)
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
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": broken}, rows, gate=FINITE)
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
    assert "The set held_out has 2 rows" in recorder.warnings[0]
    assert "1 of 2 rows could not be put to base F32" in recorder.warnings[1]
    assert "data/<b>rows</b>.jsonl:2" in recorder.warnings[1]


def test_a_set_of_which_no_row_fits_has_no_perplexity(tmp_path: Path, saying: Say) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [("held_out", "sky", "blue"), ("other", "x" * 400, "blue")])
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    summary = evaluate(request, Recorder())
    (other,) = (row for row in summary.tables["scores"] if row["set"] == "other" and row["metric"] == "exact_match")
    assert other["challenger"] == 0.0
    assert not [row for row in summary.tables["scores"] if row["set"] == "other" and row["metric"] == "perplexity"]


def test_scores_the_first_rows_of_each_set(tmp_path: Path, rows: Path, saying: Say) -> None:
    request = make_request(
        tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows, max_rows_per_set=1, sample_rows=0
    )
    summary = evaluate(request, Recorder())
    assert summary.figures["rows"] == 1
    assert summary.figures["exact_match@other"] == 1.0


def test_says_that_no_row_is_held_out(tmp_path: Path, saying: Say) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [("other", "sky", "blue")])
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows)
    with pytest.raises(
        EvaluationError, match=r"at least one held-out row must be a conversation .* \(sets with one: other\)"
    ):
        evaluate(request, Recorder())


def test_says_that_the_rows_are_empty_or_no_parquet(tmp_path: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    request = make_request(tmp_path, files, write_rows(tmp_path / "rows.parquet", [("held_out", "a", "b")]))
    pl.read_parquet(request.rows).clear().write_parquet(request.rows)
    with pytest.raises(EvaluationError, match=r"has none \(sets with one: none\)"):
        evaluate(request, Recorder())
    request.rows.write_text("no parquet")
    with pytest.raises(EvaluationError, match="must be a Parquet file with set, messages"):
        evaluate(request, Recorder())


def test_a_champion_whose_file_is_gone_leaves_a_report_and_no_publication(
    tmp_path: Path, rows: Path, saying: Say
) -> None:
    files: dict[Role, Path] = {
        "base": saying(b"red"),
        "challenger": saying(b"blue"),
        "champion": tmp_path / "gone.gguf",
    }
    request, recorder = make_request(tmp_path, files, rows), Recorder()
    summary = evaluate(request, recorder)
    assert summary.figures["publish"] is False
    assert any("champion does not compete" in message and "gone.gguf" in message for message in recorder.warnings)
    assert "the champion could not be scored" in (request.out_dir / "report.md").read_text(encoding="utf-8")


def test_a_champion_that_is_absent_from_the_start_is_said_to_be(tmp_path: Path, rows: Path, saying: Say) -> None:
    gone = Absence(role="champion", reason="the files of the champion 12ab are gone")
    request = make_request(tmp_path, {"base": saying(b"red"), "challenger": saying(b"blue")}, rows, absent=(gone,))
    assert evaluate(request, Recorder()).figures["publish"] is False
    assert "the files of the champion 12ab are gone" in (request.out_dir / "report.html").read_text(encoding="utf-8")


def test_a_challenger_whose_file_is_damaged_is_an_error(tmp_path: Path, rows: Path, saying: Say) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(saying(b"blue").read_bytes()[:-4096])
    with pytest.raises(EvaluationError, match=r"must load a contestant's GGUF; it refuses .*damaged\.gguf"):
        evaluate(make_request(tmp_path, {"base": saying(b"red"), "challenger": damaged}, rows), Recorder())


def test_the_challenger_is_compared_with_the_16_bit_model_token_by_token(
    tmp_path: Path, rows: Path, random_gguf: Path, saying: Say
) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "merged": random_gguf, "challenger": random_gguf}
    request = make_request(tmp_path, files, rows, divergence_rows=5)
    figures = evaluate(request, Recorder()).figures
    assert figures["kld"] == pytest.approx(0, abs=1e-6)
    assert figures["top_agreement"] == 1.0
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-6)
    compared = pl.read_parquet(request.out_dir / "predictions.parquet")["kld"]
    assert compared.is_not_null().sum() == 5


def test_what_was_forgotten_is_asked_of_base_and_challenger(tmp_path: Path, rows: Path, saying: Say) -> None:
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    summary = evaluate(make_request(tmp_path, files, rows, general_set=True, max_rows_per_set=2), Recorder())
    assert {"general", "general_base"} <= set(summary.figures)
    assert summary.tables["forgetting"]


def test_a_metric_of_the_users_own_is_in_the_report_and_may_be_in_the_gate(
    tmp_path: Path, rows: Path, saying: Say
) -> None:
    mine = tmp_path / "is_blue.py"
    mine.write_text("def score(prediction, reference, messages):\n    return prediction == 'blue'\n")
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    rules = {"rules": ("is_blue > champion", "is_blue >= 0.5")}
    summary = evaluate(make_request(tmp_path, files, rows, metrics=(mine,), gate=rules), Recorder())
    assert (summary.figures["is_blue"], summary.figures["publish"]) == (1.0, True)


def test_a_metric_that_raises_publishes_nothing_by_its_rule_and_leaves_a_report(
    tmp_path: Path, rows: Path, saying: Say
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def score(prediction, reference, messages):\n    raise KeyError('x')\n")
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    rules = {"rules": ("exact_match > champion", "broken >= 0")}
    request, recorder = make_request(tmp_path, files, rows, metrics=(broken,), gate=rules), Recorder()
    assert evaluate(request, recorder).figures["publish"] is False
    assert any("broken.py:2: KeyError" in message for message in recorder.warnings)
    assert "KeyError" in (request.out_dir / "report.html").read_text(encoding="utf-8")


def test_a_task_that_does_not_exist_is_a_note_and_no_failure(tmp_path: Path, rows: Path, saying: Say) -> None:
    (tmp_path / "tasks").mkdir()
    files: dict[Role, Path] = {"base": saying(b"red"), "challenger": saying(b"blue")}
    request = make_request(tmp_path, files, rows, harness={"tasks": ("no_such_task",)})
    recorder = Recorder()
    assert evaluate(request, recorder).figures["publish"] is True
    assert sum("The harness task no_such_task" in message for message in recorder.warnings) == 2
