from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.chat import ChatEncoder, EncodedChat
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline_tests.evaluation.scored import make_row
from ft_pipeline_tests.evaluation.tiny_gguf import BOS, CHATML, END_OF_TURN, make_random_weights, write_gguf

NO_BOS = CHATML.removeprefix("{{ bos_token }}")
TWO_BOS = "{{ bos_token }}" + CHATML


def encode(folder: Path, template: str | None, row: EvaluationRow, *, add_bos: bool = True) -> EncodedChat:
    path = write_gguf(folder / "chat.gguf", make_random_weights(seed=0, layers=1), template=template, add_bos=add_bos)
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
        return encoder.encode(row)


@pytest.mark.parametrize(
    ("template", "add_bos", "expected"),
    [
        (CHATML, True, 1),
        (CHATML, False, 1),
        (NO_BOS, True, 1),
        (NO_BOS, False, 0),
        (TWO_BOS, True, 2),
        (TWO_BOS, False, 2),
    ],
)
def test_holds_as_many_bos_as_llama_cpps_server_makes_of_template_and_vocabulary(
    tmp_path: Path, template: str, add_bos: bool, expected: int
) -> None:
    chat = encode(tmp_path, template, make_row("sky", "blue"), add_bos=add_bos)
    assert (chat.prompt + chat.completion).count(BOS) == expected


def test_completion_ends_with_the_end_of_turn_and_not_with_what_the_template_writes_after_it(tmp_path: Path) -> None:
    chat = encode(tmp_path, CHATML, make_row("sky", "blue"))
    assert chat.completion[-1] == END_OF_TURN
    assert chat.completion.count(END_OF_TURN) == 1


def test_prompt_is_what_the_whole_conversation_begins_with(tmp_path: Path) -> None:
    row = make_row("what is the colour of the sky", "blue, the sky is blue")
    path = write_gguf(tmp_path / "chat.gguf", make_random_weights(seed=0, layers=1))
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
        chat = encoder.encode(row)
        text = model.decode_text(chat.prompt + chat.completion)
    assert text.endswith("assistant\nblue, the sky is blue")


def test_a_template_that_renders_an_answered_turn_unlike_an_open_one_still_scores_the_answer(tmp_path: Path) -> None:
    template = CHATML.replace("assistant\n'", "assistant\n<think>'")
    chat = encode(tmp_path, template, make_row("sky", "blue"))
    plain = encode(tmp_path, CHATML, make_row("sky", "blue"))
    assert chat.completion == plain.completion
    assert len(chat.prompt) > len(plain.prompt)


@pytest.mark.parametrize("reference", ["end", "d", "|", "im", "t", "<thin", "0", "00", "what", ""])
def test_an_answer_that_stands_elsewhere_too_is_found_where_it_is_given(tmp_path: Path, reference: str) -> None:
    # The question is rendered otherwise too once it is answered.
    template = CHATML.replace("assistant\n'", "assistant\n<think>'").replace(
        "m['content'] +", "m['content'] + ('' if messages | length > 1 else '!') +"
    )
    row = make_row("what end", reference)
    assert encode(tmp_path, template, row).completion == encode(tmp_path, CHATML, row).completion


def test_control_tokens_in_user_text_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    chat = encode(tmp_path, CHATML, make_row("<|im_end|>{{ 7 * 7 }}<script>", "blue"))
    assert chat.prompt.count(END_OF_TURN) == 2
    assert chat.completion[-1] == END_OF_TURN


def test_templates_in_user_text_are_not_rendered(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "chat.gguf", make_random_weights(seed=0, layers=1))
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
        chat = encoder.encode(make_row("{{ 7 * 7 }}", "{% raw %}"))
        text = model.decode_text(chat.prompt + chat.completion)
    assert "{{ 7 * 7 }}" in text
    assert text.endswith("{% raw %}")


def test_does_not_depend_on_the_day(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y') }}" + NO_BOS
    path = write_gguf(tmp_path / "chat.gguf", make_random_weights(seed=0, layers=1), template=template)
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
        chat = encoder.encode(make_row("sky", "blue"))
        assert model.decode_text(chat.prompt).startswith("01 Jan 2025")


def test_refuses_a_gguf_without_a_chat_template(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"must carry a chat template; .*chat\.gguf has none"):
        encode(tmp_path, None, make_row("sky", "blue"))


def test_says_which_row_comes_first_where_a_template_is_no_jinja(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"rows\.jsonl:1: .*chat\.gguf must render .* cannot read the template"):
        encode(tmp_path, "{% if %}", make_row("sky", "blue"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no user here') }}",
        "{{ messages[0]['content'] | no_such_filter }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_says_which_row_a_template_refuses(tmp_path: Path, template: str) -> None:
    with pytest.raises(EvaluationError, match=r"data/rows\.jsonl:1: the chat template .* must render every row"):
        encode(tmp_path, template, make_row("sky", "blue"))


def test_refuses_a_template_that_leaves_the_answer_out(tmp_path: Path) -> None:
    template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    with pytest.raises(EvaluationError, match=r"data/rows\.jsonl:1: .* must write the answer"):
        encode(tmp_path, template, make_row("sky", "blue"))


def test_reads_a_conversation_as_the_reader_that_parity_proves(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "chat.gguf", make_random_weights(seed=0, layers=1))
    row = make_row("what is the colour of the sky", "blue")
    messages = [{"role": message["role"], "content": message["content"]} for message in row.messages]
    with open_vocabulary(path) as vocabulary, LlamaReader(vocabulary) as reader:
        expected = reader.encode(reader.render(messages, add_generation_prompt=False))
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
        chat = encoder.encode(row)
    ids = chat.prompt + chat.completion
    assert ids == expected[: len(ids)]
