"""validated_dataset: rows that keep the contract, tokenized and split; the others with the reason why they are out.

Three passes: each chunk is checked by itself, in several processes where there is much of it, and a part that an
earlier data set has checked is taken over; then all rows are looked at together, by their hashes, for what repeats;
then the files are written, chunk after chunk. What is in memory grows with the number of rows by some 150 bytes each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.check import CheckPiece, ChunkChecker
from ft_pipeline.datasets.checked import CHECKED, NARROW, read_messages, read_rows
from ft_pipeline.datasets.duplicates import find_repeats
from ft_pipeline.datasets.parallel import call_apart, count_workers, map_ahead, map_in_order
from ft_pipeline.datasets.parts import Part, begin_part, chunk_path, finish_part, read_part
from ft_pipeline.datasets.raw import PARTS, RawSource, read_raw_dataset
from ft_pipeline.datasets.shingles import shingle_texts
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.tally import Tally
from ft_pipeline.datasets.tokenizer import Tokenizer, load_tokenizer
from ft_pipeline.datasets.turns import Turns
from ft_pipeline.datasets.validated import HELD_OUT, ValidateRequest
from ft_pipeline.datasets.writer import Chunk, DatasetWriter
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Summary

# What changes a checked row; the rest of the section is about all rows together.
_ROW_SETTINGS = {
    "split_salt",
    "max_row_tokens",
    "max_message_chars",
    "language",
    "loss_on",
    "near_duplicates",
    "checks",
}


def validate_dataset(request: ValidateRequest, reporter: Reporter) -> Summary:
    """Check, mend, deduplicate, tokenize and split the raw rows, and write what `validated.py` lists.

    Raises:
        BaseModelError: the base has no usable tokenizer or chat template.
        DatasetError: a row is not accounted for.
    """
    sources = read_raw_dataset(request.raw).sources
    parts, checker = _check_parts(sources, request, reporter)
    chunks = [
        Chunk(source.set, source.file, raw, checked)
        for source, part in zip(sources, parts, strict=True)
        for raw, checked in zip(read_part(request.raw / PARTS / source.part).chunks, part.chunks, strict=True)
    ]
    rows = _read_narrow(chunks, request.settings)
    repeats = find_repeats(rows, request.settings.near_duplicates, _TextReader(chunks, rows))
    tally = Tally(sources, request.settings)
    with DatasetWriter(request.out_dir, chunks, rows, repeats, tally) as writer:
        for chunk, frame in zip(chunks, map_ahead(_read_chunk, chunks), strict=True):
            writer.write(chunk, frame)
    tally.require_all(sum(source.rows for source in sources))
    contract = checker.contract
    tally.write(request.out_dir, contract.end_of_turn_id if contract else None)
    reporter.info(tally.sentence)
    return tally.summarize(
        {"bos_tokens": contract.expected_bos, "end_of_turn_id": contract.end_of_turn_id} if contract else {}
    )


def _check_parts(
    sources: Sequence[RawSource], request: ValidateRequest, reporter: Reporter
) -> tuple[list[Part], ChunkChecker]:
    """The checked part of each source: an earlier data set's, or a new one."""
    settings = request.settings.model_dump(include=_ROW_SETTINGS)
    made = {"base": request.base_identity, "maker": request.maker}
    folders: list[Path] = []
    missing: dict[Path, RawSource] = {}
    for source in sources:
        key = fingerprint({"raw": source.part, "settings": settings, **made})
        folder = request.out_dir / CHECKED / key
        folders.append(folder)
        if begin_part(folder, request.earlier):
            missing[folder] = source
    workers = count_workers(sum(source.size_bytes for source in missing.values()))
    checker = ChunkChecker(request.settings, _load_tokenizer(request.base, workers))
    _check_all(missing, request.raw, checker, workers, reporter)
    return [read_part(folder) for folder in folders], checker


def _load_tokenizer(base: Path | None, workers: int) -> Tokenizer | None:
    if base is None:
        return None
    # Where much memory will be needed, the libraries that load it must not keep theirs.
    return load_tokenizer(base) if workers == 1 else call_apart(load_tokenizer, base)


def _check_all(
    missing: Mapping[Path, RawSource], raw: Path, checker: ChunkChecker, workers: int, reporter: Reporter
) -> None:
    pieces = (
        CheckPiece(path, chunk_path(folder, i))
        for folder, source in missing.items()
        for i, path in enumerate(read_part(raw / PARTS / source.part).chunks)
    )
    hashes: dict[Path, dict[str, str]] = {folder: {} for folder in missing}
    done, total = 0, sum(source.rows for source in missing.values())
    for chunk in map_in_order(checker, pieces, workers):
        hashes[chunk.path.parent][chunk.path.name] = chunk.sha256
        done += chunk.rows
        reporter.progress(done, total)
    for folder, source in missing.items():
        finish_part(folder, hashes[folder], {"rows": source.rows})


def _read_narrow(chunks: Sequence[Chunk], settings: DatasetSection) -> pl.DataFrame:
    """The hashes of all rows that keep the contract; training rows below the held-out share are in `held_out`."""
    names = pl.Enum(sorted({TRAINING_SET, HELD_OUT, *(chunk.set for chunk in chunks)}))

    def read(number: int) -> pl.DataFrame:
        chunk = chunks[number]
        frame = pl.read_parquet(chunk.checked, columns=list(NARROW), glob=False).with_row_index("row")
        frame = frame.filter(pl.col("reasons").list.len() == 0).drop("reasons")
        return frame.with_columns(pl.lit(chunk.set, names).alias("set"), pl.lit(number, pl.UInt32).alias("chunk"))

    frames = list(map_ahead(read, range(len(chunks))))
    rows = pl.concat(frames)
    is_held_out = (pl.col("set") == TRAINING_SET) & (pl.col("position") < settings.held_out_share)
    return rows.with_columns(pl.when(is_held_out).then(pl.lit(HELD_OUT, names)).otherwise(pl.col("set")).alias("set"))


def _read_chunk(chunk: Chunk) -> pl.DataFrame:
    return read_rows(chunk.raw, chunk.checked)


class _TextReader:
    """Texts of rows by their numbers, read from the chunks that hold them."""

    def __init__(self, chunks: Sequence[Chunk], rows: pl.DataFrame) -> None:
        self._chunks = chunks
        self._chunk = rows["chunk"].to_numpy()
        self._row = rows["row"].to_numpy()

    def __call__(self, numbers: NDArray[np.int64]) -> dict[int, bytes]:
        chunk_of = self._chunk[numbers]
        wanted = [(self._chunks[chunk], numbers[chunk_of == chunk]) for chunk in np.unique(chunk_of)]
        return {number: text for some in map_ahead(self._read, wanted) for number, text in some}

    def _read(self, wanted: tuple[Chunk, NDArray[np.int64]]) -> list[tuple[int, bytes]]:
        chunk, numbers = wanted
        messages = read_messages(chunk.raw, chunk.checked, self._row[numbers])
        return list(zip(numbers.tolist(), shingle_texts(Turns.read(messages).say()), strict=True))
