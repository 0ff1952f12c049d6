"""Which build of torch is installed, read from its files: importing it takes seconds and is left to the stage."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TorchBuild:
    """What torch was compiled for.

    Attributes:
        cuda: CUDA's version; None in a build for the CPU or for ROCm.
        is_rocm: Whether it is for AMD's cards.
    """

    version: str
    cuda: tuple[int, int] | None
    is_rocm: bool

    @property
    def is_cpu_only(self) -> bool:
        """Whether it can use no GPU at all."""
        return self.cuda is None and not self.is_rocm


def read_torch_build(folder: Path | None = None) -> TorchBuild | None:
    """The installed build; None if there is no torch, or one that does not say.

    Args:
        folder: Torch's own folder, instead of the one that would be imported.
    """
    folder = folder or _find_folder()
    try:
        text = (folder / "version.py").read_text(encoding="utf-8") if folder else ""
    except OSError:
        return None
    values = dict(re.findall(r"^(\w+)(?:\s*:\s*[\w\[\]]+)?\s*=\s*['\"]([^'\"]*)['\"]", text, re.MULTILINE))
    if "__version__" not in values:
        return None
    cuda = re.match(r"(\d+)\.(\d+)", values.get("cuda", ""))
    return TorchBuild(values["__version__"], (int(cuda[1]), int(cuda[2])) if cuda else None, "hip" in values)


def _find_folder() -> Path | None:
    try:
        found = importlib.util.find_spec("torch")
    except ValueError:  # a module that was put in its place has no spec
        return None
    return Path(found.origin).parent if found and found.origin else None
