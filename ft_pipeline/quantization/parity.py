"""The token contract on the other side: a GGUF must turn a conversation into the ids that the model was trained on.

Compared are the embedded template, its rendering by llama.cpp's own engine, the ids, the number of BOS and the tokens
that end a turn. BOS is counted as llama.cpp's server does: a template that writes it gets no second one, and one that
does not gets it when the vocabulary adds it (common/chat.cpp, `add_bos`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.known_differences import KnownDifferences
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline.quantization.references import Reference, probe
from ft_pipeline.quantization.rendering_differences import RenderingDifferences
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer

_WINDOW = 6
_TEXT_WINDOW = 24
_KEPT_DIFFERENCES = 3


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


def compare_tokens(gguf_file: Path, trained: TrainedTokenizer, references: Sequence[Reference]) -> ParityReport:
    """Read the references through a GGUF's own template and tokenizer.

    Where the texts are equal, so is what the tokenizer reads: ids are those of training's texts.

    Raises:
        ConversionError: llama.cpp does not load the file.
        EnvironmentMismatch: llama.cpp's template engine is missing or of another version than the library.
    """
    with open_vocabulary(gguf_file) as vocabulary, LlamaReader(vocabulary) as reader:
        failures = _compare_contract(reader, trained)
        other, known_texts = _compare_renderings(reader, trained, references)
        differing, known_ids = _compare_ids(reader, trained, references)
        adds_bos, name = vocabulary.adds_bos, vocabulary.name
        built_in = _count_built_in(reader, trained.bos, references)
    return ParityReport(
        file=gguf_file.name,
        renderings=len(references),
        tokens=sum(len(reference.ids) for reference in references),
        bos_tokens=_count_leading(references[0].ids, trained.bos_id),
        adds_bos=adds_bos,
        name=name,
        failures=(*failures, *other),
        different=len(differing),
        differences=tuple(differing[:_KEPT_DIFFERENCES]),
        known=(*known_texts, *known_ids),
        built_in_different=built_in,
    )


def require_parity(report: ParityReport) -> None:
    """Raise unless a GGUF reads conversations as they were trained.

    Raises:
        ConversionError: it does not; the first differences are in the message.
    """
    if not report.holds:
        raise ConversionError(report.describe())


def _compare_contract(reader: LlamaReader, trained: TrainedTokenizer) -> list[str]:
    vocabulary, failures = reader.vocabulary, []
    if vocabulary.chat_template != trained.template:
        failures.append("its chat template is not the trained one")
    plain = probe(trained)
    wanted = _count_leading(plain.ids, trained.bos_id)
    found = _count_leading(reader.encode(plain.text), trained.bos_id)
    if found != wanted:
        failures.append(
            f"a conversation begins with {found} BOS and was trained with {wanted} "
            f"(set add_bos_token to {str(wanted == 1).lower()} in tokenizer_config.json)"
        )
    if wanted > 1:
        failures.append(f"it was trained with {wanted} BOS; a template that writes BOS needs a tokenizer that does not")
    if vocabulary.adds_eos:
        failures.append(
            "llama.cpp ends a prompt with EOS, and training did not (set add_eos_token to false in "
            "tokenizer_config.json)"
        )
    ends = {token for token in (_find_end_of_turn(trained, plain), trained.eos_id) if token is not None}
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


def _compare_renderings(
    reader: LlamaReader, trained: TrainedTokenizer, references: Sequence[Reference]
) -> tuple[list[str], list[KnownDifference]]:
    limits = RenderingDifferences(trained, reader)
    refused: list[str] = []
    unknown: list[tuple[Reference, str]] = []
    by_reason: dict[str, list[tuple[Reference, list[int]]]] = {}
    for reference in references:
        try:
            text = reader.render(reference.messages, add_generation_prompt=reference.add_generation_prompt)
        except ConversionError as err:
            refused.append(str(err))
            continue
        if text == reference.text:
            continue
        if reason := limits.explain(reference):
            by_reason.setdefault(reason, []).append((reference, reader.encode(text)))
        else:
            unknown.append((reference, text))
    failures = [_show_refused(refused, len(references))] if refused else []
    failures += [_show_other(unknown, len(references))] if unknown else []
    return failures, [_count_known(trained, reason, cases) for reason, cases in by_reason.items()]


def _show_refused(reasons: Sequence[str], count: int) -> str:
    return f"llama.cpp does not render {len(reasons)} of {count} conversations that training renders: {reasons[0]}"


def _show_other(cases: Sequence[tuple[Reference, str]], count: int) -> str:
    wanted, text = cases[0][0].text, cases[0][1]
    at = next((i for i, (a, b) in enumerate(zip(wanted, text, strict=False)) if a != b), min(len(wanted), len(text)))
    around = slice(max(0, at - _TEXT_WINDOW), at + _TEXT_WINDOW)
    return (
        f"its template renders {len(cases)} of {count} conversations otherwise, first at character {at}: "
        f"training has {wanted[around]!r}, llama.cpp {text[around]!r}"
    )


def _compare_ids(
    reader: LlamaReader, trained: TrainedTokenizer, references: Sequence[Reference]
) -> tuple[list[Difference], list[KnownDifference]]:
    found = [(reference, reader.encode(reference.text)) for reference in references]
    differing = [(reference, ids) for reference, ids in found if list(reference.ids) != ids]
    if not differing:
        return [], []
    limits = KnownDifferences(trained, reader.encode)
    unknown: list[Difference] = []
    by_reason: dict[str, list[tuple[Reference, list[int]]]] = {}
    for reference, ids in differing:
        reason = limits.explain(reference)
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


def _find_end_of_turn(trained: TrainedTokenizer, plain: Reference) -> int | None:
    """The first special token after the answer that ends a rendering, as in `datasets/contract.py`."""
    after = plain.text.rpartition(plain.messages[-1]["content"])[2]
    present = [token for token in trained.stop_candidates if token.strip() and token in after]
    return trained.token_id(min(present, key=lambda token: (after.index(token), -len(token)))) if present else None


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
