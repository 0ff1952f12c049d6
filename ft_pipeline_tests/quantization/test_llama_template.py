"""llama.cpp's own template engine, as `make setup` builds it."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.datasets.rendering import TEMPLATE_DATE
from ft_pipeline.errors import ConversionError, EnvironmentMismatch
from ft_pipeline.quantization.llama_template import LlamaTemplate, check_program, default_program
from ft_pipeline_tests.quantization.template_sources import PHI3_FIRST
from ft_pipeline_tests.quantization.templates import FAMILIES, Family

_QUESTION, _ANSWER = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
_SYSTEM = {"role": "system", "content": "Be brief."}
_TALK = ({"role": "user", "content": " {{ x }}\r\n"}, _ANSWER, {"role": "user", "content": "<b>\u2028 😀"}, _ANSWER)
_TYPED = "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part.text }}{% endfor %};{% endfor %}"
_PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
_THINKS = "which training left unset"
# Templates of TRL that llama.cpp's server renders otherwise from the first word on.
_OTHERWISE = {
    "diffusion_gemma": _THINKS,
    "gemma4": _THINKS,
    "gemma4_v2": _THINKS,
    "gemma4_v3": _THINKS,
    "gemma4_v4": _THINKS,
    "gemma4_v5": _THINKS,
    "qwen3_5_nothink": _THINKS,
    "llama3_1": "today's date",
    "idefics3": "content is a list of parts",
    "smolvlm": "content is a list of parts",
}


def _trl_templates() -> list[Path]:
    found = find_spec("trl")
    assert found is not None
    assert found.origin is not None
    paths = (Path(found.origin).parent / "chat_templates").glob("*.jinja")
    # LLaVA's take no plain answers.
    return sorted(path for path in paths if not path.stem.startswith("llava"))


@pytest.mark.parametrize("name", FAMILIES)
def test_renders_each_family_as_training_does(name: str) -> None:
    # Llama 3.1's as the tests have it asks for tools that llama.cpp leaves undefined where training says none.
    family = FAMILIES[name]
    talks = [[_QUESTION, _ANSWER], [_QUESTION, _ANSWER, *_TALK[2:]]]
    if family.takes_system and name != "Phi-3, the first":
        talks.append([_SYSTEM, *_TALK])
    expected = name != "Llama 3.1"
    assert all(_is_rendered_alike(family, talk) for talk in talks) is expected


@pytest.mark.parametrize("path", _trl_templates(), ids=lambda path: path.stem)
def test_renders_the_templates_of_trl_as_training_does(path: Path) -> None:
    family = Family(path.read_text(encoding="utf-8"))
    expected = path.stem.removesuffix("_training") not in _OTHERWISE
    assert _is_rendered_alike(family, [_QUESTION, _ANSWER]) is expected


def test_hands_content_over_in_parts_where_the_template_reads_parts() -> None:
    assert _render(_TYPED, [_QUESTION, _ANSWER]) == "user:one;assistant:two;"


def test_writes_a_system_message_that_the_template_leaves_out_before_the_question() -> None:
    assert _render(PHI3_FIRST, [_SYSTEM, _QUESTION], bos="<s>") == "<s><|user|>\nBe brief.\none<|end|>\n<|assistant|>\n"


def test_a_date_stands_still() -> None:
    assert _render("{{ strftime_now('%Y') }} {{ date_string }}", [_QUESTION]) == f"{TEMPLATE_DATE} {TEMPLATE_DATE}"


def test_gets_any_text_there_and_back() -> None:
    for text in ("\u2028\u2029\x85", "\x00\x1f", '"\\', "\U0010ffff 😀", "x" * 1_000_000):
        assert _render(_PLAIN, [{"role": "user", "content": text}]) == text


def test_one_refusal_does_not_end_it() -> None:
    template = "{% if not messages[0].content %}{{ raise_exception('empty') }}{% endif %}" + _PLAIN
    with LlamaTemplate(template, "", "") as engine:
        with pytest.raises(ConversionError, match=r"llama.cpp cannot render it: .*Jinja Exception: empty"):
            engine.render([{"role": "user", "content": ""}], add_generation_prompt=True)
        assert engine.render([_QUESTION], add_generation_prompt=True) == "one"


def test_says_why_a_template_is_not_read() -> None:
    with pytest.raises(ConversionError, match=r"llama.cpp cannot read the template: .*Parser Error"):
        _render("{{ messages", [_QUESTION])


def test_says_that_the_engine_died(tmp_path: Path) -> None:
    program = _write_program(tmp_path, version("llama-cpp-python"), "kill -SEGV $$")
    with LlamaTemplate(_PLAIN, "", "", program) as engine:
        for _ in range(2):
            with pytest.raises(ConversionError, match="its engine ended with SIGSEGV"):
                engine.render([_QUESTION], add_generation_prompt=True)


def test_its_process_ends_with_it(tmp_path: Path) -> None:
    with LlamaTemplate(_PLAIN, "", "", _write_program(tmp_path, version("llama-cpp-python"), "true")):
        process = int((tmp_path / "process").read_text())
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_is_set_up_with_the_library() -> None:
    check_program(default_program())


def test_asks_for_set_up_where_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentMismatch, match=r"must be set up; .*llama-template does not start: .* Run: make setup"
    ):
        check_program(tmp_path / "llama-template")


@pytest.mark.parametrize("release", ["0.3.35", ""])
def test_refuses_one_of_another_version(tmp_path: Path, release: str) -> None:
    with pytest.raises(EnvironmentMismatch, match=rf"is of llama-cpp-python {release or '[?]'}, .* Run: make setup"):
        check_program(_write_program(tmp_path, release, "true"))


def _is_rendered_alike(family: Family, messages: list[dict[str, str]]) -> bool:
    wanted: list[Any] = [(messages, False), (messages[:-1], True)]
    render = family.renderer()
    with LlamaTemplate(family.source, family.bos, family.eos) as engine:
        return all(
            engine.render(part, add_generation_prompt=prompt) == render(part, add_generation_prompt=prompt)
            for part, prompt in wanted
        )


def _render(template: str, messages: list[dict[str, str]], bos: str = "") -> str:
    with LlamaTemplate(template, bos, "") as engine:
        return engine.render(messages, add_generation_prompt=False)


def _write_program(folder: Path, release: str, then: str) -> Path:
    program = folder / "llama-template"
    lines = ["#!/bin/sh", f"echo $$ > {folder}/process", "read -r line", f'echo \'{{"version": "{release}"}}\'']
    program.write_text("\n".join([*lines, "read -r line", then, ""]), encoding="utf-8")
    program.chmod(0o755)
    return program
