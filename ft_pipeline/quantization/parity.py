"""The token contract on the other side: a GGUF must turn a conversation into the ids that the model was trained on.

Compared are the embedded template, its rendering, the ids, the number of BOS and the tokens that end a turn. BOS is
counted as llama.cpp's server does: a template that writes it gets no second one, and one that does not gets it when
the vocabulary adds it (common/chat.cpp, `add_bos`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.adversarial import list_texts
from ft_pipeline.quantization.known_differences import KnownDifferences
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline.quantization.trained_tokenizer import Conversation, TrainedTokenizer

_WINDOW = 6
_TEXT_WINDOW = 24
_KEPT_DIFFERENCES = 3


@dataclass(frozen=True)
class Reference:
    """A rendered conversation as trained.

    Attributes:
        is_built_in: It is one of the adversarial ones.
    """

    messages: Conversation
    add_generation_prompt: bool
    text: str
    ids: tuple[int, ...]
    is_built_in: bool = False


@dataclass(frozen=True)
class Difference:
    """A conversation that the GGUF reads otherwise.

    Attributes:
        text: The rendering around the first id that differs; `position` is its index.
        trained: Ids from there, each with its spelling; `gguf` has llama.cpp's.
    """

    text: str
    position: int
    trained: tuple[tuple[int, str], ...]
    gguf: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        trained, gguf = (" ".join(f"{i} {piece!r}" for i, piece in ids) for ids in (self.trained, self.gguf))
        return f"near {self.text!r}: at id {self.position} training has [{trained}], llama.cpp [{gguf}]"


@dataclass(frozen=True)
class KnownDifference:
    """Conversations that llama.cpp reads otherwise for a reason that no model folder can mend.

    Attributes:
        renderings: How many.
        given: How many of them are no adversarial ones but the caller's.
        example: One of them.
    """

    reason: str
    renderings: int
    given: int
    example: Difference


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
        different: Number of renderings with other ids, but for known reasons.
        differences: The first of them.
        known: Those with known reasons.
        built_in_different: Of the caller's conversations, renderings that llama.cpp's own list of templates, which
            programs without Jinja use, writes otherwise; None: it does not know the template.
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
    known: tuple[KnownDifference, ...] = ()
    built_in_different: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the file reads every conversation as it was trained."""
        return not self.failures and not self.different

    def describe(self) -> str:
        """What does not hold, in words."""
        problems = list(self.failures)
        if self.different:
            shown = "; ".join(map(str, self.differences))
            problems.append(f"{self.different} of {self.renderings} renderings differ: {shown}")
        return f"{self.file} must read a conversation as it was trained: {'; '.join(problems)}."

    def describe_known(self) -> list[str]:
        """The known differences in words."""
        return [
            f"{known.renderings} of {self.renderings} renderings ({known.given} of them of the data set's own "
            f"conversations) give other ids in llama.cpp, and no model folder can mend that: {known.reason}; "
            f"{known.example}"
            for known in self.known
        ]


def build_references(trained: TrainedTokenizer, conversations: Iterable[Conversation]) -> list[Reference]:
    """Render and tokenize conversations, and the built-in adversarial ones, as in training.

    A conversation that ends with an answer is taken whole and as the prompt that asks for it. Of the built-in ones
    those are left out that the template refuses (an empty message, a system message).
    """
    given = [reference for conversation in conversations for reference in _refer(trained, conversation)]
    built_in = [conversation for conversation in _adversarial(trained) if trained.accepts(conversation)]
    return given + [r for conversation in built_in for r in _refer(trained, conversation, is_built_in=True)]


def compare_tokens(gguf_file: Path, trained: TrainedTokenizer, references: Sequence[Reference]) -> ParityReport:
    """Read the references through a GGUF's own template and tokenizer.

    Raises:
        ConversionError: llama.cpp does not load the file.
    """
    with open_vocabulary(gguf_file) as vocabulary:
        reader = LlamaReader(vocabulary)
        failures = [*_compare_contract(reader, trained), *_compare_renderings(reader, references)]
        differing, known = _compare_ids(reader, trained, references)
        adds_bos, name = vocabulary.adds_bos, vocabulary.name
        built_in = _count_built_in(reader, trained.bos, references)
    return ParityReport(
        file=gguf_file.name,
        renderings=len(references),
        tokens=sum(len(reference.ids) for reference in references),
        bos_tokens=_count_leading(references[0].ids, trained.bos_id),
        adds_bos=adds_bos,
        name=name,
        failures=tuple(failures),
        different=len(differing),
        differences=tuple(differing[:_KEPT_DIFFERENCES]),
        known=tuple(known),
        built_in_different=built_in,
    )


def require_parity(report: ParityReport) -> None:
    """Raise unless a GGUF reads conversations as they were trained.

    Raises:
        ConversionError: it does not; the first differences are in the message.
    """
    if not report.holds:
        raise ConversionError(report.describe())


def _adversarial(trained: TrainedTokenizer) -> Iterator[list[dict[str, str]]]:
    for text in list_texts(trained.special_tokens):
        yield [_message("user", text), _message("assistant", text)]
    system = _message("system", " You are  terse.\n")
    question, answer = _message("user", "one"), _message("assistant", "two")
    yield [system, question, answer]
    yield [question, answer, _message("user", " three"), answer]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _refer(trained: TrainedTokenizer, messages: Conversation, *, is_built_in: bool = False) -> list[Reference]:
    answered = messages[-1]["role"] == "assistant"
    wanted = [(messages, False), (messages[:-1], True)] if answered else [(messages, True)]
    references = []
    for part, prompt in wanted:
        text = trained.render(part, add_generation_prompt=prompt)
        references.append(Reference(part, prompt, text, tuple(trained.encode(text)), is_built_in))
    return references


def _compare_contract(reader: LlamaReader, trained: TrainedTokenizer) -> list[str]:
    vocabulary, failures = reader.vocabulary, []
    if vocabulary.chat_template != trained.template:
        failures.append("its chat template is not the trained one")
    probe = _refer(trained, [_message("user", "one"), _message("assistant", "two")])[0]
    wanted = _count_leading(probe.ids, trained.bos_id)
    found = _count_leading(reader.encode(_render(reader, probe)), trained.bos_id)
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
    for token in trained.right_stripped:
        if reader.encode(f"{token}\nx") != trained.encode(f"{token}\nx"):
            return [
                *failures,
                f"the trained tokenizer drops the blanks after {token!r}; llama.cpp does so only for models with "
                "'phi-3' in their name: put it in the recipe's name",
            ]
    return failures


def _compare_renderings(reader: LlamaReader, references: Sequence[Reference]) -> list[str]:
    found = [(reference.text, _render(reader, reference)) for reference in references]
    other = [(wanted, text) for wanted, text in found if wanted != text]
    if not other:
        return []
    wanted, text = other[0]
    at = next((i for i, (a, b) in enumerate(zip(wanted, text, strict=False)) if a != b), min(len(wanted), len(text)))
    around = slice(max(0, at - _TEXT_WINDOW), at + _TEXT_WINDOW)
    return [
        f"its template renders {len(other)} of {len(references)} conversations otherwise, first at character {at}: "
        f"training has {wanted[around]!r}, llama.cpp {text[around]!r}"
    ]


def _compare_ids(
    reader: LlamaReader, trained: TrainedTokenizer, references: Sequence[Reference]
) -> tuple[list[Difference], list[KnownDifference]]:
    found = [(reference, reader.encode(_render(reader, reference))) for reference in references]
    differing = [(reference, ids) for reference, ids in found if list(reference.ids) != ids]
    if not differing:
        return [], []
    limits = KnownDifferences(trained, reader.encode)
    unknown: list[Difference] = []
    by_reason: dict[str, list[tuple[Reference, list[int]]]] = {}
    for reference, ids in differing:
        reason = limits.explain(reference.text)
        if reason is None:
            unknown.append(_find_difference(trained, reference, ids))
        else:
            by_reason.setdefault(reason, []).append((reference, ids))
    return unknown, [_count_known(trained, reason, cases) for reason, cases in by_reason.items()]


def _count_known(
    trained: TrainedTokenizer, reason: str, cases: Sequence[tuple[Reference, list[int]]]
) -> KnownDifference:
    given = sum(not reference.is_built_in for reference, _ in cases)
    return KnownDifference(reason, len(cases), given, _find_difference(trained, *cases[0]))


def _render(reader: LlamaReader, reference: Reference) -> str:
    return reader.render(reference.messages, add_generation_prompt=reference.add_generation_prompt)


def _count_built_in(reader: LlamaReader, bos: str, references: Sequence[Reference]) -> int | None:
    different = 0
    for reference in references:
        if reference.is_built_in:
            continue
        text = reader.render_built_in(reference.messages, add_generation_prompt=reference.add_generation_prompt)
        if text is None:
            return None
        different += text.removeprefix(bos) != reference.text.removeprefix(bos)
    return different


def _find_end_of_turn(trained: TrainedTokenizer, probe: Reference) -> int | None:
    """The first special token after the answer that ends a rendering."""
    after = probe.text.rpartition(probe.messages[-1]["content"])[2]
    present = [token for token in trained.special_tokens if token.strip() and token in after]
    return trained.token_id(min(present, key=after.index)) if present else None


def _count_leading(ids: Sequence[int], token: int | None) -> int:
    return next((i for i, found in enumerate(ids) if found != token), len(ids))


def _find_difference(trained: TrainedTokenizer, reference: Reference, ids: Sequence[int]) -> Difference:
    pairs = zip(reference.ids, ids, strict=False)
    shorter = min(len(reference.ids), len(ids))
    position = next((i for i, (one, other) in enumerate(pairs) if one != other), shorter)
    at = trained.find(reference.text, position)
    window = slice(position, position + _WINDOW)
    shown = [tuple(zip(side[window], trained.show(side[window]), strict=True)) for side in (reference.ids, ids)]
    return Difference(reference.text[max(0, at - _TEXT_WINDOW) : at + _TEXT_WINDOW], position, *shown)
