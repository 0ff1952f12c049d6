"""What changed since the data set before: rows, lengths, tokens, words and roles. Over training and held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ft_pipeline.datasets.report.lengths import SetLengths, iter_batches, pool, read_lengths
from ft_pipeline.datasets.report.request import POOL
from ft_pipeline.datasets.report.tally import Tally, measure_js_divergence, measure_ks_distance, rank_changes
from ft_pipeline.datasets.report.words import Shift, WordChange, compare_words
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import EVALUATION_FILE, HELD_OUT, TRAIN_FILE

_TOP = 10
_Keys = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class RowChanges:
    """Rows by their key, the hash of the normalized conversation.

    Attributes:
        moved_to_training: Were held out before and are trained on now: an evaluation against an older model that was
            trained on the other side would be unfair.
        moved_to_held_out: The other way round.
    """

    added: int
    removed: int
    unchanged: int
    moved_to_training: int
    moved_to_held_out: int


@dataclass(frozen=True)
class LengthShift:
    """One length before and now; `ks` is the Kolmogorov-Smirnov distance. None where there are no rows."""

    name: str
    median_before: int | None
    median: int | None
    p95_before: int | None
    p95: int | None
    mean_before: float | None
    mean: float | None
    ks: float | None


@dataclass(frozen=True)
class Drift:
    """The new data set against the one before.

    Attributes:
        token_divergence_bits: Jensen-Shannon divergence of the token frequencies; None where there are no tokens.
        tokens_risen: Token ids whose share rose the most.
        tokens_fallen: Token ids whose share fell the most.
        words: What changed in a sample of the words.
        roles: Messages of each role, per row.
        tokens_before: Tokens of each row of the data set before.
    """

    rows: RowChanges
    lengths: tuple[LengthShift, ...]
    token_divergence_bits: float | None
    tokens_risen: tuple[Shift, ...]
    tokens_fallen: tuple[Shift, ...]
    words: WordChange
    roles: tuple[Shift, ...]
    tokens_before: Tally


def measure_drift(folder: Path, previous: Path, sets: dict[str, SetLengths]) -> Drift:
    """Compare a validated folder, whose lengths are known, with the one before it."""
    now, before = pool(sets), pool(read_lengths(previous))
    risen, fallen = rank_changes(before.ids, now.ids, _TOP)
    return Drift(
        rows=_compare_rows(_read_keys(folder), _read_keys(previous)),
        lengths=(
            _compare_lengths("tokens per row", before.tokens, now.tokens),
            _compare_lengths("learned tokens per row", before.learned, now.learned),
            _compare_lengths("turns per row", before.turns, now.turns),
        ),
        token_divergence_bits=measure_js_divergence(before.ids, now.ids),
        tokens_risen=tuple(_compare_token(number, before.ids, now.ids) for number, _ in risen),
        tokens_fallen=tuple(_compare_token(number, before.ids, now.ids) for number, _ in fallen),
        words=compare_words(folder, previous, _TOP),
        roles=_compare_roles(before, now),
        tokens_before=before.tokens,
    )


def _compare_rows(now: dict[str, _Keys], before: dict[str, _Keys]) -> RowChanges:
    all_now, all_before = (np.union1d(keys[TRAINING_SET], keys[HELD_OUT]) for keys in (now, before))
    unchanged = _count_common(all_now, all_before)
    return RowChanges(
        added=len(all_now) - unchanged,
        removed=len(all_before) - unchanged,
        unchanged=unchanged,
        moved_to_training=_count_common(now[TRAINING_SET], before[HELD_OUT]),
        moved_to_held_out=_count_common(now[HELD_OUT], before[TRAINING_SET]),
    )


def _count_common(first: _Keys, second: _Keys) -> int:
    return len(np.intersect1d(first, second, assume_unique=True))


def _read_keys(folder: Path) -> dict[str, _Keys]:
    """The distinct keys of both sides, 16 bytes each."""
    import pyarrow.compute as pc

    found: dict[str, list[bytes]] = {name: [] for name in POOL}
    for file in (TRAIN_FILE, EVALUATION_FILE):
        for batch in iter_batches(folder / file, ("set", "key")):
            for name, parts in found.items():
                keys = batch.column("key").filter(pc.equal(batch.column("set"), name))
                parts.append(bytes.fromhex("".join(keys.to_pylist())))
    return {name: np.unique(np.frombuffer(b"".join(parts), "S16")) for name, parts in found.items()}


def _compare_lengths(name: str, before: Tally, now: Tally) -> LengthShift:
    return LengthShift(
        name=name,
        median_before=before.quantile(0.5),
        median=now.quantile(0.5),
        p95_before=before.quantile(0.95),
        p95=now.quantile(0.95),
        mean_before=before.mean,
        mean=now.mean,
        ks=measure_ks_distance(before, now),
    )


def _compare_token(number: int, before: Tally, now: Tally) -> Shift:
    shares = [
        float(tally.counts[number]) / tally.total if number < len(tally.counts) else 0.0 for tally in (before, now)
    ]
    return Shift(str(number), *shares)


def _compare_roles(before: SetLengths, now: SetLengths) -> tuple[Shift, ...]:
    """Messages of each role per row."""
    rows = [max(1, lengths.turns.total) for lengths in (before, now)]
    names = sorted(set(before.roles) | set(now.roles))
    return tuple(Shift(name, before.roles[name] / rows[0], now.roles[name] / rows[1]) for name in names)
