"""The shape of chat templates, and the Modelfile made from it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import ConversionError
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.modelfile import find_stops, write_go_template, write_modelfile
from ft_pipeline.quantization.runtime_files import describe_for_ollama, warn_of_context
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.turns import AFTER_SYSTEM, SystemFormat, TemplateShapeError, TurnFormat
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline_tests.quantization.ollama_parser import parse_modelfile
from ft_pipeline_tests.quantization.template_sources import CHATML, SMOLLM3
from ft_pipeline_tests.quantization.templates import FAMILIES, REFUSED, Family
from ft_pipeline_tests.tiny_model import make_tokenizer

_ASKED = [{"role": "user", "content": "what is the sky"}, {"role": "assistant", "content": "blue"}]


def turns_of(name: str) -> TurnFormat:
    return FAMILIES[name].turns()


def test_finds_the_turns_of_chatml() -> None:
    assert turns_of("ChatML") == TurnFormat(
        bos="",
        start="<|im_start|>user\n",
        user_to_assistant="<|im_end|>\n<|im_start|>assistant\n",
        assistant_to_user="<|im_end|>\n<|im_start|>user\n",
        end="<|im_end|>\n<|im_start|>assistant\n",
        system=SystemFormat("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
    )


def test_finds_a_default_system_message() -> None:
    assert turns_of("Qwen2.5").start.startswith('<|im_start|>system\nYou are "Qwen".<|im_end|>\n<|im_start|>user')


def test_finds_which_texts_a_template_strips_of_blanks() -> None:
    assert turns_of("ChatML").trims == {}
    assert set(turns_of("Llama 3").trims) == {"system", "user", "assistant", AFTER_SYSTEM}
    assert set(turns_of("Mistral v0.3").trims) == {"assistant"}
    assert (turns_of("QwQ").trims["assistant"].left, turns_of("QwQ").trims["assistant"].right) == ("\n", "")
    # The system message is part of what Llama 2 strips: only what follows the user's text is lost.
    assert turns_of("Llama 2").trims[AFTER_SYSTEM].left == ""


def test_finds_bos_in_every_turn() -> None:
    turns = turns_of("Llama 2")
    assert (turns.start, turns.assistant_to_user) == ("<s>[INST] ", " </s><s>[INST] ")


def test_finds_a_system_message_inside_the_first_users_turn() -> None:
    assert turns_of("Mistral v0.2").system == SystemFormat("<s> [INST] ", "\n\n")


def test_finds_a_system_message_inside_the_last_users_turn() -> None:
    assert turns_of("Mistral Nemo").system == SystemFormat("<s>[INST]", "\n\n", after_answer="</s>[INST]")


def test_finds_that_a_template_refuses_a_system_message() -> None:
    turns = turns_of("Gemma 2")
    assert (turns.system, turns.drops_system) == (None, False)


def test_finds_that_a_template_drops_a_system_message() -> None:
    turns = turns_of("Phi-3, the first")
    assert (turns.system, turns.drops_system) == (None, True)


def test_finds_that_an_answer_begins_otherwise_than_it_is_asked_for() -> None:
    turns = turns_of("DeepSeek R1")
    assert (turns.user_to_assistant, turns.end) == ("<｜Assistant｜>", "<｜Assistant｜><think>\n")
    assert turns.forgets_thoughts


def test_finds_that_nothing_stands_between_an_answer_and_a_later_system_message() -> None:
    turns = turns_of("Mistral, bare")
    assert turns.system == SystemFormat("<s>", "\n\n", after_answer="")
    talk = [("system", "b"), ("user", "1"), ("assistant", "2"), ("user", "3")]
    assert turns.render(talk) == "<s>1[/INST]2b\n\n3[/INST]"


def test_finds_that_an_empty_system_message_is_none() -> None:
    template = CHATML.replace("{{ '<|im_start|>'", "{% if m['content'] or m['role'] != 'system' %}{{ '<|im_start|>'")
    turns = Family(template.replace("{% endfor %}", "{% endif %}{% endfor %}"), bos="").turns()
    assert turns.system is not None
    assert turns.system.ignores_empty
    assert turns.render((("system", ""), ("user", "a"))) == turns.render((("user", "a"),))


@pytest.mark.parametrize("name", FAMILIES)
def test_renders_as_the_template_does(name: str) -> None:
    family = FAMILIES[name]
    messages = [
        ("user", "a {{ b }}"),
        ("assistant", "c\n\nd"),
        ("user", 'e "f"'),
        ("assistant", " g\n"),
        ("user", "h "),
    ]
    talks = [messages, messages[:1], messages[:3]]
    if family.takes_system:
        talks += [[("system", " be brief\n"), *talk] for talk in talks]
    for talk in talks:
        given = [{"role": role, "content": content} for role, content in talk]
        assert family.turns().render(talk) == family.renderer()(given, add_generation_prompt=True)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_a_template_of_another_shape(name: str) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(TemplateShapeError, match=reason):
        Family(template).turns()


def test_writes_chatml_for_ollama() -> None:
    assert write_go_template(turns_of("ChatML"), adds_bos=True) == (
        '{{- $system := "" }}{{- $given := false }}{{- $asked := false }}\n'
        "{{- range $i, $_ := .Messages }}\n"
        "{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"
        '{{- if eq .Role "system" }}'
        '{{- if $asked }}{{- template "the chat template takes a system message in front alone" . }}{{- end }}'
        "{{- $system = .Content }}{{- $given = true }}\n"
        '{{- else if eq .Role "user" }}\n'
        r'{{- if and $given (not $asked) }}{{- "<|im_start|>system\n" }}{{- $system }}'
        r'{{- "<|im_end|>\n<|im_start|>user\n" }}{{- .Content }}' + "\n"
        r'{{- else }}{{- if $asked }}{{- "<|im_end|>\n<|im_start|>user\n" }}'
        r'{{- else }}{{- "<|im_start|>user\n" }}{{- end }}{{- .Content }}{{- end }}{{- $asked = true }}' + "\n"
        r'{{- if $last }}{{- "<|im_end|>\n<|im_start|>assistant\n" }}'
        r'{{- else }}{{- "<|im_end|>\n<|im_start|>assistant\n" }}{{- end }}' + "\n"
        '{{- else if ne .Role "assistant" }}'
        '{{- template "the chat template is written for the roles system, user and assistant" . }}\n'
        "{{- else if $asked }}\n"
        "{{- .Content }}\n"
        "{{- end }}\n"
        "{{- end }}"
    )


def test_writes_bos_only_where_llama_cpp_does_not() -> None:
    bos = "<|begin_of_text|>"
    assert write_go_template(turns_of("Llama 3"), adds_bos=False).count(bos) == 2
    assert bos not in write_go_template(turns_of("Llama 3"), adds_bos=True)


def test_writes_the_bos_of_later_turns_in_any_case() -> None:
    assert write_go_template(turns_of("Llama 2"), adds_bos=True).count("<s>") == 1


def test_stops_at_the_end_of_an_answer_first() -> None:
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
    assert find_stops(turns_of("ChatML"), special, "<|im_end|>") == ["<|im_end|>", "<|im_start|>"]
    assert find_stops(turns_of("Mistral Nemo"), special, "</s>") == ["</s>", "[INST]", "[/INST]"]


def test_does_not_stop_at_what_the_model_writes_before_its_answer() -> None:
    special = ["<|return|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>"]
    assert turns_of("gpt-oss").openings == ("<|channel|>final<|message|>",)
    assert find_stops(turns_of("gpt-oss"), special, "<|return|>") == ["<|end|>", "<|start|>", "<|return|>"]


def test_does_not_stop_at_what_only_the_last_answer_begins_with() -> None:
    family = FAMILIES["Qwen3"]
    special = ["<|im_end|>", "<|im_start|>", "<think>", "</think>"]
    assert family.turns().openings == ("<think>\n\n</think>\n\n",)
    assert find_stops(family.turns(), special, family.eos) == ["<|im_end|>", "<|im_start|>"]


def test_does_not_stop_at_a_line_break_that_is_a_token() -> None:
    special = ["<bos>", "<eos>", "\n", "<start_of_turn>", "<end_of_turn>"]
    assert find_stops(turns_of("Gemma 2"), special, "<eos>") == ["<end_of_turn>", "<start_of_turn>", "<eos>"]


def test_writes_a_modelfile_that_ollamas_parser_reads_back() -> None:
    turns = turns_of("Qwen2.5")
    stops = ["<|im_end|>", "<｜end▁of▁sentence｜>", 'a "quoted" stop', "### Instruction:\n", '"']
    text = write_modelfile("demo-Q4_K_M.gguf", turns, stops, 4096, adds_bos=True, system='Say "yes".\n\n  Be brief. ')
    assert parse_modelfile(text) == [
        ("from", "./demo-Q4_K_M.gguf"),
        ("template", write_go_template(turns, adds_bos=True)),
        ("system", 'Say "yes".\n\n  Be brief. '),
        *(("stop", stop) for stop in stops),
        ("num_ctx", "4096"),
    ]


def test_names_all_files_of_a_split_gguf() -> None:
    files = ["demo-00001-of-00002.gguf", "demo-00002-of-00002.gguf"]
    text = write_modelfile(files, turns_of("ChatML"), [], 4096, adds_bos=True)
    assert [value for name, value in parse_modelfile(text) if name == "from"] == [f"./{file}" for file in files]


@pytest.mark.parametrize("system", [None, ""])
def test_writes_no_system_where_there_is_none(system: str | None) -> None:
    text = write_modelfile("demo.gguf", turns_of("ChatML"), [], 4096, adds_bos=True, system=system)
    assert [name for name, _ in parse_modelfile(text)] == ["from", "template", "num_ctx"]


@pytest.mark.parametrize("name", FAMILIES)
def test_writes_templates_that_ollamas_parser_reads_back(name: str) -> None:
    turns = turns_of(name)
    for adds_bos in (True, False):
        text = write_modelfile("demo.gguf", turns, [], 512, adds_bos=adds_bos)
        assert ("template", write_go_template(turns, adds_bos=adds_bos)) in parse_modelfile(text)


@given(st.text())
def test_writes_a_system_message_unchanged_or_refuses_it(system: str) -> None:
    try:
        text = write_modelfile("demo.gguf", _PLAIN, ["x"], 512, adds_bos=True, system=system)
    except ConversionError:
        return
    assert dict(parse_modelfile(text)).get("system", "") == system


def test_spells_what_ollamas_parser_would_drop() -> None:
    family = Family(CHATML.replace("'\n'", "'\u00a0\u200d\U000e0020\\\\\\r\\t'"), bos="")
    text = write_modelfile("demo.gguf", family.turns(), [], 512, adds_bos=True)
    assert r'"<|im_start|>user\u00a0\u200d\U000e0020\\\r\t"' in dict(parse_modelfile(text))["template"]


@pytest.mark.parametrize(
    ("name", "system", "stop", "reason"),
    [
        (
            "Gemma 2",
            "be brief",
            "x",
            "quantization.system must be null for a chat template that takes no system message",
        ),
        ("ChatML", "a\u200db", "x", r"printable characters alone, quantization.system 'a\\u200db' has U\+200D"),
        ("ChatML", 'a"""  \nb', "x", 'ends a value at """ before a line break, and quantization.system .* has one'),
        ("ChatML", None, "\u0007", r"printable characters alone, a stop token '\\x07' has U\+0007"),
    ],
)
def test_refuses_what_a_modelfile_cannot_hold(name: str, system: str | None, stop: str, reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        write_modelfile("demo.gguf", turns_of(name), [stop], 512, adds_bos=True, system=system)


@pytest.mark.parametrize(
    ("template", "system", "conversations", "shown"),
    [
        (SMOLLM3, "Be brief. /no_think", [], "no_think.*, not 'think"),
        (SMOLLM3, None, [[{"role": "system", "content": "/no_think"}, *_ASKED]], "no_think.*, not 'think"),
        (CHATML.replace("m['content']", "m['content'].replace('sky', 'sea')"), None, [_ASKED], "'ea<.*, not 'ky<"),
        (CHATML.replace("m['content']", "m['content'].replace('🇫', '')"), None, [], "'<|im_end|>.*, not '🇫"),
    ],
    ids=["the-recipe's-system-message", "a-system-message-of-the-data", "a-question-of-the-data", "a-built-in-one"],
)
def test_refuses_a_template_that_looks_at_what_a_text_says(
    template: str, system: str | None, conversations: list[list[dict[str, str]]], shown: str, tmp_path: Path
) -> None:
    make_tokenizer(tmp_path, template)
    settings = QuantizationSection(system=system)
    with pytest.raises(
        ConversionError, match=rf"TEMPLATE must .*otherwise than with fixed texts in between: .*{shown}"
    ):
        describe_for_ollama(TrainedTokenizer(tmp_path), settings, ["a.gguf"], conversations, adds_bos=True)


def test_takes_a_template_that_looks_for_what_nobody_says(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, SMOLLM3)
    settings, trained = QuantizationSection(system="Be brief."), TrainedTokenizer(tmp_path)
    text = describe_for_ollama(trained, settings, ["a.gguf"], [_ASKED, _ASKED[1:]], adds_bos=True)
    assert ("system", "Be brief.") in parse_modelfile(text)


def test_takes_a_template_that_leaves_the_thoughts_of_earlier_answers_out(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, FAMILIES["Qwen3"].source)
    talk = [*_ASKED[:1], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nblue"}, *_ASKED]
    settings, trained = QuantizationSection(), TrainedTokenizer(tmp_path)
    assert "range" in describe_for_ollama(trained, settings, ["a.gguf"], [talk], adds_bos=True)


@pytest.mark.parametrize(("base", "told"), [(0, False), (4096, False), (4095, True)])
def test_tells_of_more_context_than_the_base_has(base: int, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_context(QuantizationSection(context_tokens=4096), base, LogReporter(logging.getLogger("context")))
    assert ("made for 4,095 tokens of context, and the Modelfile will ask for 4,096" in caplog.text) == told


def test_does_not_tell_of_the_context_of_a_modelfile_that_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_context(QuantizationSection(ollama=False), 512, LogReporter(logging.getLogger("context")))
    assert not caplog.text


_PLAIN = TurnFormat("", "", "", "", "", SystemFormat("", ""))
