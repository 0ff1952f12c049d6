"""All figures of the report in one place, what they come to, and what is thin about them."""

from __future__ import annotations

from dataclasses import dataclass

from ft_pipeline.datasets.report.balance import SourceBalance, balance_sources
from ft_pipeline.datasets.report.drift import Drift, measure_drift
from ft_pipeline.datasets.report.findings import Finding, find_marked, find_quarantined
from ft_pipeline.datasets.report.lengths import SetLengths, read_lengths
from ft_pipeline.datasets.report.repeats import Repeats, find_repeats
from ft_pipeline.datasets.report.request import POOL, DataReportRequest, Statistics, read_statistics
from ft_pipeline.datasets.report.samples import Sample, choose_samples
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT

# The default of dataset.max_quarantined_share, above which the pipeline stops.
_HIGH_QUARANTINE = 0.05
_FEW_HELD_OUT, _FEW_TRAINING, _FEW_TESTED = 100, 100, 30
_MANY_DUPLICATES, _MANY_LOST = 0.2, 0.5


@dataclass(frozen=True)
class DataFigures:
    """Everything that the report says.

    Attributes:
        sets: Set to its lengths: train, held_out, then the test sets.
        drift: Against the data set before; None if there is none.
    """

    statistics: Statistics
    sets: dict[str, SetLengths]
    sources: list[SourceBalance]
    quarantine: list[Finding]
    warnings: list[Finding]
    fixes: list[Finding]
    repeats: Repeats
    samples: list[Sample]
    drift: Drift | None

    @property
    def kept(self) -> int:
        """Rows in both files, those that were fixed included."""
        return sum(lengths.tokens.total for lengths in self.sets.values())

    @property
    def unaccounted(self) -> int:
        """Rows that came in and are nowhere: always 0, or the validation has a bug."""
        return self.statistics.rows - self.kept - self.statistics.quarantined - self.statistics.duplicates

    @property
    def quarantined_share(self) -> float:
        """Of the rows that came in."""
        return self.statistics.quarantined / max(1, self.statistics.rows)

    @property
    def held_out_share(self) -> float:
        """Of training and held-out rows."""
        held_out = self.count(HELD_OUT)
        return held_out / max(1, held_out + self.count(TRAINING_SET))

    @property
    def level(self) -> str:
        """How the verdict looks: good, fair (look at the quarantine) or bad (rows are missing)."""
        return "bad" if self.unaccounted else "fair" if self.quarantined_share > _HIGH_QUARANTINE else "good"

    def count(self, name: str) -> int:
        """Rows of a set."""
        return self.sets[name].tokens.total if name in self.sets else 0


def collect_figures(request: DataReportRequest) -> DataFigures:
    """Read the validated folder, a column at a time.

    Raises:
        DatasetError: the folder's counts are missing or damaged.
    """
    folder, statistics = request.validated, read_statistics(request.validated)
    found = read_lengths(folder)
    sets = {name: found.get(name, SetLengths()) for name in POOL} | {
        name: found[name] for name in sorted(set(found) - set(POOL))
    }
    return DataFigures(
        statistics=statistics,
        sets=sets,
        sources=balance_sources(folder, statistics),
        quarantine=find_quarantined(folder),
        warnings=find_marked(folder, statistics.warnings),
        fixes=find_marked(folder, statistics.fixes),
        repeats=find_repeats(folder),
        samples=choose_samples(folder, statistics.end_of_turn_id),
        drift=measure_drift(folder, request.previous, sets) if request.previous else None,
    )


def explain(figures: DataFigures) -> str:
    """Where every row went, in one sentence."""
    counts = figures.statistics
    sentence = (
        f"{_rows(counts.rows)} came in: {figures.kept - counts.fixed:,} kept as they are, "
        f"{counts.fixed:,} fixed and kept, {counts.quarantined:,} in quarantine and "
        f"{counts.duplicates:,} left out for repeating another."
    )
    if figures.unaccounted > 0:
        return f"{sentence} {_rows(figures.unaccounted)} missing: this is a bug; report it."
    if figures.unaccounted < 0:
        return f"{sentence} That is {_rows(-figures.unaccounted)} more than came in: this is a bug; report it."
    return sentence


def find_weak_points(figures: DataFigures) -> list[str]:
    """What is thin or odd: one sentence each, with what to do."""
    counts = figures.statistics
    points = _find_thin_sets(figures)
    if figures.quarantined_share > _HIGH_QUARANTINE:
        points.append(
            f"{_percent(figures.quarantined_share)} of all rows are in quarantine. Look at the reasons below: "
            "one mistake in a source often explains most of them."
        )
    if counts.rows and counts.duplicates / counts.rows > _MANY_DUPLICATES:
        points.append(
            f"{_percent(counts.duplicates / counts.rows)} of all rows repeat another: "
            "the data is smaller than it looks."
        )
    if counts.truncated_rows:
        points.append(
            f"Cut to the longest that is allowed: {_rows(counts.truncated_rows)}. What was cut off is not learned; "
            "raise dataset.max_row_tokens where it matters."
        )
    if unlearned := sum(int(lengths.learned.counts[:1].sum()) for lengths in figures.sets.values()):
        points.append(f"Nothing to learn in {_rows(unlearned)}: the answer is empty, or was cut off.")
    if figures.drift and (moved := figures.drift.rows.moved_to_training):
        points.append(
            f"Held out before and trained on now: {_rows(moved)}. Scores of an older model cannot be compared with "
            "new ones; keep dataset.split_salt and dataset.held_out_share."
        )
    return points + _find_thin_sources(figures)


def _find_thin_sets(figures: DataFigures) -> list[str]:
    training, held_out = figures.count(TRAINING_SET), figures.count(HELD_OUT)
    points = []
    if training < _FEW_TRAINING:
        points.append(f"Only {_rows(training)} to train on. Fewer than {_FEW_TRAINING} teach little; add data.")
    if held_out < _FEW_HELD_OUT:
        points.append(
            f"Only {_rows(held_out)} held out. Fewer than {_FEW_HELD_OUT} cannot tell two models apart that are "
            "close; add data or raise dataset.held_out_share."
        )
    points += [
        f"The test set {name} has only {_rows(lengths.tokens.total)}. Fewer than {_FEW_TESTED} give a rough score."
        for name, lengths in figures.sets.items()
        if name not in POOL and lengths.tokens.total < _FEW_TESTED
    ]
    return points


def _find_thin_sources(figures: DataFigures) -> list[str]:
    points = []
    for source in figures.sources:
        counts = source.counts
        if counts.rows and counts.quarantined / counts.rows > _MANY_LOST:
            points.append(
                f"{counts.file}: {counts.quarantined:,} of {_rows(counts.rows)} in quarantine. "
                f"It was read as {counts.format}; set dataset.format if that is wrong."
            )
        if source.in_pool and source.training_rows and not source.held_out_rows:
            rows = _rows(source.training_rows)
            points.append(f"{counts.file}: nothing of it is held out ({rows}), so no score covers it.")
    return points


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
