"""The merged model becomes the files that ship: GGUFs in the recipe's types, checked in llama.cpp, and a Modelfile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ft_pipeline.errors import ConversionError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.convert import Conversion, check_converter, default_converter
from ft_pipeline.quantization.llama_library import load_fully
from ft_pipeline.quantization.modelfile import find_stops, write_modelfile
from ft_pipeline.quantization.parity import ParityReport, Reference, build_references, compare_tokens, require_parity
from ft_pipeline.quantization.quantize import QuantizedFile, quantize_gguf
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.turns import TemplateShapeError, TurnFormat, derive_turn_format
from ft_pipeline.quantization.types import check_types
from ft_pipeline.summary import Check, Scalar, Summary

MODELFILE = "Modelfile"
_F16 = "F16"
_SHOWN = 3


def _known_types(names: tuple[str, ...]) -> tuple[str, ...]:
    check_types(names)
    return names


class GgufRequest(BaseModel):
    """What to make, and where.

    Attributes:
        model: Folder of a 16-bit safetensors model with its tokenizer and chat template.
        types: Quantization types; the first one is published and gets the Modelfile.
        name: The GGUF's general.name and the stem of its file name.
        context_tokens: num_ctx of the Modelfile.
        out_dir: Folder for the files.
        converter: llama.cpp's converter; None: where `make setup` put it.
        parity_conversations: Conversations (role and content) on which every file must give the trained ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    types: Annotated[tuple[str, ...], AfterValidator(_known_types)] = Field(min_length=1)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    context_tokens: int = Field(ge=1)
    out_dir: Path
    converter: Path | None = None
    parity_conversations: tuple[tuple[dict[str, str], ...], ...] = ()


def gguf_file_name(name: str, type_name: str) -> str:
    """The name of a GGUF file, e.g. demo-Q4_K_M.gguf."""
    return f"{name}-{type_name}.gguf"


def build_gguf(request: GgufRequest, reporter: Reporter) -> Summary:
    """Convert, quantize and check a model; write `<name>-<type>.gguf` for each type and a Modelfile for the first.

    Raises:
        EnvironmentMismatch: llama.cpp's converter is missing or of another version than the library.
        ConversionError: the model cannot be converted or quantized, or a file reads a conversation otherwise than it
            was trained.
    """
    started = time.monotonic()
    steps = 1 + 2 * len(request.types)
    trained, references, f16 = _convert(request, reporter)
    reporter.progress(1, steps, wall_seconds=f16.wall_seconds)
    files = []
    for done, type_name in enumerate(request.types, start=2):
        files.append(_quantize(request, f16, type_name, reporter))
        reporter.progress(done, steps, size_bytes=files[-1].size_bytes, wall_seconds=files[-1].wall_seconds)
    if _F16 not in request.types:
        f16.path.unlink()
    reports = []
    for done, file in enumerate(files, start=2 + len(files)):
        reports.append(_check_file(file, request.name, trained, references))
        reporter.progress(done, steps)
    parameters = load_fully(files[0].path)
    reporter.info(f"{len(references)} renderings give the same ids in llama.cpp as in training, in each file")
    _write_modelfile(request, trained, reports[0].adds_bos, reporter)
    return _summarize(request, f16, files, reports, parameters, time.monotonic() - started)


def _convert(request: GgufRequest, reporter: Reporter) -> tuple[TrainedTokenizer, list[Reference], QuantizedFile]:
    tree = request.converter or default_converter()
    check_converter(tree)
    path = request.out_dir / gguf_file_name(request.name, _F16)
    started = time.monotonic()
    reporter.info(f"converting {request.model.name} to an f16 GGUF")
    with Conversion(request.model, path, request.name, tree) as conversion:
        # Meanwhile, on another core: what training makes of the conversations.
        trained = TrainedTokenizer(request.model)
        references = build_references(trained, request.parity_conversations)
        conversion.wait()
    return trained, references, QuantizedFile(_F16, path, path.stat().st_size, time.monotonic() - started)


def _quantize(request: GgufRequest, f16: QuantizedFile, type_name: str, reporter: Reporter) -> QuantizedFile:
    if type_name == _F16:
        return f16
    file = quantize_gguf(f16.path, request.out_dir / gguf_file_name(request.name, type_name), type_name)
    reporter.info(f"{type_name}: {file.size_bytes:,} bytes in {file.wall_seconds:.1f} s")
    if file.fallbacks:
        shown = ", ".join(f"{f.tensor} {f.wanted} -> {f.used}" for f in file.fallbacks[:_SHOWN])
        more = ", ..." if len(file.fallbacks) > _SHOWN else ""
        reporter.info(
            f"{type_name}: {len(file.fallbacks)} tensors have rows that are no multiple of 256 and take a larger type: "
            f"{shown}{more}"
        )
    return file


def _check_file(file: QuantizedFile, name: str, trained: TrainedTokenizer, references: list[Reference]) -> ParityReport:
    report = compare_tokens(file.path, trained, references)
    require_parity(report)
    if report.name != name:
        raise ConversionError(f"{file.path.name} must be named {name!r} in its metadata, is {report.name!r}.")
    return report


def _write_modelfile(request: GgufRequest, trained: TrainedTokenizer, adds_bos: bool, reporter: Reporter) -> None:
    first = gguf_file_name(request.name, request.types[0])
    turns: TurnFormat | None = None
    try:
        turns = derive_turn_format(trained.render, trained.bos)
    except TemplateShapeError as err:
        reporter.warning(
            f"the chat template cannot be written as Ollama's TEMPLATE: {err}. The Modelfile has none: use an "
            "Ollama that reads the GGUF's own template, or write a TEMPLATE by hand and compare its prompts."
        )
    stops = find_stops(turns, trained.special_tokens, trained.eos) if turns else [trained.eos]
    text = write_modelfile(first, turns, stops, request.context_tokens, adds_bos=adds_bos)
    (request.out_dir / MODELFILE).write_text(text, encoding="utf-8")
    if turns and turns.trims:
        reporter.info("the chat template strips blanks around a message; Ollama's TEMPLATE cannot, and keeps them")
    if "strftime_now" in trained.template:
        reporter.warning("the chat template writes today's date; the Modelfile's TEMPLATE keeps the date of this build")


def _summarize(
    request: GgufRequest,
    f16: QuantizedFile,
    files: list[QuantizedFile],
    reports: list[ParityReport],
    parameters: int,
    wall_seconds: float,
) -> Summary:
    rows: list[dict[str, Scalar]] = [
        {
            "type": file.type,
            "file": file.path.name,
            "size_bytes": file.size_bytes,
            "bits_per_weight": round(8 * file.size_bytes / parameters, 2),
            "fallback_tensors": len(file.fallbacks),
            "quantize_seconds": 0.0 if file.type == _F16 else round(file.wall_seconds, 2),
        }
        for file in files
    ]
    quantized = [file for file in files if file.type != _F16]
    return Summary(
        figures={
            "size_bytes": files[0].size_bytes,
            "parameters": parameters,
            "convert_seconds": f16.wall_seconds,
            "quantize_seconds": sum(file.wall_seconds for file in quantized),
            "wall_seconds": wall_seconds,
            "fallback_tensors": sum(len(file.fallbacks) for file in files),
            "parity_conversations": len(request.parity_conversations),
            "parity_renderings": reports[0].renderings,
            "parity_tokens": reports[0].tokens,
            "bos_tokens": reports[0].bos_tokens,
        },
        tables={"files": rows},
        files={MODELFILE: MODELFILE} | {file.type: file.path.name for file in files},
        checks=[
            Check(
                name="token_parity",
                passed=all(report.holds for report in reports),
                blocking=True,
                value=sum(report.different for report in reports),
                limit=0,
                detail=f"{reports[0].renderings} renderings, in each of {len(reports)} files",
            )
        ],
    )
