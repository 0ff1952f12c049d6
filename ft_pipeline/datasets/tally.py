"""Counts every row that came in: it is kept, or in quarantine, or a duplicate, and none is lost."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.checks import CHECKS
from ft_pipeline.datasets.raw import RawSource
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT, STATISTICS_FILE
from ft_pipeline.errors import DatasetError
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Check, Scalar, Summary
from ft_pipeline.text_marks import show_plain


@dataclass
class _Counts:
    """Rows of one source file, or of all. `fixed` ones are among those kept."""

    rows: int = 0
    kept: int = 0
    fixed: int = 0
    quarantined: int = 0
    duplicates: int = 0


@dataclass
class _SetCounts:
    """Rows and tokens of one side of the split, or of a test set."""

    rows: int = 0
    tokens: int = 0
    max_tokens: int = 0
    completion_tokens: int = 0


class Tally:
    """The counts of a data set, filled chunk by chunk.

    Args:
        sources: The files of the raw data set.
        settings: The recipe's words.
    """

    def __init__(self, sources: Sequence[RawSource], settings: DatasetSection) -> None:
        self._sources = sources
        self._settings = settings
        self._total = _Counts()
        self._by_file: dict[tuple[str, str], _Counts] = defaultdict(_Counts)
        self._sets: dict[str, _SetCounts] = defaultdict(_SetCounts)
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}
        self._kinds: Counter[str] = Counter()
        self._fixes: Counter[str] = Counter()
        self._warnings: Counter[str] = Counter()
        self._truncated = 0

    def count(self, set_name: str, file: str, out: pl.DataFrame, unique: pl.DataFrame, repeated: pl.DataFrame) -> None:
        """Count the rows of a chunk: those that are out, those that stay and those that repeat others."""
        fixed = unique.filter(pl.col("fixes").list.len() > 0).height
        for counts in (self._total, self._by_file[set_name, file]):
            counts.rows += out.height + unique.height + repeated.height
            counts.kept += unique.height
            counts.fixed += fixed
            counts.quarantined += out.height
            counts.duplicates += repeated.height
        self._kinds.update(repeated["kind"].to_list())
        self._fixes.update(unique["fixes"].explode(empty_as_null=False).to_list())
        self._warnings.update(unique["warnings"].explode(empty_as_null=False).to_list())
        self._truncated += int(unique["truncated"].sum())
        self._count_reasons(file, out)
        self._count_tokens(unique)

    def _count_reasons(self, file: str, out: pl.DataFrame) -> None:
        for line, reasons, detail in out.select("line", "reasons", "detail").iter_rows():
            self._reasons.update(reasons)
            for reason in reasons:
                self._first.setdefault(reason, (f"{file}:{line}", detail))

    def _count_tokens(self, unique: pl.DataFrame) -> None:
        found = unique.group_by("set").agg(
            pl.len(),
            pl.col("input_ids").list.len().sum().alias("tokens"),
            pl.col("input_ids").list.len().max().alias("max_tokens"),
            pl.col("learned").sum().alias("completion_tokens"),
        )
        for name, rows, tokens, most, completion in found.iter_rows():
            counts = self._sets[name]
            counts.rows += rows
            counts.tokens += tokens or 0
            counts.max_tokens = max(counts.max_tokens, most or 0)
            counts.completion_tokens += completion or 0

    @property
    def sentence(self) -> str:
        """All rows in words."""
        total = self._total
        return (
            f"{total.rows} rows: {total.kept} kept ({total.fixed} of them mended), {total.quarantined} quarantined, "
            f"{total.duplicates} duplicates"
        )

    def require_all(self, rows: int) -> None:
        """Raise `DatasetError` if a row is not accounted for.

        Args:
            rows: How many came in.
        """
        total = self._total
        accounted = total.kept + total.quarantined + total.duplicates
        if not rows == total.rows == accounted:
            raise DatasetError(
                f"rows were lost: {rows} came in, {accounted} are accounted for. This is a bug; report it."
            )

    def write(self, folder: Path, end_of_turn_id: int | None) -> None:
        """Write the statistics for programs."""
        sources = [
            {
                "set": source.set,
                "file": source.file,
                "format": source.format,
                "seen": source.seen,
                **asdict(self._by_file[source.set, source.file]),
            }
            for source in self._sources
        ]
        document = {
            **asdict(self._total),
            "sources": sources,
            "fixes": dict(sorted(self._fixes.items())),
            "warnings": dict(sorted(self._warnings.items())),
            "end_of_turn_id": end_of_turn_id,
            "truncated_rows": self._truncated,
        }
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / STATISTICS_FILE).write_text(text, encoding="utf-8")

    def summarize(self, figures: dict[str, Scalar]) -> Summary:
        """Figures, tables and the blocking check.

        Args:
            figures: What is known beside the counts.
        """
        total, training = self._total, self._sets[TRAINING_SET]
        return Summary(
            figures={
                "rows": total.rows,
                "training_rows": training.rows,
                "training_tokens": training.tokens,
                "max_row_tokens": training.max_tokens,
                "fixed_rows": total.fixed,
                "quarantined_rows": total.quarantined,
                "duplicate_rows": total.duplicates,
                **{f"{kind}_duplicates": self._kinds[kind] for kind in ("exact", "near", "leaked")},
                "truncated_rows": self._truncated,
                **figures,
            },
            tables={"sets": self._set_table(), "quarantine": self._reason_table(), "warnings": self._warning_table()},
            checks=[self._check_quarantine(), self._check_sides()],
        )

    def _check_quarantine(self) -> Check:
        total, limit = self._total, self._settings.max_quarantined_share
        share = total.quarantined / total.rows
        return Check(
            name="quarantined_share",
            passed=share <= limit,
            blocking=True,
            value=round(share, 4),
            limit=limit,
            detail=f"{total.quarantined} of {total.rows} rows; most often: {self._top()}",
        )

    def _check_sides(self) -> Check:
        training, held_out = (self._sets[name].rows for name in (TRAINING_SET, HELD_OUT))
        kinds = ", ".join(f"{kind} {count}" for kind, count in self._kinds.most_common()) or "none"
        return Check(
            name="rows_on_both_sides",
            passed=min(training, held_out) > 0,
            blocking=True,
            value=min(training, held_out),
            limit=1,
            detail=f"{training} rows to train on, {held_out} held out, by dataset.held_out_share "
            f"{self._settings.held_out_share:g}; {self.sentence}; reasons of quarantine: {self._top()}; duplicates: "
            f"{kinds}",
        )

    def _top(self) -> str:
        return ", ".join(f"{row['reason']} {row['rows']}" for row in self._reason_table()[:3]) or "none"

    def _reason_table(self) -> list[dict[str, Scalar]]:
        table: list[dict[str, Scalar]] = []
        for reason, rows in sorted(self._reasons.items(), key=lambda item: (-item[1], item[0])):
            place, detail = self._first[reason]
            severity = CHECKS[reason].severity
            table.append(
                {
                    "reason": reason,
                    "severity": severity,
                    "rows": rows,
                    "first": place,
                    "detail": show_plain(detail, 200),
                }
            )
        return table

    def _warning_table(self) -> list[dict[str, Scalar]]:
        table: list[dict[str, Any]] = []
        for action, counts in (("fixed", self._fixes), ("warned", self._warnings)):
            table += [{"code": c, "action": action, "rows": n, "rule": CHECKS[c].rule} for c, n in counts.most_common()]
        return table

    def _set_table(self) -> list[dict[str, Scalar]]:
        return [
            {
                "set": name,
                "rows": counts.rows,
                "mean_tokens": round(counts.tokens / counts.rows, 1),
                "max_tokens": counts.max_tokens,
                "mean_completion_tokens": round(counts.completion_tokens / counts.rows, 1),
            }
            for name, counts in sorted(self._sets.items())
            if counts.rows
        ]
