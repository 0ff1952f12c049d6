from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.evaluation.costs import CardFit
from ft_pipeline.evaluation.harness import HarnessScore
from ft_pipeline.evaluation.report.document import write_json
from ft_pipeline.evaluation.report.forgetting import find_forgetting
from ft_pipeline.evaluation.report.groups import (
    group_by_answer_length,
    group_by_error,
    group_by_field,
    group_by_prompt_length,
    group_by_tag,
)
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.page import write_html
from ft_pipeline.evaluation.report.plots import draw_plots
from ft_pipeline.evaluation.report.summary import summary_figures
from ft_pipeline.evaluation.report.tables import summary_tables
from ft_pipeline.evaluation.report.verdict import explain_verdict
from ft_pipeline.evaluation.request import Absence
from ft_pipeline.evaluation.scores import Scoreboard, build_scoreboard
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.summary import Summary
from ft_pipeline_tests.evaluation.scored import (
    HOSTILE,
    change_rows,
    make_board,
    make_outcome,
    make_result,
    make_rich_board,
)

RULES = (
    "exact_match > champion", "stop_rate >= 0.99", "kld <= 0.08", "general >= base - 0.1",
    {"rule": "json_fields@set_0 >= 0.9", "on_failure": "warn"}, {"rule": "size_bytes <= 1", "on_failure": "warn"},
)  # fmt: skip
HARNESS = {"base Q4_K_M": [HarnessScore("arc", "acc", 0.71, 0.011, 200, True)]}
CARD_FITS = {"challenger Q4_K_M": [CardFit(CARDS["rtx3080"], 39_936), CardFit(CARDS["rtx4090"], 0)]}
HISTORY = ({"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": math.nan}, {"step": 3.0, "loss": 1.5})
ALONE = [Absence(role="champion", reason=f"gguf_model 12ab {HOSTILE}")]
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The tags of a page, which must be closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        ids = [value or "" for name, value in attrs if name == "id"]
        self.ids += ids
        self.headings += ids if tag == "h2" else []
        self.outside += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def write_page(outcome: Outcome, folder: Path) -> str:
    write_html(folder / "report.html", outcome, draw_plots(outcome))
    return (folder / "report.html").read_text(encoding="utf-8")


def read_json(outcome: Outcome, folder: Path) -> dict[str, Any]:
    write_json(folder / "report.json", outcome)
    document: dict[str, Any] = json.loads((folder / "report.json").read_text("ascii"), parse_constant=pytest.fail)
    return document


def stand_alone() -> Scoreboard:
    """A champion whose files are gone, and one row."""
    return build_scoreboard([make_result("challenger", [True])], make_rich_board().metrics, ALONE)


@pytest.fixture(scope="module")
def rich() -> Outcome:
    notes = ["keywords failed on 3 rows", HOSTILE]
    return make_outcome(
        make_rich_board(), RULES, notes=notes, harness=HARNESS, cards=CARD_FITS, loss_history=HISTORY, sample_rows=70
    )


@pytest.fixture(scope="module")
def rich_page(rich: Outcome, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(rich, tmp_path_factory.mktemp("page"))


def test_the_page_is_whole_needs_no_network_and_no_script(rich_page: str) -> None:
    page = Page(rich_page)
    assert all(address.startswith("#") for address in page.outside)
    assert {address[1:] for address in page.outside} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in rich_page


def test_nothing_that_a_model_says_runs_or_is_hidden(rich_page: str) -> None:
    assert not {"script", "i", "iframe", "img"} & set(Page(rich_page).tags)
    assert "{{ 7 * 7 }}" in rich_page
    assert not {"\x1b", "\u202e", "\x00"} & set(rich_page)
    assert '<span class="escape">\\ud800</span>' in rich_page
    assert "data/&lt;i&gt;rows&lt;/i&gt;.jsonl" in rich_page
    assert "98,000 more characters" in rich_page


def test_the_sections_stand_in_the_order_of_their_weight(rich_page: str) -> None:
    ids = Page(rich_page).headings
    assert ids[:6] == ["verdict", "notes", "gate", "scores", "fidelity", "forgetting"]
    assert ids[6:] == ["errors", "costs", "harness", "training", "samples"]


def test_every_part_without_figures_is_left_out(tmp_path: Path) -> None:
    text = write_page(make_outcome(stand_alone(), sample_rows=0), tmp_path)
    ids = Page(text).ids
    assert not {"fidelity", "forgetting", "harness", "training", "samples"} & set(ids)
    assert "The champion did not compete: gguf_model 12ab &lt;script&gt;" in text
    assert "Challenger Q4_K_M cannot be compared with what runs today: the champion could not be scored" in text


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_model_whose_likelihoods_are_no_numbers_is_reported(logprob: float, tmp_path: Path) -> None:
    board = make_board({"base": [True, False], "challenger": [False, True]})
    outcome = make_outcome(change_rows(board, "challenger Q4_K_M", lambda row: replace(row, logprob=logprob)))
    text = write_page(outcome, tmp_path)
    assert "nan" not in text.replace("not a number", "")
    scores = read_json(outcome, tmp_path)["scores"]
    found = [one for one in scores if one["metric"] == "perplexity" and one["contestant"].startswith("challenger")]
    assert [one["value"] for one in found] == [None]
    figures = summary_figures(outcome)
    assert figures["perplexity"] is None
    assert all(not isinstance(value, float) or math.isfinite(value) for value in figures.values())


def test_a_better_challenger_is_published_in_one_plain_sentence() -> None:
    outcome = make_outcome(make_board({"base": [False] * 40, "challenger": [True] * 40}))
    assert explain_verdict(outcome) == (
        "Challenger Q4_K_M is better than base Q4_K_M: exact match +100.0 points on held-out rows "
        "(95 % interval +100.0 to +100.0, p < 0.001). It keeps every rule of the gate."
    )


def test_a_broken_rule_is_told_with_what_was_found_and_asked() -> None:
    board = change_rows(
        make_board({"base": [False] * 40, "challenger": [True] * 40}),
        "challenger Q4_K_M",
        lambda row: replace(row, stopped=row.row.number > 3),
    )
    outcome = make_outcome(
        board, ("exact_match > champion", "stop_rate >= 0.99", {"rule": "token_f1 < 1", "on_failure": "warn"})
    )
    assert explain_verdict(outcome).endswith(
        "It breaks the gate: stop rate on held-out rows 90.0 %, asked ≥ 99.0 %. "
        "A warning: token F1 on held-out rows 100.0 %, asked < 100.0 %."
    )


@pytest.mark.parametrize(
    ("challenger", "said"),
    [([False] * 40, "is worse than champion Q4_K_M"), ([True] * 40, "is level with champion Q4_K_M")],
)
def test_a_champion_stays_that_is_better_or_level(challenger: list[bool], said: str) -> None:
    outcome = make_outcome(make_board({"base": [False] * 40, "champion": [True] * 40, "challenger": challenger}))
    assert said in explain_verdict(outcome)
    assert "It keeps every rule" not in explain_verdict(outcome)


def test_titles_of_users_are_plain_in_the_terminal_and_in_the_figures() -> None:
    board = make_board({"base": [False, True], "challenger": [True, False]})
    metrics = {**board.metrics, "own": replace(board.metrics["exact_match"], title=f"own\n{HOSTILE}")}
    rules = ("own > champion", {"rule": "own >= 0.99", "on_failure": "warn"})
    outcome = make_outcome(build_scoreboard(board.results, metrics, ALONE), rules)
    summary = Summary(figures=summary_figures(outcome), tables=summary_tables(outcome))
    said = [str(summary.figures["verdict"]), *(str(row["detail"]) for row in summary.tables["gate"])]
    assert "own <script>" in said[0]
    assert all(text.encode("utf-8") and text.isprintable() for text in said)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_no_style_is_said_twice() -> None:
    places = (
        ("ft_pipeline", "report.css"),
        ("ft_pipeline.evaluation.report", "evaluation_report.css"),
        ("ft_pipeline.datasets.report", "data_report.css"),
    )
    sheets = [files(package).joinpath(name).read_text(encoding="utf-8") for package, name in places]
    # What holds on some screens alone must repeat what it takes back.
    always = [re.sub(r"@media[^{]*{(?:[^{}]*{[^{}]*})*[^{}]*}", "", sheet) for sheet in sheets]
    rules = [" ".join(rule.split()) for sheet in always for rule in re.findall(r"[^{}]+{[^{}]*}", sheet)]
    assert len(rules) > 100
    assert {rule for rule in rules if rules.count(rule) > 1} == set()


def test_the_json_has_what_the_page_shows(rich: Outcome, tmp_path: Path) -> None:
    document = read_json(rich, tmp_path)
    assert document["format"] == 2
    assert [rule["rule"] for rule in document["gate"]][:2] == ["exact_match > champion", "stop_rate >= 0.99"]
    assert set(document["gate"][0]) == {
        "rule", "name", "passed", "value", "limit", "on_failure", "detail",
        "difference", "difference_low", "difference_high", "difference_p",
    }  # fmt: skip
    assert len(document["contestants"]) == 8
    assert document["contestants"][2]["context_tokens_by_card"] == {"rtx3080": 39_936, "rtx4090": 0}
    assert document["fidelity"][0]["contestant"] == "challenger Q8_0"
    assert document["forgetting"]["changes"][0]["rows"] == 80
    assert [name for name, groups in document["errors"].items() if groups] == [
        "by_kind", "by_tag", "by_prompt_characters", "by_json_field",
    ]  # fmt: skip
    assert document["loss_history"][1] == {"step": 2.0, "loss": None}
    assert document["harness"]["base Q4_K_M"][0]["stderr"] == 0.011
    assert any("\ud800" in sample["reference"] for sample in document["samples"])
    assert max(len(answer["text"]) for one in document["samples"] for answer in one["answers"].values()) < 2100


def test_errors_are_counted_by_kind_tag_length_and_field(rich: Outcome) -> None:
    label = rich.board.gated.label
    kinds = {group.name: group.counts[label] for group in group_by_error(rich)}
    assert sum(kinds.values()) == 70
    assert {"right", "not asked", "empty", "refusal", "never stopped", "wrong fields"} <= set(kinds)
    assert [(group.name, group.size) for group in group_by_tag(rich)] == [("$a$", 24), ("<b>", 23), ("\x1bc", 23)]
    assert group_by_answer_length(rich) == []
    assert sum(group.size for group in group_by_prompt_length(rich)) == 70
    assert [group.name for group in group_by_field(rich)] == ["tag", "n", "who"]


def test_what_it_forgot_goes_by_the_checks_of_the_general_set(rich: Outcome) -> None:
    forgetting = find_forgetting(rich.board)
    assert forgetting is not None
    assert [change.name for change in forgetting.changes] == ["all", "chat", "arithmetic", "copying", "instructions"]
    changed = forgetting.gained - len(forgetting.lost)
    assert forgetting.changes[0].difference.value == pytest.approx(changed / 80)


def test_dagster_gets_tables_whose_rows_have_the_same_keys(rich: Outcome) -> None:
    tables = summary_tables(rich)
    assert set(tables) == {"scores", "gate", "fidelity", "forgetting", "costs", "samples"}
    for table in tables.values():
        assert len({tuple(row) for row in table}) == 1
    assert len(tables["samples"]) == 8
    summary = Summary(figures=summary_figures(rich), tables=tables)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_figures_have_names_that_stay(rich: Outcome) -> None:
    figures = summary_figures(rich)
    assert {
        "publish", "verdict", "rows", "exact_match", "exact_match_champion", "exact_match_difference", "exact_match_p",
        "kld", "exact_match@set_0", "exact_match@set_4", "general", "general_base", "general_difference",
        "size_bytes", "memory_bytes", "tokens_per_second", "first_token_seconds",
    } <= set(figures)  # fmt: skip
    first = summary_figures(make_outcome(make_board({"base": [True], "challenger": [True]})))
    assert "exact_match_base" in first
    assert "exact_match_champion" not in first


def test_a_set_that_some_were_not_asked_has_dashes_for_them(tmp_path: Path) -> None:
    board = make_board({"base": [True], "champion": [True], "challenger": [True]}, test_set=[True])
    results = [replace(one, rows=one.rows[: 2 if one is board.gated else 1]) for one in board.results]
    outcome = make_outcome(build_scoreboard(results, board.metrics))
    Page(write_page(outcome, tmp_path))
    found = [
        one
        for one in read_json(outcome, tmp_path)["scores"]
        if one["set"] == "other" and one["metric"] == "exact_match"
    ]
    assert [one["value"] for one in found] == [None, None, 1.0]
