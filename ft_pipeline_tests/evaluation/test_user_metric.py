from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline.evaluation.user_metric import (
    MetricFailures,
    as_metric,
    load_user_metric,
    score_rows,
    user_metric_name,
)
from ft_pipeline_tests.evaluation.answers import answer, measure

HEAD = "def score(prediction, reference, messages):\n"


def write(folder: Path, text: str, name: str = "first_word.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run(path: Path, *rows: ScoredRow) -> tuple[list[float | None], list[MetricFailures]]:
    metric = load_user_metric(path)
    scored, failures = score_rows([metric], rows)
    return [row.user_scores.get(metric.name) for row in scored], failures


def test_a_metric_gives_every_row_a_score(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Pair:\n    one: str\n    other: str\n"
        "TITLE = 'first word'\nUNIT = 'number'\nBETTER = 'lower'\n"
        "def score(prediction: str, reference: str, messages: list[dict[str, str]]) -> float:\n"
        "    pair = Pair(prediction, reference)\n"
        "    assert messages == [{'role': 'user', 'content': 'What?'}]\n"
        "    return 7 if pair.one == pair.other else -1.5\n",
    )
    metric = as_metric(load_user_metric(path))
    assert (metric.title, metric.unit, metric.better, metric.family) == ("first word", "number", "lower", "task")
    scores, failures = run(path, answer("blue"), answer("red"))
    assert scores == [7, -1.5]
    assert not failures


def test_a_metric_without_constants_is_a_share_of_which_more_is_better(tmp_path: Path) -> None:
    metric = load_user_metric(write(tmp_path, HEAD + "    return prediction == reference\n"))
    assert (metric.name, metric.title, metric.unit, metric.better) == ("first_word", "first word", "share", "higher")
    scored, _ = score_rows([metric], [answer("blue"), answer("red"), answer("", fault="too long")])
    assert measure(as_metric(metric), *scored) == pytest.approx(1 / 3)


def test_several_metrics_score_the_same_rows(tmp_path: Path) -> None:
    names = ("always.py", "never.py")
    metrics = [load_user_metric(write(tmp_path, f"{HEAD}    return {n}", name)) for n, name in enumerate(names)]
    scored, _ = score_rows(metrics, [answer("blue")])
    assert scored[0].user_scores == {"always": 0, "never": 1}


def test_a_row_with_a_check_is_not_scored(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "    return 1")
    assert run(path, answer("blue", check=AnswerCheck(kind="exact", value="x"))) == ([None], [])


def test_what_a_metric_does_to_its_messages_stays_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "    messages[0]['content'] += '!'\n    return messages[0]['content'] == 'What?!'\n")
    row = answer("blue")
    assert run(path, row)[0] == [1]
    assert run(path, row)[0] == [1]


def test_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    before = list(sys.path)
    load_user_metric(write(tmp_path, HEAD + "    return 1"))
    assert [path.name for path in tmp_path.iterdir()] == ["first_word.py"]
    assert sys.path == before
    assert "first_word" not in sys.modules


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    assert run(write(tmp_path, HEAD + "    return 0"), answer("blue"))[0] == [0]
    assert run(write(tmp_path, HEAD + "    return 1"), answer("blue"))[0] == [1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1\ndef score(:\n", r"a metric's file must run; .*first_word.py:2: SyntaxError: invalid syntax"),
        ("x = 1\n\x00", r"first_word.py(:2)?: SyntaxError: source code string cannot contain null bytes"),
        ("import not_there_at_all\n", r"first_word.py:1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("\n\nraise ValueError('one\\ntwo')\n", r"first_word.py:3: ValueError: one two$"),
        ("import sys\nsys.exit(3)\n", r"first_word.py:2: SystemExit: 3"),
        ("import json\njson.loads('')\n", r"first_word.py:2: json.decoder.JSONDecodeError: Expecting value"),
        ("x = 1\n", r"must define score\(prediction, reference, messages\); .*first_word.py does not"),
        ("score = 1\n", r"must define score\(prediction, reference, messages\); .*first_word.py does not"),
        ("x = 1\ndef score(a, b): ...", r"first_word.py:2: score must take .*; too many positional arguments"),
        ("def score(a, b, c, d): ...", r"first_word.py:1: score must take .*; missing a required argument: 'd'"),
        (HEAD + "    return 1\nUNIT = 'percent'", r"first_word.py: UNIT must be one of share, number; it is 'percent'"),
        (HEAD + "    return 1\nBETTER = 1", r"first_word.py: BETTER must be one of higher, lower; it is 1"),
        (HEAD + "    return 1\nTITLE = ' '", r"first_word.py: TITLE must be a text; it is ' '"),
    ],
)
def test_a_file_that_is_no_metric_is_told_with_its_line(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(EvaluationError, match=error):
        load_user_metric(write(tmp_path, text))


def test_a_file_that_failed_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError):
        load_user_metric(write(tmp_path, "raise ValueError", "failed_metric.py"))
    assert not [name for name in sys.modules if "failed_metric" in name]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"gone.py: FileNotFoundError: "):
        load_user_metric(tmp_path / "gone.py")


@pytest.mark.parametrize(
    ("body", "error", "line"),
    [
        ("    raise ValueError('one\\ntwo')", "ValueError: one two", 2),
        ("    import sys\n    sys.exit('bye')", "SystemExit: bye", 3),
        ("    return float('nan')", "must return a share from 0 to 1 .*; it returned nan", None),
        ("    return float('inf')", "it returned inf", None),
        ("    return 37", r'must return a share from 0 to 1 \(or set UNIT = "number"\); it returned 37', None),
        ("    return '0.5'", "it returned '0.5'", None),
        ("    return None", "it returned None", None),
        ("    return [1]", r"it returned \[1\]", None),
        ("    return 'x' * 9000", r"it returned 'x{200,280}…$", None),
        ("    return score(prediction, reference, messages)", "RecursionError: ", 2),
    ],
)
def test_a_call_without_a_result_costs_the_score_of_its_row(
    tmp_path: Path, body: str, error: str, line: int | None
) -> None:
    guard = "    if prediction == 'blue': return 1\n"
    path = write(tmp_path, "def score(prediction, reference, messages):\n" + body + "\n")
    scores, [failures] = run(path, answer("red"))
    assert scores == [None]
    [failure] = failures.first
    assert failure.place == "data/rows.jsonl:1"
    assert failure.line == line
    assert_matches(error, failure.error)

    path = write(tmp_path, HEAD + guard + body + "\n")
    scores, [failures] = run(path, answer("blue"), answer("red"))
    assert scores == [1, None]
    assert failures.count == 1


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_of_many_failures_the_first_five_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "    return 1 / (len(prediction) % 2)\n")
    scores, [failures] = run(path, *[answer("blue")] * 8, answer("red"))
    assert scores == [None] * 8 + [1]
    assert (failures.count, len(failures.first)) == (8, 5)
    assert failures.metric.name == "first_word"


def test_a_metric_that_fails_on_a_row_is_no_number(tmp_path: Path) -> None:
    metric = load_user_metric(write(tmp_path, HEAD + "    raise ValueError"))
    scored, _ = score_rows([metric], [answer("blue")])
    assert math.isnan(measure(as_metric(metric), *scored) or 0)


def test_being_asked_to_stop_is_no_failure_of_the_metric(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run(path, answer("blue"))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("my-metric.py", "must be called like a Python variable, such as keywords_found.py; 'my-metric.py' is not"),
        ("1st.py", "'1st.py' is not"),
        ("class.py", "'class.py' is not"),
        ("métrique.py", "'métrique.py' is not"),
        ("metric.txt", "'metric.txt' is not"),
        ("exact_match.py", "must have a name of its own; 'exact_match' is taken"),
        ("answer_match.py", "'answer_match' is taken"),
    ],
)
def test_a_name_that_cannot_stand_in_a_rule_is_told_before_the_file_is_read(name: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        user_metric_name(Path("somewhere") / name)
    with pytest.raises(EvaluationError, match=error):
        load_user_metric(Path("somewhere") / name)
