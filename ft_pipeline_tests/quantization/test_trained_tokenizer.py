"""The trained tokenizer: what does not load or render is told in the project's own errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline_tests.tiny_model import CHATML, make_tokenizer

_ASKED = [{"role": "user", "content": "one"}]


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("{{ raise_exception('no') }}", r"TemplateError\('no'\)"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ 'a'.index('b') }}", "ValueError"),
        ("{{ messages[0] + 1 }}", "TypeError"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_wraps_whatever_a_template_fails_with(failing: str, reason: str, tmp_path: Path) -> None:
    make_tokenizer(tmp_path, failing)
    trained = TrainedTokenizer(tmp_path)
    with pytest.raises(ConversionError, match=f"must render a conversation of user; that of .* does not: .*{reason}"):
        trained.render(_ASKED, add_generation_prompt=True)
    assert not trained.accepts(_ASKED)


def test_names_the_folder_whose_templates_have_no_default(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, None)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    named = [{"name": name, "template": CHATML} for name in ("rag", "tool_use")]
    path.write_text(json.dumps(config | {"chat_template": named}), encoding="utf-8")
    with pytest.raises(ConversionError, match=f"carries one chat template; {tmp_path} has several and none named"):
        TrainedTokenizer(tmp_path)


def test_names_the_folder_whose_tokenizer_is_damaged(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConversionError, match=f"the tokenizer of {tmp_path} does not load"):
        TrainedTokenizer(tmp_path)


def test_names_the_folder_without_a_template(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, None)
    with pytest.raises(ConversionError, match=f"carries the trained chat template; {tmp_path} has none"):
        TrainedTokenizer(tmp_path)
