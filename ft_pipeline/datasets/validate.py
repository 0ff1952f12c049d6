"""validated_dataset: rows that keep the contract, tokenized and split; the others with the reason why they are out.

Three passes: each chunk is checked by itself, in several processes where there is much of it, and a part that an
earlier data set has checked is taken over; then all rows are looked at together, by their hashes, for what repeats;
then the files are written, chunk after chunk. What is in memory grows with the number of rows by some 150 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.check import CheckPiece, check_chunk, open_contract
from ft_pipeline.datasets.checked import CHECKED, NARROW
from ft_pipeline.datasets.duplicates import find_repeats
from ft_pipeline.datasets.near_duplicates import shingle_texts
from ft_pipeline.datasets.parallel import count_workers, map_in_order
from ft_pipeline.datasets.parts import Part, chunk_path, finish_part, read_part, take_over
from ft_pipeline.datasets.raw import PARTS, RawSource, read_raw_dataset
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.tally import Tally
from ft_pipeline.datasets.validated import HELD_OUT, ValidateRequest
from ft_pipeline.datasets.writer import Chunk, DatasetWriter
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Summary

# Raised when checking changes what it makes of a row.
_VERSION = 1
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
        DatasetError: no row is left to train on, or none is held out, or a row is not accounted for.
    """
    sources = read_raw_dataset(request.raw).sources
    parts = [_check_part(source, request, reporter) for source in sources]
    chunks = [
        Chunk(source.set, source.file, path)
        for source, part in zip(sources, parts, strict=True)
        for path in part.chunks
    ]
    rows = _read_narrow(chunks, request.settings)
    repeats = find_repeats(rows, request.settings.near_duplicates, _TextReader(chunks, rows))
    tally = Tally(sources, request.settings)
    with DatasetWriter(request.out_dir, chunks, rows, repeats, tally) as writer:
        for chunk, frame in zip(chunks, _read_ahead(chunks), strict=True):
            writer.write(chunk, frame)
    tally.require_all(sum(source.rows for source in sources))
    contract = request.base and open_contract(request.base, request.settings)
    tally.write(request.out_dir, contract.end_of_turn_id if contract else None)
    reporter.info(tally.sentence)
    return tally.summarize(
        {"bos_tokens": contract.expected_bos, "end_of_turn_id": contract.end_of_turn_id} if contract else {}
    )


def _check_part(source: RawSource, request: ValidateRequest, reporter: Reporter) -> Part:
    settings = request.settings.model_dump(include=_ROW_SETTINGS)
    key = fingerprint({"raw": source.part, "settings": settings, "base": request.base_identity, "code": _VERSION})
    folder = request.out_dir / CHECKED / key
    if folder.exists():
        return read_part(folder)  # the same rows in another set
    if found := take_over(CHECKED, key, request.earlier, folder):
        return found
    folder.mkdir(parents=True)
    raw = read_part(request.raw / PARTS / source.part)
    pieces = (
        CheckPiece(path, chunk_path(folder, i), request.settings, request.base) for i, path in enumerate(raw.chunks)
    )
    done = 0
    for count in map_in_order(check_chunk, pieces, count_workers(source.size_bytes)):
        done += count
        reporter.progress(done, source.rows)
    return finish_part(folder, {"rows": done})


def _read_narrow(chunks: Sequence[Chunk], settings: DatasetSection) -> pl.DataFrame:
    """The hashes of all rows that keep the contract; training rows below the held-out share are in `held_out`."""
    names = pl.Enum(sorted({TRAINING_SET, HELD_OUT, *(chunk.set for chunk in chunks)}))
    frames = []
    for number, chunk in enumerate(chunks):
        frame = pl.read_parquet(chunk.path, columns=list(NARROW)).with_row_index("row")
        frame = frame.filter(pl.col("reasons").list.len() == 0).drop("reasons")
        frames.append(
            frame.with_columns(pl.lit(chunk.set, names).alias("set"), pl.lit(number, pl.UInt32).alias("chunk"))
        )
    rows = pl.concat(frames)
    is_held_out = (pl.col("set") == TRAINING_SET) & (pl.col("position") < settings.held_out_share)
    return rows.with_columns(pl.when(is_held_out).then(pl.lit(HELD_OUT, names)).otherwise(pl.col("set")).alias("set"))


def _read_ahead(chunks: Sequence[Chunk]) -> Iterator[pl.DataFrame]:
    """Whole chunks, the next one read while one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(pl.read_parquet, chunk.path) for chunk in chunks[:1]]
        for chunk in chunks[1:]:
            following = reader.submit(pl.read_parquet, chunk.path)
            yield waiting.pop().result()
            waiting.append(following)
        yield from (future.result() for future in waiting)


class _TextReader:
    """Texts of rows by their numbers, read from the chunks that hold them."""

    def __init__(self, chunks: Sequence[Chunk], rows: pl.DataFrame) -> None:
        self._chunks = chunks
        self._chunk = rows["chunk"].to_numpy()
        self._row = rows["row"].to_numpy()

    def __call__(self, numbers: NDArray[np.int64]) -> dict[int, str]:
        found: dict[int, str] = {}
        order = numbers[np.argsort(self._chunk[numbers], kind="stable")]
        for chunk in np.unique(self._chunk[order]):
            wanted = order[self._chunk[order] == chunk]
            messages = pl.read_parquet(self._chunks[chunk].path, columns=["messages"])["messages"]
            texts = shingle_texts(messages.gather(self._row[wanted]))
            found |= dict(zip(wanted.tolist(), texts, strict=True))
        return found
