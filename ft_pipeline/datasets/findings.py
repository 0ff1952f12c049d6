"""What is known of each conversation of a chunk after the checks, and the columns that say it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from ft_pipeline.datasets.checks import CHECKS
from ft_pipeline.datasets.columns import id_column, list_column
from ft_pipeline.datasets.contract import TokenizedRow


@dataclass
class Findings:
    """By the position of a conversation in its chunk.

    Attributes:
        reasons: Codes of breaches for which it is out.
        details: A sentence for each.
        fixes: Codes of breaches that were mended.
        warnings: Codes of breaches that are only told.
        tokens: Of the conversations that were tokenized.
    """

    reasons: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    details: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    fixes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[int, TokenizedRow] = field(default_factory=dict)

    def breach(self, row: int, code: str, action: str, detail: str = "") -> None:
        """Note a breach that was not mended."""
        if action == "warn":
            self.warnings[row].append(code)
        elif action != "off":
            self.reasons[row].append(code)
            self.details[row].append(detail or CHECKS[code].rule)

    def to_columns(self, count: int, show: Callable[[int], str]) -> list[pl.Series]:
        """The columns of `count` conversations.

        Args:
            count: How many there are.
            show: The text of one that is out.
        """
        numbers = range(count)
        kept = [None if row in self.reasons else self.tokens.get(row) for row in numbers]
        shown = [show(row) if row in self.reasons else None for row in numbers]
        return [
            pl.zeros(count, pl.Int64, eager=True).alias("column"),
            list_column("reasons", self.reasons, count),
            pl.Series("detail", ["; ".join(self.details.get(row, ())) for row in numbers], pl.String),
            pl.Series("text", shown, pl.String),
            list_column("fixes", self.fixes, count),
            list_column("warnings", self.warnings, count),
            id_column("input_ids", [row.input_ids if row else None for row in kept]),
            id_column("labels", [row.labels if row else None for row in kept]),
            pl.Series("learned", np.array([row.completion_tokens if row else 0 for row in kept], np.uint32)),
            pl.Series("truncated", np.array([row is not None and row.truncated for row in kept], bool)),
        ]
