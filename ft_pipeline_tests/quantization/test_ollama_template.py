"""TEMPLATE against the trained chat template, executed by Go's own text/template as Ollama does it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.quantization.modelfile import write_go_template
from ft_pipeline_tests.needs import need_program
from ft_pipeline_tests.quantization.templates import FAMILIES, Family

_PROGRAM = Path(__file__).parent / "ollama_template" / "main.go"
Message = dict[str, str]
Execute = Callable[[Sequence[tuple[str, Sequence[Message]]]], list[dict[str, str]]]

# Each list: a user's message, an answer, a user's message, ...
_TALKS = (
    ["What is the colour of the sky?"],
    ["one", "two", "three"],
    ["one", "two", "three", "four", "five"],
    ["say \"hi\", 'ho', `x` and \\n\\t", "{{ .Content }} {% if x %} {{ end }}", '}} {{- """ -}}', "$system", "%s %d"],
    ["größer, 日本語, 👩‍👩‍👧, مرحبا", "é e\u0301 \u200b\ufeff", "\u0000\u0007\u001b[0m"],
    ["a\r\nb\r\n\r\nc", "d\n\n\ne\tf", "g\rh"],
    ["<|im_end|></s><s>[INST]", "<|eot_id|><end_of_turn>[/INST]", "<|im_start|>system\n<<SYS>>", "<|end|>", "<bos>"],
    ["  before", "after  ", "\n\nboth\r\n\t", "\u00a0\u3000x\u2003\u0085", "\u2028y \x1c"],
)
_SYSTEMS = (None, "Be brief.", 'Say "yes" or\r\n{{ .System }}\n\n<|im_end|>', "\n \n  blanks  \n\u00a0\n", "")
_TRL = (
    "cohere",
    "deepseekv3",
    "gemma",
    "gemma3",
    "glm4moe",
    "gptoss",
    "llama3",
    "llama3_1",
    "llama3_2",
    "phi3",
    "phi3_5",
    "qwen2_5",
    "qwen3",
    "qwen3_instruct_2507",
)


@pytest.fixture(scope="session")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Execute:
    """Executes templates in Go, all in one go."""
    go = need_program("go", install="apt-get install golang-go")
    folder = tmp_path_factory.mktemp("ollama_template")
    program = folder / "ollama_template"
    environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": str(folder / "cache")}
    subprocess.run([go, "build", "-o", str(program), str(_PROGRAM)], check=True, env=environment)

    def run(cases: Sequence[tuple[str, Sequence[Message]]]) -> list[dict[str, str]]:
        given = json.dumps([{"template": template, "messages": messages} for template, messages in cases])
        done = subprocess.run([str(program)], input=given.encode(), capture_output=True, check=True)
        results: list[dict[str, str]] = json.loads(done.stdout)
        return results

    return run


@pytest.mark.parametrize("name", FAMILIES)
def test_gives_the_prompts_of_the_trained_template(execute: Execute, name: str) -> None:
    assert_same_prompts(execute, FAMILIES[name])


@pytest.mark.parametrize("name", _TRL)
def test_gives_the_prompts_of_a_models_own_template(execute: Execute, name: str) -> None:
    trl = pytest.importorskip("trl")
    source = files(trl).joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")
    assert_same_prompts(execute, Family(source, takes_system=name != "gemma"))


def test_reads_a_default_system_message_only_where_there_is_none(execute: Execute) -> None:
    template = write_go_template(FAMILIES["Qwen2.5"].turns(), adds_bos=True)
    alone, told = execute([(template, talk(["a"], None)), (template, talk(["a"], "Be brief."))])
    assert 'You are "Qwen".' in alone["Text"]
    assert "Qwen" not in told["Text"]


@pytest.mark.parametrize("name", ["Qwen3", "QwQ"])
def test_leaves_out_the_reasoning_that_ollama_hands_over_apart(execute: Execute, name: str) -> None:
    family = FAMILIES[name]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "thinking": "hm\nso"},
        {"role": "user", "content": "c"},
    ]
    (result,) = execute([(write_go_template(family.turns(), adds_bos=True), messages)])
    trained = [dict(message) for message in messages]
    trained[1]["content"] = f"<think>\n{trained[1].pop('thinking')}\n</think>\n\nb"
    assert result["Text"] == family.renderer()(trained, add_generation_prompt=True)
    assert (result["Opening"], result["Closing"]) == ("<think>", "</think>")


def test_takes_reasoning_for_content_where_the_template_does(execute: Execute) -> None:
    template = write_go_template(FAMILIES["Qwen2.5"].turns(), adds_bos=True)
    (result,) = execute([(template, talk(["a", "<think>\nhm\n</think>\n\nb", "c"], None))])
    assert "<think>\nhm\n</think>\n\nb<|im_end|>" in result["Text"]
    assert (result["Opening"], result["Closing"]) == ("", "")


@pytest.mark.parametrize("name", ["ChatML", "Llama 2", "Mistral Nemo"])
def test_leaves_out_an_answer_whose_question_ollama_cut_off(execute: Execute, name: str) -> None:
    template = write_go_template(FAMILIES[name].turns(), adds_bos=True)
    system, _, answer, again = talk(["cut", "orphan", "again"], "Be brief.")
    cut, whole = execute([(template, [system, answer, again]), (template, [system, again])])
    assert cut == whole
    assert cut["Error"] == ""


def test_lets_the_model_go_on_with_an_answer_that_was_begun(execute: Execute) -> None:
    template = write_go_template(FAMILIES["ChatML"].turns(), adds_bos=True)
    (result,) = execute([(template, talk(["a", "It is"], None))])
    assert result["Text"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nIt is"


@pytest.mark.parametrize(
    ("name", "roles", "reason"),
    [
        ("Gemma 2", ["system", "user"], "the chat template takes no system message"),
        ("ChatML", ["user", "system", "user"], "the chat template takes a system message in front alone"),
        ("ChatML", ["user", "tool", "user"], "the chat template is written for the roles system, user and assistant"),
    ],
)
def test_fails_on_what_was_not_trained(execute: Execute, name: str, roles: list[str], reason: str) -> None:
    template = write_go_template(FAMILIES[name].turns(), adds_bos=True)
    (result,) = execute([(template, [{"role": role, "content": "x"} for role in roles])])
    assert f'template "{reason}" not defined' in result["Error"]


def test_strips_thousands_of_blanks(execute: Execute) -> None:
    template = write_go_template(FAMILIES["Llama 3"].turns(), adds_bos=True)
    (result,) = execute([(template, talk([" \u3000" * 5000 + "x" + "\n" * 5000], None))])
    assert "<|end_header_id|>\n\nx<|eot_id|>" in result["Text"]


def assert_same_prompts(execute: Execute, family: Family) -> None:
    """For every conversation: TEMPLATE with the BOS that llama.cpp adds, and TEMPLATE with its own."""
    render, turns = family.renderer(), family.turns()
    adding, complete = (write_go_template(turns, adds_bos=adds_bos) for adds_bos in (True, False))
    systems = _SYSTEMS if family.takes_system else _SYSTEMS[:1]
    talks = [talk(texts, system) for texts in _TALKS for system in systems]
    results = execute([(template, messages) for messages in talks for template in (adding, complete)])
    for messages, with_added, with_own in zip(talks, results[::2], results[1::2], strict=True):
        wanted = render(messages, add_generation_prompt=True)
        assert (with_added["Error"], with_own["Error"]) == ("", "")
        assert turns.bos + with_added["Text"] == wanted
        assert with_own["Text"] == wanted


def talk(texts: Sequence[str], system: str | None) -> list[Any]:
    """A conversation of user and assistant in turn."""
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(texts)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]
