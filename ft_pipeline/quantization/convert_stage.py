"""The stage from a 16-bit model folder to a 16-bit GGUF: what every type is quantized from and compared with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ft_pipeline.growing_file import hashing
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.convert import Conversion, check_converter, default_converter
from ft_pipeline.quantization.files import NAME_PATTERN, gguf_file_name, unquantized_type
from ft_pipeline.quantization.metadata import Provenance, converter_metadata
from ft_pipeline.summary import Summary

_OUT_TYPES: dict[str, Literal["f16", "bf16"]] = {"float16": "f16", "bfloat16": "bf16"}
_METADATA_FILE = "metadata.json"


class ConvertRequest(BaseModel):
    """What to convert, and where to.

    Attributes:
        model: Folder of a 16-bit safetensors model with its tokenizer and chat template.
        name: The GGUF's general.name.
        dtype: Type of the weights. A base in bfloat16 whose values float16 does not hold stays in it.
        provenance: What the file's metadata says of where it comes from; None: nothing.
        out_dir: Folder for the file.
        converter: llama.cpp's converter; None: where `make setup` put it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    name: str = Field(pattern=NAME_PATTERN)
    dtype: Literal["float16", "bfloat16"] = "float16"
    provenance: Provenance | None = None
    out_dir: Path
    converter: Path | None = None


def convert_model(request: ConvertRequest, reporter: Reporter) -> Summary:
    """Convert a model by llama.cpp's own converter, straight from its shards.

    The file is hashed and flushed while it grows, so that nothing is left to do at its end.

    Raises:
        EnvironmentMismatch: the converter is missing or of another version than the library.
        ConversionError: it does not take the model.
        DiskSpaceError: the disk became full.
    """
    started = time.monotonic()
    tree = request.converter or default_converter()
    check_converter(tree)
    path = request.out_dir / gguf_file_name(request.name, unquantized_type(request.dtype))
    metadata = _write_metadata(request)
    reporter.info(f"converting {request.model.name} to a 16-bit GGUF")
    outtype = _OUT_TYPES[request.dtype]
    with (
        Conversion(request.model, path, request.name, tree, outtype=outtype, metadata=metadata) as conversion,
        hashing(path, conversion.settle_header) as growing,
    ):
        conversion.wait()
    metadata.unlink()
    return Summary(
        figures={"size_bytes": path.stat().st_size, "wall_seconds": time.monotonic() - started},
        sha256={path.name: growing.sha256},
    )


def _write_metadata(request: ConvertRequest) -> Path:
    path = request.out_dir / _METADATA_FILE
    path.write_text(json.dumps(converter_metadata(request.provenance)), encoding="utf-8")
    return path
