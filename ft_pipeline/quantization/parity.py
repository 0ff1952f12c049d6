"""The token contract on the other side: a GGUF must turn a conversation into the ids that the model was trained on.

Compared are the embedded template, its rendering, the ids, the number of BOS and the token that ends a turn. BOS is
counted as llama.cpp's server does: a template that writes it gets no second one, and one that does not gets it when
the vocabulary adds it (common/chat.cpp, `add_bos`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.llama_library import Vocabulary, open_vocabulary
from ft_pipeline.quantization.trained_tokenizer import Conversation, TrainedTokenizer

_WINDOW = 6
_KEPT_DIFFERENCES = 5
# Where tokenizers part: special tokens spelled in the text, blanks at either end and in the middle, line ends, scripts
# without blanks, emoji of several code points, bytes that no vocabulary holds. Two things are left out because no model
# folder can mend them: text that is not NFC (Qwen's tokenizers normalize, llama.cpp does not), and "</s>" where it is
# an ordinary token (llama-vocab.cpp takes it for a control token in any vocabulary).
ADVERSARIAL_TEXTS = (
    "",
    " ",
    "   ",
    " leading",
    "  two leading",
    "trailing ",
    "a  b   c",
    "\n",
    "\n\n\n",
    "line\nline",
    "line\r\nline\r\n",
    "tab\tand\t\ttabs",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<s>[INST] x [/INST]<unk><pad>",
    "<|begin_of_text|><|eot_id|><|end_of_text|><start_of_turn><end_of_turn><bos><eos>",
    "<0x0A><0xFF>",
    "▁metaspace▁▁twice",
    "1234567890 3.14 1,000,000",
    "D24472-B/17_x",
    '{"key": [1, 2.5, null], "nested": {"a": "b"}}',
    "don't we'll I'M",
    "naïve café ﬁ ½ ²",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "中文和English混合かなカナ한국어",
    "Привет, γειά, שלום, مرحبا, नमस्ते, สวัสดี",
    "\u200bzero\u200dwidth\ufeff\u00a0space",
    "\x01\x7f\u0085",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010fffd",
)


@dataclass(frozen=True)
class Reference:
    """A rendered conversation as trained."""

    messages: Conversation
    add_generation_prompt: bool
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A conversation that the GGUF reads otherwise.

    Attributes:
        text: The rendering as trained.
        position: Index of the first id that differs.
        trained: Ids around it.
        gguf: Likewise on llama.cpp's side.
    """

    text: str
    position: int
    trained: tuple[int, ...]
    gguf: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.text!r}: at id {self.position} training has {[*self.trained]}, llama.cpp {[*self.gguf]}"


@dataclass(frozen=True)
class ParityReport:
    """A GGUF file compared with the trained tokenizer.

    Attributes:
        renderings: Compared texts; two for a conversation that ends with an answer.
        tokens: Ids compared.
        bos_tokens: How many BOS a conversation begins with.
        adds_bos: llama.cpp writes BOS by itself.
        name: The file's general.name.
        failures: What does not hold, apart from the ids.
        different: Number of renderings with other ids.
        differences: The first of them.
    """

    file: str
    renderings: int
    tokens: int
    bos_tokens: int
    adds_bos: bool
    name: str | None
    failures: tuple[str, ...]
    different: int
    differences: tuple[Difference, ...]

    @property
    def holds(self) -> bool:
        """Whether the file reads every conversation as it was trained."""
        return not self.failures and not self.different


class _LlamaReader:
    """Renders with a GGUF's template, as llama-cpp-python does, and tokenizes with its vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self.vocabulary = vocabulary
        self._formatters = {
            prompt: Jinja2ChatFormatter(
                template=vocabulary.chat_template or "",
                bos_token=vocabulary.text(vocabulary.bos_id),
                eos_token=vocabulary.text(vocabulary.eos_id),
                add_generation_prompt=prompt,
            )
            for prompt in (False, True)
        }

    def encode(self, reference: Reference) -> list[int]:
        """Ids of a conversation."""
        messages = [dict(message) for message in reference.messages]
        ids = self.vocabulary.tokenize(self._formatters[reference.add_generation_prompt](messages=messages).prompt)
        bos = self.vocabulary.bos_id
        return [bos, *ids] if self.vocabulary.adds_bos and ids[:1] != [bos] else ids


def build_references(trained: TrainedTokenizer, conversations: Iterable[Conversation]) -> list[Reference]:
    """Render and tokenize conversations, and the built-in adversarial ones, as in training.

    A conversation that ends with an answer is taken whole and as the prompt that asks for it. Of the built-in ones
    those are left out that the template refuses (an empty message, a system message).
    """
    built_in = [conversation for conversation in _adversarial(trained) if trained.accepts(conversation)]
    return [reference for conversation in [*conversations, *built_in] for reference in _refer(trained, conversation)]


def compare_tokens(gguf_file: Path, trained: TrainedTokenizer, references: Sequence[Reference]) -> ParityReport:
    """Read the references through a GGUF's own template and tokenizer.

    Raises:
        ConversionError: llama.cpp does not load the file.
    """
    with open_vocabulary(gguf_file) as vocabulary:
        reader = _LlamaReader(vocabulary)
        failures = _compare_contract(reader, trained)
        found = [(reference, reader.encode(reference)) for reference in references]
        adds_bos, name = vocabulary.adds_bos, vocabulary.name
    differing = [(reference, ids) for reference, ids in found if list(reference.ids) != ids]
    return ParityReport(
        file=gguf_file.name,
        renderings=len(found),
        tokens=sum(len(reference.ids) for reference, _ in found),
        bos_tokens=_count_leading(references[0].ids, trained.bos_id),
        adds_bos=adds_bos,
        name=name,
        failures=tuple(failures),
        different=len(differing),
        differences=tuple(_find_difference(*pair) for pair in differing[:_KEPT_DIFFERENCES]),
    )


def require_parity(report: ParityReport) -> None:
    """Raise unless a GGUF reads conversations as they were trained.

    Raises:
        ConversionError: it does not; the first difference is in the message.
    """
    problems = list(report.failures)
    if report.different:
        problems.append(f"{report.different} of {report.renderings} renderings differ; {report.differences[0]}")
    if problems:
        raise ConversionError(f"{report.file} must read a conversation as it was trained: {'; '.join(problems)}.")


def _adversarial(trained: TrainedTokenizer) -> list[list[dict[str, str]]]:
    texts = [*ADVERSARIAL_TEXTS, " ".join(trained.special_tokens), "x".join(trained.special_tokens)]
    conversations = [[_message("user", text), _message("assistant", text)] for text in texts]
    system = _message("system", " You are  terse.\n")
    question, answer = _message("user", "one"), _message("assistant", "two")
    return [*conversations, [system, question, answer], [question, answer, _message("user", " three"), answer]]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _refer(trained: TrainedTokenizer, messages: Conversation) -> list[Reference]:
    answered = messages[-1]["role"] == "assistant"
    wanted = [(messages, False), (messages[:-1], True)] if answered else [(messages, True)]
    references = []
    for part, prompt in wanted:
        text = trained.render(part, add_generation_prompt=prompt)
        references.append(Reference(part, prompt, text, tuple(trained.encode(text))))
    return references


def _compare_contract(reader: _LlamaReader, trained: TrainedTokenizer) -> list[str]:
    vocabulary, failures = reader.vocabulary, []
    if vocabulary.chat_template != trained.template:
        failures.append("its chat template is not the trained one")
    probe = _refer(trained, [_message("user", "one"), _message("assistant", "two")])[0]
    wanted = _count_leading(probe.ids, trained.bos_id)
    found = _count_leading(reader.encode(probe), trained.bos_id)
    if found != wanted:
        failures.append(
            f"a conversation begins with {found} BOS and was trained with {wanted} "
            f"(set add_bos_token to {str(wanted == 1).lower()} in tokenizer_config.json)"
        )
    if wanted > 1:
        failures.append(f"it was trained with {wanted} BOS; a template that writes BOS needs a tokenizer that does not")
    ends = {token for token in (_find_end_of_turn(trained, probe), trained.eos_id) if token is not None}
    failures += [
        f"llama.cpp does not stop at {vocabulary.text(token)!r} (id {token})"
        for token in sorted(ends)
        if not vocabulary.ends_generation(token)
    ]
    return failures


def _find_end_of_turn(trained: TrainedTokenizer, probe: Reference) -> int | None:
    """The first special token after the answer that ends a rendering."""
    after = probe.text.rpartition(probe.messages[-1]["content"])[2]
    present = [token for token in trained.special_tokens if token in after]
    return trained.token_id(min(present, key=after.index)) if present else None


def _count_leading(ids: Sequence[int], token: int | None) -> int:
    return next((i for i, found in enumerate(ids) if found != token), len(ids))


def _find_difference(reference: Reference, ids: Sequence[int]) -> Difference:
    pairs = zip(reference.ids, ids, strict=False)
    shorter = min(len(reference.ids), len(ids))
    position = next((i for i, (trained, found) in enumerate(pairs) if trained != found), shorter)
    around = slice(max(0, position - 2), position + _WINDOW)
    return Difference(reference.text, position, tuple(reference.ids[around]), tuple(ids[around]))
