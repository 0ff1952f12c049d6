"""What lies beside the GGUFs for the program that runs them: Ollama's Modelfile, the adapter alone, the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.convert import default_converter
from ft_pipeline.quantization.lora import convert_adapter
from ft_pipeline.quantization.metadata import Provenance
from ft_pipeline.quantization.model_card import write_model_card
from ft_pipeline.quantization.modelfile import find_stops, write_modelfile
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.turns import TemplateShapeError, derive_turn_format
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Scalar

MODELFILE, MODEL_CARD = "Modelfile", "README.md"


def describe_for_ollama(
    trained: TrainedTokenizer, settings: QuantizationSection, gguf_files: Sequence[str], *, adds_bos: bool
) -> str:
    """The Modelfile of one GGUF.

    Args:
        trained: Tokenizer and chat template.
        settings: System message and context.
        gguf_files: Names of the file, or of its parts.
        adds_bos: llama.cpp puts BOS in front by itself.

    Raises:
        ConversionError: Ollama's TEMPLATE cannot express the chat template.
    """
    try:
        turns = derive_turn_format(trained.render, trained.bos)
    except TemplateShapeError as err:
        raise ConversionError(
            f"a Modelfile's TEMPLATE must give the prompts of the trained chat template, and cannot: {err}. Set "
            "quantization.ollama: false and use a runtime that reads the GGUF's own template, or train with another "
            "template."
        ) from err
    stops = find_stops(turns, trained.stop_candidates, trained.eos)
    return write_modelfile(gguf_files, turns, stops, settings.context_tokens, adds_bos=adds_bos, system=settings.system)


def write_lora(
    adapter: Path, base: Path, outfile: Path, provenance: Provenance | None, converter: Path | None, reporter: Reporter
) -> bool:
    """Write the adapter alone as a GGUF, to be loaded on top of the base's.

    Returns:
        Whether there is one: llama.cpp's format does not hold every adapter, which is told and costs nothing else.

    Raises:
        DiskSpaceError: the disk became full.
    """
    try:
        convert_adapter(adapter, base, outfile, converter or default_converter(), provenance)
    except ConversionError as err:
        reporter.warning(f"the adapter alone is not shipped as a GGUF: {err}")
        return False
    return True


def write_card(out_dir: Path, provenance: Provenance, files: Sequence[Mapping[str, Scalar]], lora: str | None) -> None:
    """Write the model card."""
    (out_dir / MODEL_CARD).write_text(write_model_card(provenance, files, lora), encoding="utf-8")
