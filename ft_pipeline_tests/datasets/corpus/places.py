"""Places that are no plain, readable file of a known kind inside the allowed roots."""

from __future__ import annotations

import os
from pathlib import Path

from ft_pipeline_tests.datasets.corpus import GOOD_ROWS, FileCase
from ft_pipeline_tests.datasets.data_folder import good

_LINES = ("\n".join(good(number) for number in range(GOOD_ROWS)) + "\n").encode()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _long_loop(path: Path) -> None:
    path.symlink_to("b.jsonl")
    path.with_name("b.jsonl").symlink_to(path.name)


def _outside(path: Path) -> None:
    target = path.parent.parent / "outside.jsonl"
    target.write_bytes(_LINES)
    path.symlink_to(target)


def _by_the_parent(path: Path) -> None:
    (path.parent.parent / "outside.jsonl").write_bytes(_LINES)
    path.symlink_to("../outside.jsonl")


def _inside(path: Path) -> None:
    (path.parent / "below").mkdir()
    (path.parent / "below" / "b.jsonl").write_bytes(_LINES)
    path.symlink_to("below/b.jsonl")


_NAMES = (
    "a\nb.jsonl",
    "a\x1b[31m.jsonl",
    "a\tb.jsonl",
    "<script>.jsonl",
    "a&b'\"c.jsonl",
    "a b.jsonl",
    "é\u202e.jsonl",
)
_ODD = (
    *_NAMES,
    "a..jsonl",
    "a.JSONL",
    "-a.jsonl",
    "*.jsonl",
    "[a].jsonl",
    "%s{}.jsonl",
    "x" * 240 + ".jsonl",
)

PLACE_CASES = [
    FileCase(
        "folder_with_the_name_of_a_file", "a.jsonl", Path.mkdir, error="no plain file|no file with a known suffix"
    ),
    FileCase("fifo", "a.jsonl", os.mkfifo, error="no plain file"),
    FileCase("broken_link", "a.jsonl", lambda path: path.symlink_to("missing.jsonl"), error="cannot be read"),
    FileCase("link_to_itself", "a.jsonl", _loop, error="cannot be read"),
    FileCase("loop_of_links", "a.jsonl", _long_loop, error="cannot be read"),
    FileCase("link_outside", "a.jsonl", _outside, error="outside dataset.allowed_roots"),
    FileCase("link_by_the_parent", "a.jsonl", _by_the_parent, error="outside dataset.allowed_roots"),
    FileCase("link_to_a_device", "a.jsonl", lambda path: path.symlink_to("/dev/zero"), error="outside|no plain file"),
    FileCase("link_inside", "a.jsonl", _inside, GOOD_ROWS),
    *(
        FileCase(f"suffix_{name}", name, _LINES, error="must end in one of")
        for name in ("a.txt", "a.xlsx", "a", "a.jsonl.bz2", "a.jsonl.bak", "a.jsonl.zip", "a.gz", "a.json5", "a.tsv")
    ),
    *(FileCase(f"name_{name[:20]!r}", name, _LINES, GOOD_ROWS) for name in _ODD),
    *(FileCase(f"name_{name[:20]!r}_broken", name, b"1\n", error="no format fits") for name in _NAMES),
]
