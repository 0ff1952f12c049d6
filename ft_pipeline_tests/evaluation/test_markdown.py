from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ft_pipeline.evaluation.report.markdown import escape, fence, write_markdown
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.request import Absence
from ft_pipeline.evaluation.scores import build_scoreboard
from ft_pipeline.text_marks import show_plain
from ft_pipeline_tests.evaluation.scored import HOSTILE, make_board, make_outcome, make_result, make_rich_board

READER = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])
MARKS = "`*_[]()<>!|~#\\&;@:/.w=-+1 \na"
RULES = ("exact_match > champion", "stop_rate >= 0.99", "kld <= 0.08", "general >= base - 0.1")


def write(outcome: Outcome, folder: Path) -> str:
    write_markdown(folder / "report.md", outcome)
    return (folder / "report.md").read_text(encoding="utf-8")


def flatten(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in (token, *flatten(token.children or []))]


@given(st.text(max_size=60) | st.text(alphabet=MARKS, max_size=60))
def test_words_render_as_they_are_in_the_cell_of_a_table(text: str) -> None:
    tokens = READER.parse(f"| a |\n| - |\n| {escape(text)} |\n")
    cell = [token for token in tokens if token.type == "inline"][-1]
    assert {inner.type for inner in cell.children or []} <= {"text", "text_special"}
    shown = "".join(inner.content for inner in cell.children or [])
    assert shown.replace("\N{WORD JOINER}", "") == show_plain(" ".join(text.split()))


@given(st.text(max_size=60) | st.text(alphabet=MARKS, max_size=60))
def test_a_text_cannot_leave_its_block_of_code(text: str) -> None:
    tokens = READER.parse(fence(text) + "\n")
    assert [token.type for token in tokens] == ["fence"]


def test_mentions_and_bare_links_are_parted() -> None:
    assert escape("@all https://evil.example www.evil.example") == (
        "@&NoBreak;all https://&NoBreak;evil.example www&NoBreak;.evil.example"
    )


def test_a_long_text_is_cut() -> None:
    assert "… 99,400 more characters" in fence("x" * 100_000)


def test_it_has_the_verdict_and_every_part(tmp_path: Path) -> None:
    text = write(make_outcome(make_rich_board(), RULES), tmp_path)
    assert text.startswith("# ❌ Do not publish: tickets\n")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Gate",
        "## Scores",
        "## Fidelity to 16 bits",
        "## Size and speed",
        "## Samples, the worst first",
    ]
    assert text.count("\n### ") == 3
    assert "| passed checks, general | 80 |" in text


def test_hostile_texts_stay_in_code(tmp_path: Path) -> None:
    absent = [Absence(role="champion", reason=HOSTILE)]
    results = make_rich_board().results
    board = build_scoreboard(
        [one for one in results if one.contestant.role != "champion"], make_rich_board().metrics, absent
    )
    text = write(
        make_outcome(board, RULES, notes=[HOSTILE, "- a list", "1. one", "# heading"], recipe_name="*r*"), tmp_path
    )
    assert not {"\x1b", "\u202e", "\x00"} & set(text)
    tokens = flatten(READER.parse(text))
    assert not {"html_block", "html_inline", "link_open", "image", "em_open", "ordered_list_open"} & {
        token.type for token in tokens
    }
    assert sum(token.type == "bullet_list_open" for token in tokens) == 1
    assert sum(token.type == "heading_open" for token in tokens) == 9


def test_it_is_written_without_opponent_fidelity_and_samples(tmp_path: Path) -> None:
    absent = [Absence(role="champion", reason="its files are gone")]
    board = build_scoreboard(
        [make_result("challenger", [True])], make_board({"base": [True], "challenger": [True]}).metrics, absent
    )
    text = write(make_outcome(board, sample_rows=0), tmp_path)
    assert "- The champion did not compete: its files are gone" in text
    assert "## Samples" not in text
    assert "## Fidelity" not in text
    assert "| Measure | Rows | challenger Q4_K_M |" in text
