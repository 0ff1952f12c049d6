"""What would end an export after hours of training, found out before it: the base is put through it without weights.

Training copies tokenizer and chat template of the base unchanged, so what llama.cpp makes of them now is what it will
make of them then.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import BaseModelError, MemoryBudgetError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.convert import Conversion, check_converter, default_converter
from ft_pipeline.quantization.disk_need import count_memory_bytes, export_bytes
from ft_pipeline.quantization.files import NAME_PATTERN, unquantized_type
from ft_pipeline.quantization.host_memory import available_memory_bytes
from ft_pipeline.quantization.parity import ParityReport, compare_tokens, require_parity
from ft_pipeline.quantization.plan import make_plan
from ft_pipeline.quantization.references import build_references
from ft_pipeline.quantization.runtime_files import describe_for_ollama, warn_of_context
from ft_pipeline.quantization.skeleton import require_loadable, write_skeleton
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.types import BLOCKS, TYPES, find_need
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Check, Scalar, Summary

UNQUANTIZED_BYTES = "unquantized_bytes"
_NEEDED_DISK, _NEEDED_MEMORY = "needed_disk_bytes", "needed_memory_bytes"
_GIB = 2**30


class ExportCheckRequest(BaseModel):
    """What will be exported, and how.

    Attributes:
        base: Folder of the 16-bit base with its tokenizer and chat template.
        name: The GGUF's general.name; llama.cpp reads some families' tokens by it.
        settings: The recipe's.
        dtype: Type of the merged weights.
        out_dir: Folder for files that are removed again.
        converter: llama.cpp's converter; None: where `make setup` put it.
        parity_conversations: Conversations (role and content) that must give the trained ids, besides built-in ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    name: str = Field(pattern=NAME_PATTERN)
    settings: QuantizationSection
    dtype: str = "float16"
    out_dir: Path
    converter: Path | None = None
    parity_conversations: tuple[tuple[dict[str, str], ...], ...] = ()


def check_export(request: ExportCheckRequest, reporter: Reporter) -> Summary:
    """Put a base through converter, library, token parity, Ollama's template and the quantizer's plan, without weights.

    What it finds depends on the base and the recipe alone; `require_room` asks for what depends on the moment.

    Raises:
        EnvironmentMismatch: llama.cpp's converter is missing or of another version than the library.
        BaseModelError: the base's config.json is damaged or of a family that cannot be trained.
        ConversionError: llama.cpp does not take the base, reads its tokens otherwise than training does, or Ollama's
            TEMPLATE cannot give its prompts.
    """
    started = time.monotonic()
    architecture = _read_architecture(request.base)
    warn_of_context(request.settings, architecture.context_tokens, reporter)
    vocabulary, skeleton = request.out_dir / "vocabulary.gguf", request.out_dir / "skeleton.gguf"
    try:
        report = _check_tokens(request, vocabulary, reporter)
        dtype = unquantized_type(request.dtype)
        write_skeleton(vocabulary, skeleton, architecture, dtype.lower())
        require_loadable(skeleton)
        rows = _plan_files(request.settings, skeleton, architecture)
        unquantized = skeleton.stat().st_size
    finally:
        vocabulary.unlink(missing_ok=True)
        skeleton.unlink(missing_ok=True)
    _tell(report, rows, reporter)
    return _summarize(request, architecture, report, rows, unquantized, time.monotonic() - started)


def require_room(folder: Path, checked: Summary, *, there_bytes: int = 0) -> None:
    """See that disk and memory suffice now for what `check_export` has counted.

    Args:
        folder: Where artifacts are written.
        checked: Of `check_export`.
        there_bytes: What of it is on the disk already.

    Raises:
        DiskSpaceError: the disk does not hold merged model, 16-bit GGUFs and all types.
        MemoryBudgetError: the machine, or the limit of its control group, has too little memory left.
    """
    needed_disk = int(checked.figures[_NEEDED_DISK] or 0) - there_bytes
    require_space(folder, max(0, needed_disk), "merging, converting and quantizing")
    available = available_memory_bytes()
    for row in checked.tables["memory"]:
        needed = int(row["needed_bytes"] or 0)
        if needed > available:
            raise MemoryBudgetError(
                f"the step {row['step']!r} of the export takes {needed / _GIB:.2f} GiB of memory, "
                f"{available / _GIB:.2f} GiB are available: {(needed - available) / _GIB:.2f} GiB short. End other "
                "programs, raise the container's limit, or take a base with a smaller vocabulary."
            )


def _read_architecture(base: Path) -> Architecture:
    path = base / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BaseModelError(f"a base must have a config.json that is JSON; {path}: {err}. Fetch it again.") from err
    return read_architecture(config)


def _check_tokens(request: ExportCheckRequest, vocabulary: Path, reporter: Reporter) -> ParityReport:
    tree = request.converter or default_converter()
    check_converter(tree)
    reporter.info(f"converting the vocabulary of {request.base.name} by llama.cpp, to see whether it takes the base")
    with Conversion(request.base, vocabulary, request.name, tree, vocab_only=True) as conversion:
        # Meanwhile, on another core: what training makes of the conversations.
        trained = TrainedTokenizer(request.base)
        references = build_references(trained, request.parity_conversations)
        conversion.wait()
    report = compare_tokens(vocabulary, trained, references)
    require_parity(report)
    if request.settings.ollama:
        describe_for_ollama(
            trained, request.settings, [vocabulary.name], request.parity_conversations, adds_bos=report.adds_bos
        )
    return report


def _plan_files(settings: QuantizationSection, skeleton: Path, architecture: Architecture) -> list[dict[str, Scalar]]:
    """A row for each type, if all of it can be made."""
    rows: list[dict[str, Scalar]] = []
    for name in settings.types:
        need = find_need(name, settings.tensor_types)
        is_measured = need == "required" or (need == "gains" and settings.imatrix != "never")
        plan = make_plan(skeleton, name, {"any": 1.0} if is_measured else None, settings.tensor_types)
        # Training measures the inputs of each linear layer.
        plan.require_entries([t.name for t in plan.tensors if t.is_matrix and not t.is_embedding and is_measured])
        if settings.split_gib is not None:
            plan.require_parts(int(settings.split_gib * 2**30))
        columns = [tensor.shape[0] for tensor in plan.changing]
        rows.append(
            {
                "type": name,
                "predicted_bytes": plan.size_bytes,
                "bits_per_weight": round(8 * plan.size_bytes / architecture.total_parameters, 2),
                "fallback_tensors": sum(count % BLOCKS[TYPES[name].block].weights != 0 for count in columns),
            }
        )
    return rows


def _tell(report: ParityReport, rows: list[dict[str, Scalar]], reporter: Reporter) -> None:
    for words in report.describe_known():
        reporter.warning(words)
    for row in rows:
        if row["fallback_tensors"]:
            fallback = TYPES[str(row["type"])].fallback
            reporter.warning(
                f"{row['type']}: {row['fallback_tensors']} tensors of this base have rows that are no multiple of the "
                f"type's block and take {fallback} or more instead: {row['bits_per_weight']} bits per weight"
            )


def _summarize(
    request: ExportCheckRequest,
    architecture: Architecture,
    report: ParityReport,
    rows: list[dict[str, Scalar]],
    unquantized_bytes: int,
    wall_seconds: float,
) -> Summary:
    sizes = [int(row["predicted_bytes"] or 0) for row in rows]
    disk = export_bytes(unquantized_bytes, sizes, split_gib=request.settings.split_gib)
    memory = count_memory_bytes(architecture)
    return Summary(
        figures={
            "wall_seconds": wall_seconds,
            "parity_renderings": report.renderings,
            "parity_tokens": report.tokens,
            "bos_tokens": report.bos_tokens,
            "known_differences": sum(known.renderings for known in report.known),
            UNQUANTIZED_BYTES: unquantized_bytes,
            _NEEDED_DISK: disk,
            _NEEDED_MEMORY: max(memory.values()),
        },
        tables={
            "sizes": rows,
            "memory": [{"step": step, "needed_bytes": needed} for step, needed in memory.items()],
            "known_differences": [
                {"reason": known.reason, "renderings": known.renderings, "example": str(known.example)}
                for known in report.known
            ],
        },
        checks=[
            Check(
                name="can_be_converted",
                passed=True,
                blocking=True,
                detail=f"llama.cpp takes the base's {architecture.family} architecture, tokenizer and tensors",
            ),
            Check(
                name="token_parity",
                passed=True,
                blocking=True,
                value=report.different,
                limit=0,
                detail=f"{report.renderings} renderings",
            ),
        ],
    )
