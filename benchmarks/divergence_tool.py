"""llama.cpp's perplexity tool, of the installed library's source: what `benchmarks/divergence.py` compares with."""

from __future__ import annotations

import math
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

# What both find: before the figure in what the tool prints, and for people.
FIGURES = {
    "kld": ("Mean    KLD", "mean KL divergence, nats"),
    "kld_max": ("Maximum KLD", "largest KL divergence, nats"),
    "top_agreement": ("Same top p", "same top token"),
    "perplexity": ("Mean PPL(Q)", "perplexity"),
    "reference_perplexity": ("Final estimate: PPL", "perplexity of the 16-bit model"),
    "perplexity_ratio": ("", "perplexity ratio"),
}
Figures = dict[str, float]


def fetch_source(work: Path) -> Path:
    """llama.cpp's tree of the installed llama-cpp-python, out of its source distribution."""
    name = f"llama_cpp_python-{version('llama-cpp-python')}"
    archive = work / f"{name}.tar.gz"
    if not archive.is_file():
        wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
        options = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(work)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, wanted], check=True)
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):  # Debian's Python 3.11.2 has none
            packed.extraction_filter = tarfile.data_filter
        packed.extractall(work)  # noqa: S202 - pip has compared it with the index
    return work / name / "vendor" / "llama.cpp"


def build_tool(source: Path, work: Path, cores: int) -> Path:
    """`llama-perplexity` of a tree; about ten minutes on 2 cores."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise click.ClickException("cmake builds the tool; there is none. Install it, or give --tool.")
    parts = ("TESTS", "EXAMPLES", "SERVER", "APP")
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TOOLS=ON"]
    flags += [f"-DLLAMA_BUILD_{part}=OFF" for part in parts]
    build = work / "build"
    for arguments in (
        ["-S", str(source), "-B", str(build), *flags],
        ["--build", str(build), "--target", "llama-perplexity", "-j", str(cores)],
    ):
        subprocess.run([cmake, *arguments], check=True)
    return build / "bin" / "llama-perplexity"


@dataclass
class Cost:
    """Time of something, and of the processors."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def counting(self, whose: int) -> Iterator[None]:
        """Add what happens meanwhile; `whose` as for `resource.getrusage`."""
        started, before = time.perf_counter(), resource.getrusage(whose)
        yield
        after = resource.getrusage(whose)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Tool:
    """llama.cpp's perplexity tool on one text.

    Args:
        program: The executable.
        text: What it reads.
        base: The file where it keeps the 16-bit model's log-probabilities.
        chunk: Tokens of a chunk.
        cores: Its threads.
    """

    def __init__(self, program: Path, text: Path, base: Path, *, chunk: int, cores: int) -> None:
        self._program, self._text, self._base = program, text, base
        self._options = ["-c", str(chunk), "-t", str(cores), "-ngl", "0", "-fa", "off", "-fit", "off"]
        self.cost = Cost()
        self._reference_perplexity = math.nan

    def keep(self, reference: Path) -> tuple[npt.NDArray[np.int32], int]:
        """Let it read the text by the 16-bit model.

        Returns:
            The tokens it has read, shape (chunks, tokens of a chunk), before it puts BOS in; and how many of those that
            it scores lie at its file's floor.
        """
        printed = self._run("-m", str(reference), "-f", str(self._text), "--kl-divergence-base", str(self._base))
        self._reference_perplexity = _find(printed, FIGURES["reference_perplexity"][0])
        with self._base.open("rb") as file:
            file.seek(8)
            chunk, vocabulary, chunks = np.fromfile(file, np.int32, 3)
            tokens = np.fromfile(file, np.int32, chunk * chunks).reshape(chunks, chunk)
            start = file.tell()
        # Of each token: two 32-bit floats, then the vocabulary, padded to an even number (tools/perplexity).
        scored, width = chunk - 1 - chunk // 2, 4 + vocabulary + vocabulary % 2
        rows = np.memmap(self._base, np.uint16, "r", start, (int(chunks * scored), int(width)))
        targets = tokens[:, chunk - scored :].ravel()
        return tokens, int((rows[np.arange(len(targets)), 4 + targets] == 0).sum())

    def compare(self, quantized: Path) -> Figures:
        """What it finds of a quantized model."""
        printed = self._run("-m", str(quantized), "--kl-divergence-base", str(self._base), "--kl-divergence")
        figures = {name: _find(printed, FIGURES[name][0]) for name in ("kld", "kld_max", "top_agreement", "perplexity")}
        figures["top_agreement"] /= 100
        ratio = figures["perplexity"] / self._reference_perplexity
        return figures | {"reference_perplexity": self._reference_perplexity, "perplexity_ratio": ratio}

    def _run(self, *arguments: str) -> str:
        with self.cost.counting(resource.RUSAGE_CHILDREN):
            command = [str(self._program), *arguments, *self._options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"{self._program} failed:\n{done.stderr[-2000:]}")
        return done.stdout + done.stderr


def _find(printed: str, label: str) -> float:
    found = re.search(rf"{re.escape(label)}\s*[:=]\s*(\S+)", printed)
    if found is None:
        raise click.ClickException(f"the tool did not print {label!r}:\n{printed[-2000:]}")
    return float(found[1].rstrip("%"))
