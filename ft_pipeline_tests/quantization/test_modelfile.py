"""The shape of chat templates, and the Modelfile made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ft_pipeline.quantization.modelfile import find_stops, write_go_template, write_modelfile
from ft_pipeline.quantization.turns import Render, TemplateShapeError, Turn, TurnFormat, derive_turn_format
from ft_pipeline_tests.quantization import templates
from ft_pipeline_tests.quantization.templates import BOS, EOS


def test_finds_the_turns_of_chatml() -> None:
    assert derive_turn_format(renderer(templates.CHATML), BOS) == TurnFormat(
        bos="",
        preamble="",
        system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
        system_separator=None,
        user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
        generation_prompt="<|im_start|>assistant\n",
    )


def test_finds_a_default_system_message() -> None:
    assert turns_of(templates.QWEN).preamble == '<|im_start|>system\nYou are "Qwen".<|im_end|>\n'


def test_finds_that_a_template_strips_blanks() -> None:
    assert turns_of(templates.LLAMA3).trims
    assert not turns_of(templates.CHATML).trims


def test_finds_a_system_message_inside_the_users_turn() -> None:
    turns = turns_of(templates.MISTRAL)
    assert turns.system is None
    assert turns.system_separator == "\n\n"
    assert turns.user == Turn("[INST] ", " [/INST]")
    assert turns.assistant == Turn(" ", EOS)
    assert turns.generation_prompt == ""


def test_finds_that_a_template_takes_no_system_message() -> None:
    turns = turns_of(templates.GEMMA)
    assert (turns.system, turns.system_separator) == (None, None)
    assert turns.generation_prompt == "<start_of_turn>model\n"


@pytest.mark.parametrize("name", ["CHATML", "QWEN", "LLAMA3", "MISTRAL", "GEMMA"])
def test_renders_as_the_template_does(name: str) -> None:
    template = getattr(templates, name)
    messages = [("user", "a {{ b }}"), ("assistant", "c\n\nd"), ("user", 'e "f"'), ("assistant", "g"), ("user", "h")]
    if name != "GEMMA":
        messages.insert(0, ("system", "be brief"))
    wanted = renderer(template)([{"role": r, "content": c} for r, c in messages], add_generation_prompt=True)
    assert turns_of(template).render(messages) == wanted


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LLAMA2", "it writes BOS in every turn"),
        ("MISTRAL_NEMO", "it renders a conversation of system, user, assistant, user otherwise than turn by turn"),
        ("FORGETFUL", "it renders a conversation of user, assistant, user otherwise than turn by turn"),
    ],
)
def test_refuses_a_template_of_another_shape(name: str, reason: str) -> None:
    with pytest.raises(TemplateShapeError, match=reason):
        turns_of(getattr(templates, name))


def test_writes_chatml_for_ollama() -> None:
    assert write_go_template(turns_of(templates.CHATML), adds_bos=True) == (
        "{{- range $i, $_ := .Messages }}\n"
        "{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"
        r'{{- if eq .Role "system" }}{{- "<|im_start|>system\n" }}{{- .Content }}{{- "<|im_end|>\n" }}' + "\n"
        r'{{- else if eq .Role "user" }}{{- "<|im_start|>user\n" }}{{- .Content }}{{- "<|im_end|>\n" }}' + "\n"
        r'{{- else if eq .Role "assistant" }}{{- "<|im_start|>assistant\n" }}{{- .Content }}'
        r'{{- if not $last }}{{- "<|im_end|>\n" }}{{- end }}' + "\n"
        "{{- end }}\n"
        r'{{- if and $last (ne .Role "assistant") }}{{- "<|im_start|>assistant\n" }}{{- end }}' + "\n"
        "{{- end }}"
    )


def test_writes_a_default_system_message_only_where_there_is_none() -> None:
    text = write_go_template(turns_of(templates.QWEN), adds_bos=True)
    assert r'{{- if and (eq $i 0) (ne .Role "system") }}{{- "<|im_start|>system\nYou are \"Qwen\"' in text


def test_writes_bos_only_where_llama_cpp_does_not() -> None:
    turns = turns_of(templates.LLAMA3)
    assert write_go_template(turns, adds_bos=False).startswith('{{- "<s>" }}{{- range')
    assert BOS not in write_go_template(turns, adds_bos=True)


def test_puts_the_system_message_into_the_users_turn() -> None:
    text = write_go_template(turns_of(templates.MISTRAL), adds_bos=True)
    assert text.startswith('{{- $system := "" }}{{- range')
    assert r'{{- "[INST] " }}{{- if $system }}{{- $system }}{{- "\n\n" }}{{- $system = "" }}{{- end }}' in text


def test_stops_at_the_end_of_an_answer_first() -> None:
    special = ["<unk>", BOS, EOS, "<|im_start|>", "<|im_end|>"]
    assert find_stops(turns_of(templates.CHATML), special, "<|im_end|>") == ["<|im_end|>", "<|im_start|>"]
    assert find_stops(turns_of(templates.MISTRAL), special, EOS) == [EOS]


def test_writes_a_modelfile() -> None:
    text = write_modelfile("demo-Q4_K_M.gguf", None, ["<|im_end|>", "</s>"], 4096, adds_bos=True)
    assert text == (
        'FROM ./demo-Q4_K_M.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "</s>"\nPARAMETER num_ctx 4096\n'
    )


def turns_of(template: str) -> TurnFormat:
    return derive_turn_format(renderer(template), BOS)


def renderer(template: str) -> Render:
    """Renders as transformers does: utils/chat_template_utils.py, `_compile_jinja_template`."""
    compiled = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def render(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        return compiled.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=BOS,
            eos_token=EOS,
            raise_exception=refuse,
        )

    return render
