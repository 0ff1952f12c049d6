"""Both reports, full of hostile text, in a real browser: nothing runs, nothing is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ft_pipeline.datasets.checks.secrets import redact
from ft_pipeline.datasets.conversation import Message
from ft_pipeline.evaluation.report.document import write_json
from ft_pipeline.evaluation.report.markdown import write_markdown
from ft_pipeline.evaluation.report.tables import summary_tables
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline_tests.datasets.validated_folder import Folder, make_row, quarantined, repeat
from ft_pipeline_tests.datasets.written_report import Report
from ft_pipeline_tests.evaluation.scored import change_rows, make_outcome, make_rich_board
from ft_pipeline_tests.evaluation.test_report import RULES, write_page
from ft_pipeline_tests.needs import need_program

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ATTACKS = (
    "<script>document.title = 'ran'</script>",
    "</style></title></textarea></pre><script>document.title = 'ran'</script>",
    "\"><img src=x onerror=\"document.title='ran'\">",
    "' onmouseover='document.title=1' x='",
    "<svg onload=\"document.title='ran'\"><use href='http://127.0.0.1:9/x'/></svg>",
    "<iframe src='http://127.0.0.1:9/frame'></iframe><object data='http://127.0.0.1:9/o'></object>",
    "<link rel=stylesheet href='http://127.0.0.1:9/style'><style>@import 'http://127.0.0.1:9/import'</style>",
    "<base href='http://127.0.0.1:9/'><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/away'>",
    "<form action='http://127.0.0.1:9/form'><button>press</button></form>",
    "<a href=\"javascript:document.title='ran'\">look</a> [look](javascript:alert(1)) ![x](http://127.0.0.1:9/i)",
    "{{ 7 * 7 }} {% raw %} ${7*7} <%= 7*7 %>",
    "\x00\x1b[2J\x1b]0;ran\x07 \u202e\u2066\u200b \ufeff \x85\u2028",
    "=HYPERLINK(\"http://127.0.0.1:9\") @SUM(1) +1 -1",
    "&lt;script&gt;document.title='ran'&lt;/script&gt; %3Cscript%3E",
)  # fmt: skip
_ALL = "\n".join(_ATTACKS)
_KEY = "hf_" + "aB3" * 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = need_program("chromium", install="apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_the_evaluation_report_runs_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    board = change_rows(make_rich_board(), "challenger Q4_K_M", lambda row: replace(row, prediction=_ALL))
    outcome = make_outcome(board, RULES, notes=[_ALL], recipe_name=_ALL, sample_rows=70)
    write_page(outcome, tmp_path)
    _assert_harmless(browser, tmp_path / "report.html")


@pytest.mark.slow
def test_the_data_report_runs_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": _ALL}, {"role": "assistant", "content": _ALL}]
    at = {"source_file": f"data/{_ATTACKS[2]}.jsonl", "source_line": 3}
    row = make_row(messages, [5, 2], [-100, 2], warnings=[_ATTACKS[0]], extra=_ALL, **at)
    folder = Folder(
        [row, row | {"set": _ATTACKS[2], "key": "0" * 32}],
        [quarantined(_ALL, _ATTACKS[1], detail=_ALL, **at)],
        [repeat(kind, 3, messages, of_file=at["source_file"], **at) for kind in ("exact", "near", "leaked")],
    )
    written = folder.write(tmp_path / "set")
    Report(tmp_path / "out", written, written)
    _assert_harmless(browser, tmp_path / "out/data_report.html")


def test_the_check_of_the_browser_finds_what_runs(browser: Browser, tmp_path: Path) -> None:
    for number, attack in enumerate((_ATTACKS[0], _ATTACKS[2], _ATTACKS[5])):
        page = tmp_path / f"{number}.html"
        page.write_text(f"<title>whole</title><p>whole</p>{attack}")
        with pytest.raises(AssertionError):
            _assert_harmless(browser, page)


def test_a_key_in_a_row_is_in_no_report(tmp_path: Path) -> None:
    begun = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow"
    secret = [{"role": "user", "content": f"keep {_KEY}"}, {"role": "assistant", "content": begun}]
    at = {"source_file": "data/a.jsonl", "source_line": 3}
    row = make_row(secret, [5, 2], [-100, 2], warnings=["secret"], **at)
    folder = Folder(
        [row],
        [quarantined(f'{{"messages": "{_KEY}"', "secret", detail=f"holds {_KEY}", **at)],
        [repeat("near", 3, secret, of_file="data/a.jsonl", **at)],
    )
    report = Report(tmp_path / "out", folder.write(tmp_path / "set"))
    for name in ("data_report.html", "data_report.json"):
        text = (report.folder / name).read_text()
        assert "[SECRET]" in text
        assert _KEY not in text
        assert "MIIEow" not in text
    assert _KEY not in report.summary.model_dump_json()


def test_a_key_that_a_model_says_is_in_no_report_of_the_evaluation(tmp_path: Path) -> None:
    # Whole, and where a table of Dagster, the Markdown and the page and the JSON cut.
    said = [f"{'x' * (chars - 20)} {_KEY}" for chars in (30, 200, 600, 2000)]
    asked: list[Message] = [{"role": "user", "content": said[-1]}, {"role": "assistant", "content": f"not {_KEY}"}]

    def say(row: ScoredRow) -> ScoredRow:
        place = replace(row.row, messages=tuple(asked), tags=(_KEY,))
        return replace(row, prediction=said[row.row.number % len(said)], row=place)

    board = change_rows(make_rich_board(), "challenger Q4_K_M", say)
    outcome = make_outcome(board, RULES, notes=[f"the metric says {_KEY}"], sample_rows=70)
    write_json(tmp_path / "report.json", outcome)
    write_markdown(tmp_path / "report.md", outcome)
    texts = {
        "page": write_page(outcome, tmp_path),
        "JSON": (tmp_path / "report.json").read_text("ascii"),
        "Markdown": (tmp_path / "report.md").read_text("utf-8"),
        "Dagster": json.dumps(summary_tables(outcome)),
    }
    for name, text in texts.items():
        assert "SECRET" in text, name
        assert _KEY[:6] not in text, name


def test_a_key_without_an_end_hides_all_that_follows() -> None:
    assert redact("so: -----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz") == "so: -----[SECRET]"


def _assert_harmless(browser: Browser, path: Path) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
    page.goto(path.as_uri())
    title = page.title()
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.wait_for_timeout(300)
    assert asked == [path.as_uri()]
    assert page.title() == title != "ran"
    live = "script, iframe, object, embed, form, base, link, img, [onerror], [onload], [onmouseover]"
    assert page.evaluate(f"document.querySelectorAll({live!r}).length") == 0
    links = page.evaluate("[...document.querySelectorAll('[href]')].map(one => one.getAttribute('href'))")
    assert all(link.startswith("#") for link in links)
    page.close()
