"""A stand-in for nvidia-smi: a program on the PATH that answers as the real one does."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HEADER = """\
Wed Nov 25 07:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.82.07              Driver Version: 580.82.07      CUDA Version: {cuda}     |
+-----------------------------------------+------------------------+----------------------+
"""
UUID = "GPU-5e1a2b3c-0000-1111-2222-333344445555"
RTX_4090 = f"0, {UUID}, NVIDIA GeForce RTX 4090, 23000, 1064, 24564, 580.82.07, 8.9"

_PROGRAM = """#!{python}
import json, sys
answers = json.load(open({answers!r}))
for asked, (status, stdout, stderr) in answers:
    if asked in " ".join(sys.argv[1:]):
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(status)
sys.exit("unexpected arguments")
"""


@dataclass
class FakeDriver:
    """What the program answers, by a part of its arguments; the first that fits counts."""

    folder: Path

    def answer(self, *answers: tuple[str, tuple[int, str, str]]) -> None:
        """Set all answers: exit status, standard output and standard error."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "answers.json").write_text(json.dumps(answers))
        program = self.folder / "nvidia-smi"
        program.write_text(_PROGRAM.format(python=sys.executable, answers=str(self.folder / "answers.json")))
        program.chmod(0o755)

    def show(self, *gpus: str, cuda: str = "13.0", processes: str = "") -> None:
        """Answer with these cards."""
        self.answer(
            ("PIDS", (0, processes, "")),
            ("--query-gpu", (0, "".join(f"{gpu}\n" for gpu in gpus), "")),
            ("", (0, HEADER.format(cuda=cuda), "")),
        )

    def fail(self, status: int, said: str) -> None:
        """Answer everything with a failure."""
        self.answer(("", (status, said, "")))


def make_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A driver that nothing else on the PATH competes with; there is none before it answers."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("ft_pipeline.finetuning.nvidia_smi._WSL_FOLDER", str(folder / "wsl"))
    return FakeDriver(folder)
