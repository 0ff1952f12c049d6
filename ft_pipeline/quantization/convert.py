"""A model folder becomes an f16 GGUF, by llama.cpp's own converter from the tree of the installed library."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from ft_pipeline.durable import flushing
from ft_pipeline.errors import ConversionError, DiskSpaceError, EnvironmentMismatch, PipelineError
from ft_pipeline.quantization import converter_guard
from ft_pipeline.quantization.gguf_header import count_bytes, is_header_whole
from ft_pipeline.quantization.vocabulary import repair_vocabulary

_SCRIPT = "convert_hf_to_gguf.py"
_VERSION_FILE = "LLAMA_CPP_PYTHON_VERSION"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LAST_LINES = 12
# In Python's words, those of numpy's tofile, and a limit on file sizes.
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large", "requested and ")
# What the converter prints (regular expressions), and what it means to the person whose model it is.
_KNOWN_FAILURES = (
    (
        re.escape(converter_guard.REFUSAL),
        "no code of a model is run, and llama.cpp's converter wants the code that it brings for its architecture. "
        "Use a base that needs none.",
    ),
    (
        "BPE pre-tokenizer was not recognized",
        "llama.cpp knows byte-level BPE tokenizers by a hash, and not this one (BPE pre-tokenizer was not recognized). "
        "Keep the tokenizer of a model that llama.cpp supports, or use a BPE with byte fallback.",
    ),
    (
        r"Model \S+ is not supported",
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


class ConverterProcess:
    """One of llama.cpp's converter scripts, as a process of its own, beside whatever the caller does until `wait`.

    Args:
        command: The script, and what it is given.
        outfile: The file that it writes. It is not left behind when the script fails or the caller is stopped.
        what: The folder that is converted, for messages.
    """

    def __init__(self, command: Sequence[str], outfile: Path, what: Path) -> None:
        self._command = [sys.executable, "-P", converter_guard.__file__, *command]
        self.outfile = outfile
        self._what = what
        self._is_whole = False

    def __enter__(self) -> Self:
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
        if not self._is_whole:
            self.outfile.unlink(missing_ok=True)

    @property
    def running(self) -> bool:
        """Whether the converter is at work."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait for the GGUF, while it is written to the disk.

        Raises:
            ConversionError: the script failed; the message says why where the reason is known.
            DiskSpaceError: the disk became full.
        """
        with flushing(self.outfile):
            status = self._process.wait()
        if status != 0 or not self.outfile.is_file():
            self._output.seek(0)
            raise self._explain(status, self._output.read())
        self._require_whole()
        self._finish()
        self._is_whole = True

    def _finish(self) -> None:
        """What is left to do on a file that is whole."""

    def _require_whole(self) -> None:
        # numpy, by which the converter writes, does not say when its last bytes did not get through.
        found, wanted = self.outfile.stat().st_size, count_bytes(self.outfile)
        if found < wanted:
            raise _full_disk(self.outfile, f"{found:,} of its {wanted:,} bytes are there")

    def _explain(self, status: int, output: str) -> PipelineError:
        return _explain(self._what, self.outfile, status, output)


class Conversion(ConverterProcess):
    """A run of the converter of models.

    Args:
        model: Folder of a 16-bit model with config.json, safetensors and tokenizer.
        outfile: The GGUF to write.
        name: The GGUF's general.name.
        tree: llama.cpp's converter, see `check_converter`.
        outtype: "f16" or "bf16".
        metadata: JSON file with what the GGUF's metadata says besides (`metadata.py`).
        vocab_only: Convert tokenizer and configuration only; the folder needs no weights then.

    Raises:
        ConversionError: the folder has no configuration or no tokenizer.
    """

    def __init__(  # noqa: PLR0913 - the last three are rare, and by name
        self,
        model: Path,
        outfile: Path,
        name: str,
        tree: Path,
        *,
        outtype: Literal["f16", "bf16"] = "f16",
        metadata: Path | None = None,
        vocab_only: bool = False,
    ) -> None:
        command = [str(tree / _SCRIPT), str(model), "--outtype", outtype, "--outfile", str(outfile)]
        command += ["--model-name", name]
        if metadata:
            command += ["--metadata", str(metadata)]
        if vocab_only:
            command.append("--vocab-only")
        super().__init__(command, outfile, model)
        self._model = model
        self._settling = threading.Lock()
        self._is_settled = False
        _require_files(model)

    def settle_header(self) -> bool:
        """Mend what the converter leaves open in its vocabulary, once it has written that; it only appends afterwards.

        Returns:
            Whether it is done: what is in the file then stays as it is.
        """
        with self._settling:
            if not self._is_settled and is_header_whole(self.outfile):
                repair_vocabulary(self.outfile, self._model)
                self._is_settled = True
            return self._is_settled

    def _finish(self) -> None:
        self.settle_header()


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


def _explain(model: Path, outfile: Path, status: int, output: str) -> PipelineError:
    for sign in _FULL_DISK:
        if reason := find_line(re.escape(sign), output):
            return _full_disk(outfile, f"the converter says {reason!r}")
    for sign, meaning in _KNOWN_FAILURES:
        if reason := find_line(sign, output):
            return ConversionError(f"{model} cannot become a GGUF: {meaning} The converter says: {reason}")
    lines = "\n".join(output.splitlines()[-_LAST_LINES:])
    if status < 0:
        return ConversionError(
            f"llama.cpp's converter was killed by {signal.Signals(-status).name} while it converted {model}; nothing "
            f"is kept of it. If the machine ran out of memory, free some, and run again. Its last lines:\n{lines}"
        )
    return ConversionError(
        f"llama.cpp's converter failed on {model} with exit status {status}. Its last lines:\n{lines}"
    )


def find_line(pattern: str, output: str) -> str | None:
    """The first line of a program's output in which a regular expression is found."""
    return next((line.strip() for line in output.splitlines() if re.search(pattern, line)), None)


def _full_disk(outfile: Path, sign: str) -> DiskSpaceError:
    free = shutil.disk_usage(outfile.parent).free
    return DiskSpaceError(
        f"the disk must hold {outfile.name}; it, or a quota or limit on file sizes (ulimit -f), became full while "
        f"llama.cpp's converter wrote it in {outfile.parent}: {sign}; {free:,} bytes of the disk are free. Free some, "
        "raise the limit, or set FT_PIPELINE_ARTIFACTS to another disk."
    )
