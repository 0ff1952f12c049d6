"""A model folder becomes an f16 GGUF, by llama.cpp's own converter from the tree of the installed library."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO

from ft_pipeline.errors import ConversionError, EnvironmentMismatch
from ft_pipeline.quantization.vocabulary import repair_vocabulary

_SCRIPT = "convert_hf_to_gguf.py"
_VERSION_FILE = "LLAMA_CPP_PYTHON_VERSION"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LAST_LINES = 12
# What the converter prints, and what it means to the person whose model it is.
_KNOWN_FAILURES = (
    (
        "BPE pre-tokenizer was not recognized",
        "llama.cpp knows byte-level BPE tokenizers by a hash, and not this one (BPE pre-tokenizer was not recognized). "
        "Keep the tokenizer of a model that llama.cpp supports, or use a BPE with byte fallback.",
    ),
    (
        "is not supported",
        "llama.cpp's converter does not know the architecture. Use a base of one that it knows (Llama, Qwen, Mistral, "
        "Gemma, ...).",
    ),
    ("Failed to detect model architecture", "config.json names no architecture. Add the field 'architectures'."),
)


def default_converter() -> Path:
    """Where `make setup` puts llama.cpp's converter."""
    return Path(sys.prefix) / "share" / "ft_pipeline" / "llama.cpp"


def check_converter(tree: Path) -> None:
    """See that the converter is there and comes from the source of the installed llama-cpp-python.

    Raises:
        EnvironmentMismatch: it does not.
    """
    path = tree / _VERSION_FILE
    if not path.is_file() or not (tree / _SCRIPT).is_file():
        raise EnvironmentMismatch(f"llama.cpp's converter must be set up; {tree} has none. Run: make setup")
    found, installed = path.read_text(encoding="utf-8").strip(), version("llama-cpp-python")
    if found != installed:
        raise EnvironmentMismatch(
            f"llama.cpp's converter must come from the source of the installed library; {tree} is of llama-cpp-python "
            f"{found}, installed is {installed}. Run: make setup"
        )


class Conversion:
    """A run of the converter, as a process of its own, beside whatever the caller does until `wait`.

    Args:
        model: Folder of a 16-bit model with config.json, safetensors and tokenizer.
        outfile: The GGUF to write.
        name: The GGUF's general.name.
        tree: llama.cpp's converter, see `check_converter`.

    Raises:
        ConversionError: the folder has no configuration or no tokenizer.
    """

    def __init__(self, model: Path, outfile: Path, name: str, tree: Path) -> None:
        self._model = model
        self._outfile = outfile
        self._command = [sys.executable, str(tree / _SCRIPT), str(model)]
        self._command += ["--outtype", "f16", "--outfile", str(outfile), "--model-name", name]
        _require_files(model)

    def __enter__(self) -> Conversion:
        self._output: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, env=_environment()
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self._process.kill()
            self._process.wait()
        self._output.close()

    @property
    def running(self) -> bool:
        """Whether the converter is at work."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait for the GGUF, and mend what the converter leaves open in its vocabulary.

        Raises:
            ConversionError: the converter failed; the message says why where the reason is known.
        """
        status = self._process.wait()
        if status != 0 or not self._outfile.is_file():
            self._output.seek(0)
            raise ConversionError(_explain(self._model, status, self._output.read()))
        repair_vocabulary(self._outfile, self._model)


def _require_files(model: Path) -> None:
    if not (model / "config.json").is_file():
        raise ConversionError(f"a model folder must hold config.json; {model} has none.")
    if not any((model / name).is_file() for name in _TOKENIZERS):
        raise ConversionError(
            f"a GGUF carries its tokenizer; {model} has none of {', '.join(_TOKENIZERS)}. "
            "Save the tokenizer with the model."
        )


def _environment() -> dict[str, str]:
    # NO_LOCAL_GGUF would make the converter take another gguf package than that of its own tree.
    inherited = {name: value for name, value in os.environ.items() if name != "NO_LOCAL_GGUF"}
    return inherited | {"HF_HUB_OFFLINE": "1"}


def _explain(model: Path, status: int, output: str) -> str:
    for sign, meaning in _KNOWN_FAILURES:
        if sign in output:
            reason = next(line for line in output.splitlines() if sign in line).strip()
            return f"{model} cannot become a GGUF: {meaning} The converter says: {reason}"
    lines = "\n".join(output.splitlines()[-_LAST_LINES:])
    return f"llama.cpp's converter failed on {model} with exit status {status}. Its last lines:\n{lines}"
