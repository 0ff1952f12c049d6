"""What a test needs beyond Python and a compiler. Without it the test is skipped on a user's machine, never in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need_program(name: str, *, install: str) -> str:
    """The path of a program; `install` says how a Debian or Ubuntu machine gets it."""
    return shutil.which(name) or do_without(f"{name} is not installed: {install}")


def do_without(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI, where everything must be there (`CI` is set by `.ci/run`, GitHub and GitLab)."""
    if os.environ.get("CI"):
        pytest.fail(f"CI runs every test, and {reason}", pytrace=False)
    pytest.skip(reason)
