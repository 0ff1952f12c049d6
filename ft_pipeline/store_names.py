"""By which names the pipeline knows what is its own in a store.

What a person has put there has another name, or is a link: it is no artifact, and it is neither followed nor removed.
"""

from __future__ import annotations

import re
from pathlib import Path

from ft_pipeline.fingerprint import FINGERPRINT_CHARS

# Forms of names, as regular expressions.
ASSET_FORM = r"[a-z][a-z0-9_]*"
FINGERPRINT_FORM = rf"[0-9a-f]{{{FINGERPRINT_CHARS}}}"
KEY_FORM = rf"{ASSET_FORM}-{FINGERPRINT_FORM}"
# A folder that a file system makes at the root of a disk.
_OF_THE_DISK = "lost+found"


def find_folders(root: Path, *names: str) -> list[Path]:
    """Folders below a root, by the form of the name at each level; none that a link below the root leads to."""
    found = [root]
    for name in names:
        found = [path for folder in found for path in _find(folder, name) if path.is_dir()]
    return found


def find_files(root: Path, *names: str) -> list[Path]:
    """Plain files below a root, by the same: the last form is that of their own names."""
    *folders, name = names
    return [path for folder in find_folders(root, *folders) for path in _find(folder, name) if path.is_file()]


def find_strangers(store_root: Path) -> list[Path]:
    """What lies where artifacts do and is none; hidden files are nobody's matter."""
    assets = find_folders(store_root, ASSET_FORM)
    there = {
        *(path for path in store_root.glob("[!._]*") if path.name != _OF_THE_DISK),
        *(path for folder in assets for path in folder.glob("[!.]*")),
    }
    return sorted(there - {*assets, *find_folders(store_root, ASSET_FORM, FINGERPRINT_FORM)})


def _find(folder: Path, name: str) -> list[Path]:
    is_named = re.compile(name).fullmatch
    return sorted(path for path in folder.glob("*") if is_named(path.name) and not path.is_symlink())
