"""The files that ship: GGUFs in the recipe's types, checked in llama.cpp, and what a person's runtime needs besides."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ft_pipeline.durable import sync
from ft_pipeline.errors import ConversionError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.files import NAME_PATTERN, gguf_file_name
from ft_pipeline.quantization.imatrix import read_importance, to_gguf_names
from ft_pipeline.quantization.llama_library import load_fully
from ft_pipeline.quantization.metadata import Provenance, lineage_keys
from ft_pipeline.quantization.parity import ParityReport, compare_tokens
from ft_pipeline.quantization.quantize import QuantizedFile, quantize_gguf
from ft_pipeline.quantization.references import Reference, build_references
from ft_pipeline.quantization.runtime_files import MODEL_CARD, MODELFILE, describe_for_ollama, write_card, write_lora
from ft_pipeline.quantization.shipped import ShippedFile, count_figures, judge_parity, list_files
from ft_pipeline.quantization.split import split_gguf
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.types import uses_importance
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Scalar, Summary

_BACKGROUND_THREADS = 5
_SWITCH_SECONDS = 0.0005
_SHOWN = 3


class GgufRequest(BaseModel):
    """What to make, and where.

    Attributes:
        f16: The model as a 16-bit GGUF.
        model: Its folder, for the tokenizer and the chat template as trained.
        name: The GGUF's general.name and the stem of its file name.
        settings: Types and what belongs to them; the first type is the one that is published.
        out_dir: Folder for the files.
        parity_conversations: Conversations (role and content) on which every file must give the trained ids.
        importance: Folder with the importance matrix of the training; None: there is none.
        adapter: PEFT adapter folder, to be shipped as a LoRA GGUF too; None: only the GGUFs are made.
        base: Folder of the base, for the same.
        provenance: What model card and metadata say of where the files come from.
        converter: llama.cpp's converter; None: where `make setup` put it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    f16: Path
    model: Path
    name: str = Field(pattern=NAME_PATTERN)
    settings: QuantizationSection
    out_dir: Path
    parity_conversations: tuple[tuple[dict[str, str], ...], ...] = ()
    importance: Path | None = None
    adapter: Path | None = None
    base: Path | None = None
    provenance: Provenance | None = None
    converter: Path | None = None


def build_gguf(request: GgufRequest, reporter: Reporter) -> Summary:
    """Quantize a model and check what was made; write `<name>-<type>.gguf` for each type, and the runtime's files.

    A file that reads a conversation otherwise than it was trained fails the check `token_parity`; it is kept, for
    people to look at, and nothing is evaluated or published.

    Raises:
        ConversionError: llama.cpp cannot make or load a file, or the chat template cannot be written for Ollama.
        DiskSpaceError: the disk became full.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(_BACKGROUND_THREADS) as pool, _switching_often():
        # Loading a tokenizer takes seconds, nearly all for imports: on another core, while the first type is made.
        reading = pool.submit(_read_trained, request)
        # A process of its own that takes as long to start, and needs nothing of what is made here.
        lora = pool.submit(_write_lora, request, reporter)
        importance = _read_importance(request, reporter)
        shipped = [
            _make(request, type_name, index, importance, reporter)
            for index, type_name in enumerate(request.settings.types)
        ]
        parts = [part for file in shipped for part in file.parts]
        # hashlib and fsync let other threads run: meanwhile llama.cpp reads the files.
        flushing = [pool.submit(sync, part) for part in parts]
        hashing = {part.name: pool.submit(hash_file, part) for part in parts}
        trained, references = reading.result()
        parity = [compare_tokens(file.first, trained, references) for file in shipped]
        parameters = load_fully(shipped[0].first)
        table = list_files(shipped, parameters)
        extra = _write_beside(request, trained, shipped[0], table, lora.result(), adds_bos=parity[0].adds_bos)
        sha256 = {name: future.result() for name, future in hashing.items()}
        for flush in flushing:
            flush.result()
    _report_parity(request, parity, reporter)
    figures = count_figures(len(request.parity_conversations), shipped, parity, parameters) | {
        "wall_seconds": time.monotonic() - started
    }
    return Summary(
        figures=figures,
        tables={"files": table},
        files={**extra, **{file.made.type: file.first.name for file in shipped}},
        checks=[judge_parity(parity)],
        sha256=sha256,
    )


def _read_trained(request: GgufRequest) -> tuple[TrainedTokenizer, list[Reference]]:
    # The check before training has rendered the same conversations by the same template within its limits; here the
    # quantizer works beside it, and needs its memory.
    trained = TrainedTokenizer(request.model, is_limited=False)
    return trained, build_references(trained, request.parity_conversations)


@contextmanager
def _switching_often() -> Iterator[None]:
    """Have Python's threads give way after half a millisecond, not five.

    llama.cpp tells of each tensor by calling Python, and would wait so long each time for a thread that imports.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _read_importance(request: GgufRequest, reporter: Reporter) -> Mapping[str, Any] | None:
    wanted = [name for name in request.settings.types if _uses_importance(request, name)]
    if request.importance is None or not wanted:
        return None
    found = read_importance(request.importance)
    if found is None:
        reporter.warning(
            f"{', '.join(wanted)} would gain from an importance matrix, and the training has made none "
            "(training.importance_tokens)"
        )
        return None
    return to_gguf_names(found, request.f16, reporter.warning)


def _uses_importance(request: GgufRequest, type_name: str) -> bool:
    return uses_importance(type_name, request.settings.tensor_types, request.settings.imatrix)


def _make(
    request: GgufRequest, type_name: str, index: int, importance: Mapping[str, Any] | None, reporter: Reporter
) -> ShippedFile:
    target, settings = request.out_dir / gguf_file_name(request.name, type_name), request.settings
    if request.f16.name == target.name:
        return _share_f16(request, type_name)
    used = importance if _uses_importance(request, type_name) else None

    def tell(done: int, total: int, _tensor: str) -> None:
        reporter.progress(index * total + done, len(settings.types) * total)

    made = quantize_gguf(
        request.f16,
        target,
        type_name,
        importance=used,
        tensor_types=settings.tensor_types,
        metadata=lineage_keys(request.provenance) if request.provenance else {},
        progress=tell,
    )
    reporter.info(
        f"{type_name}: {made.size_bytes:,} bytes ({made.predicted_bytes:,} predicted) in {made.wall_seconds:.1f} s"
        + (", with the importance matrix" if used else "")
    )
    _tell_fallbacks(made, reporter)
    return ShippedFile(made, _split(request, target), used is not None)


def _share_f16(request: GgufRequest, type_name: str) -> ShippedFile:
    """The 16-bit file is there already; the same bytes under another name, where the disk can."""
    target = request.out_dir / request.f16.name
    try:
        os.link(request.f16, target)
    except OSError:
        shutil.copyfile(request.f16, target)
    size = target.stat().st_size
    return ShippedFile(QuantizedFile(type_name, target, size, 0.0, (), size), _split(request, target), False)


def _split(request: GgufRequest, path: Path) -> tuple[Path, ...]:
    limit = request.settings.split_gib
    return (path,) if limit is None else tuple(split_gguf(path, int(limit * 2**30)))


def _tell_fallbacks(made: QuantizedFile, reporter: Reporter) -> None:
    if made.fallbacks:
        shown = ", ".join(f"{f.tensor} {f.wanted} -> {f.used}" for f in made.fallbacks[:_SHOWN])
        more = ", ..." if len(made.fallbacks) > _SHOWN else ""
        reporter.info(
            f"{made.type}: {len(made.fallbacks)} tensors have rows that are no multiple of their type's block and take "
            f"another: {shown}{more}"
        )


def _write_lora(request: GgufRequest, reporter: Reporter) -> str | None:
    """The file of the adapter alone; None: none is made."""
    if not (request.settings.lora_gguf and request.provenance and request.adapter and request.base):
        return None
    file = request.out_dir / f"{request.name}-lora-F16.gguf"
    is_written = write_lora(request.adapter, request.base, file, request.provenance, request.converter, reporter)
    return file.name if is_written else None


def _write_beside(
    request: GgufRequest,
    trained: TrainedTokenizer,
    published: ShippedFile,
    table: Sequence[Mapping[str, Scalar]],
    lora: str | None,
    *,
    adds_bos: bool,
) -> dict[str, str]:
    """What a runtime needs besides, for a model that ships.

    Returns:
        Label to file name.
    """
    if request.provenance is None:
        return {}
    files = {"model card": MODEL_CARD}
    if request.settings.ollama:
        text = describe_for_ollama(
            trained,
            request.settings,
            [part.name for part in published.parts],
            request.parity_conversations,
            adds_bos=adds_bos,
        )
        (request.out_dir / MODELFILE).write_text(text, encoding="utf-8", newline="\n")
        files["Modelfile"] = MODELFILE
    if lora:
        files["LoRA"] = lora
    write_card(request.out_dir, request.provenance, table, lora)
    return files


def _report_parity(request: GgufRequest, parity: Sequence[ParityReport], reporter: Reporter) -> None:
    for report in parity:
        if report.name != request.name:
            raise ConversionError(f"{report.file} must be named {request.name!r} in its metadata, is {report.name!r}.")
        if not report.holds:
            reporter.warning(report.describe())
    for sentence in parity[0].describe_known():
        reporter.warning(sentence)
    if all(report.holds for report in parity):
        reporter.info(f"{parity[0].renderings} renderings give the same ids in llama.cpp as in training, in each file")
