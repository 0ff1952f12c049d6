"""What `make doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` is empty where all is well."""

    subject: str
    state: str
    fix: str = ""
