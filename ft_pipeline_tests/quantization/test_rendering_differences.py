"""What llama.cpp's own template engine and server make of a GGUF's template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.parity import ParityReport, compare_tokens, require_parity
from ft_pipeline.quantization.references import build_references
from ft_pipeline.quantization.trained_tokenizer import Conversation, TrainedTokenizer
from ft_pipeline_tests.quantization.conftest import CONVERSATION, copy_model
from ft_pipeline_tests.quantization.vocabularies import replace_template
from ft_pipeline_tests.tiny_model import CHATML

Report = Callable[[str, Sequence[Conversation]], ParityReport]
_INDENTED = ({"role": "user", "content": "\u3000one"}, {"role": "assistant", "content": "two"})


@pytest.fixture
def report_on(model: Path, vocabulary: Path, tmp_path: Path) -> Report:
    """Compares the renderings of a template and some conversations."""

    def report(template: str, conversations: Sequence[Conversation]) -> ParityReport:
        folder = Path(mkdtemp(dir=tmp_path))
        other = copy_model(model, folder / "model")
        (other / "chat_template.jinja").write_text(template, encoding="utf-8")
        trained = TrainedTokenizer(other)
        gguf_file = replace_template(vocabulary, folder / "vocabulary.gguf", template)
        return compare_tokens(gguf_file, trained, build_references(trained, conversations))

    return report


def test_tells_blanks_that_only_the_trained_template_strips(report_on: Report) -> None:
    report = report_on(CHATML.replace("m['content']", "m['content'].strip()"), [CONVERSATION, _INDENTED])
    require_parity(report)
    (known,) = report.known
    assert known.reason == (
        "the template strips a text of all of Unicode's blanks, llama.cpp's engine of ASCII's alone"
    )
    assert known.given == 2
    assert known.renderings > 10


def test_tells_that_the_server_sets_the_date(report_on: Report) -> None:
    dated = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ bos_token }}"
    report = report_on(CHATML.replace("{{ bos_token }}", dated + "{{ date_string }}"), [CONVERSATION])
    require_parity(report)
    (known,) = report.known
    assert known.reason.startswith("llama.cpp's server tells the template today's date")
    assert known.renderings == report.renderings
    assert "26 Jul 2024" in known.example.text


def test_tells_that_the_server_lets_the_model_think(report_on: Report) -> None:
    thinks = "{{ bos_token }}{% if enable_thinking %}<|think|>{% endif %}"
    report = report_on(CHATML.replace("{{ bos_token }}", thinks), [CONVERSATION])
    require_parity(report)
    (known,) = report.known
    assert known.reason.endswith("start it with --reasoning off")


def test_tells_each_reason_where_there_are_several(report_on: Report) -> None:
    thinks = "{{ bos_token }}{% if enable_thinking %}<|think|>{% endif %}"
    stripped = CHATML.replace("{{ bos_token }}", thinks).replace("m['content']", "m['content'].strip()")
    report = report_on(stripped, [CONVERSATION])
    require_parity(report)
    alone, both = report.known
    assert alone.renderings > both.renderings
    assert both.reason.startswith(f"{alone.reason}; and the template strips")


def test_tells_a_system_message_that_the_template_leaves_out_unless_the_data_has_it(report_on: Report) -> None:
    template = CHATML.replace("%}{{ '<|im_start|>'", "if m['role'] != 'system' %}{{ '<|im_start|>'")
    assert template != CHATML
    report = report_on(template, [CONVERSATION])
    require_parity(report)
    (known,) = report.known
    assert known.reason == "the template leaves the system message out, llama.cpp writes it before the user's"
    system = {"role": "system", "content": "be brief"}
    with pytest.raises(ConversionError, match=r"renders 2 of \d+ conversations otherwise, .* llama.cpp '.*be brief"):
        require_parity(report_on(template, [(system, *CONVERSATION)]))


def test_refuses_a_template_that_llama_cpp_does_not_know_how_to_render(report_on: Report) -> None:
    folded = CHATML.replace("m['content']", "m['content'].casefold()")
    with pytest.raises(ConversionError, match=r"does not render (\d+) of \1 conversations .*: .* \(hint: 'casefold'"):
        require_parity(report_on(folded, [CONVERSATION]))
