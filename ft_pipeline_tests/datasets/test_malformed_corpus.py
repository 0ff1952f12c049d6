"""Whatever a user's folder holds, each bad row is named with its line, or the file with one clear error."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.readers import READERS
from ft_pipeline.datasets.sources import open as sources_open
from ft_pipeline.datasets.sources import open_source, split_suffix
from ft_pipeline.datasets.sources.source_file import shown
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline_tests.datasets.corpus import GOOD_ROWS, FileCase, RowCase
from ft_pipeline_tests.datasets.corpus.documents import BROKEN_CHATS, DOCUMENT_CASES
from ft_pipeline_tests.datasets.corpus.files import (
    ARCHIVE_CASES,
    PARQUET_CASES,
    PARQUET_TYPE_CASES,
    TABLE_CASES,
    TEXT_CASES,
    UNREADABLE_CASES,
)
from ft_pipeline_tests.datasets.corpus.places import PLACE_CASES
from ft_pipeline_tests.datasets.corpus.shapes import SHAPE_CASES
from ft_pipeline_tests.datasets.corpus.syntax import SYNTAX_CASES
from ft_pipeline_tests.datasets.data_folder import DataFolder, good, turns

ROW_CASES = [*SYNTAX_CASES, *SHAPE_CASES]
FILE_CASES = [*TEXT_CASES, *TABLE_CASES, *ARCHIVE_CASES, *PARQUET_CASES, *DOCUMENT_CASES, *PLACE_CASES]
_LIMIT_SECONDS = 5.0
_ALL_BUT_TOO_MANY: dict[str, Any] = {"max_quarantined_share": 1.0, "near_duplicates": {"enabled": False}}


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def _validate(folder: DataFolder) -> tuple[int, dict[int, list[str]]]:
    """Rows that stay, repeats among them, and the reasons of the others by their line."""
    folder.parse()
    folder.validate(**_ALL_BUT_TOO_MANY)
    kept = sum(folder.table(name).height for name in ("train.parquet", "evaluation.parquet", "duplicates.parquet"))
    out = folder.table("quarantine.parquet")
    return kept, dict(zip(out["source_line"].to_list(), out["reasons"].to_list(), strict=True))


def test_the_corpus_is_large_and_its_names_differ() -> None:
    names = [case.name for case in ROW_CASES] + [
        case.name for case in (*FILE_CASES, *UNREADABLE_CASES, *PARQUET_TYPE_CASES)
    ]
    assert len(names) == len(set(names)) >= 200


def _surround(lines: list[bytes]) -> bytes:
    """Each line with as many good ones before it, all different; more behind the last."""
    numbers = iter(range(GOOD_ROWS * (len(lines) + 1)))
    blocks = [[*(good(next(numbers)).encode() for _ in range(GOOD_ROWS)), line] for line in lines]
    return b"\n".join([*(line for block in blocks for line in block), *(good(number).encode() for number in numbers)])


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """Of a file of all row cases, the reasons by their line."""
    folder = DataFolder(tmp_path_factory.mktemp("corpus"))
    folder.write("a.jsonl", _surround([case.line for case in ROW_CASES]))
    kept, out = _validate(folder)
    fine = sum(not case.codes for case in ROW_CASES)
    assert kept == GOOD_ROWS * (len(ROW_CASES) + 1) + fine
    return out


def test_no_row_but_the_bad_ones_is_out(reasons: dict[int, list[str]]) -> None:
    lines = [number * (GOOD_ROWS + 1) for number, case in enumerate(ROW_CASES, start=1) if case.codes]
    assert sorted(reasons) == lines


@pytest.mark.parametrize(("number", "case"), list(enumerate(ROW_CASES, start=1)), ids=[case.name for case in ROW_CASES])
def test_a_bad_row_gets_its_reason(reasons: dict[int, list[str]], number: int, case: RowCase) -> None:
    found = reasons.get(number * (GOOD_ROWS + 1), [])
    assert set(found) <= case.codes
    assert bool(found) == bool(case.codes)


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)
def test_the_good_rows_beside_a_bad_one_are_read(folder: DataFolder, case: RowCase) -> None:
    folder.write("a.jsonl", _surround([case.line]))
    started = time.monotonic()
    folder.parse()
    assert time.monotonic() - started < _LIMIT_SECONDS
    _, frame = folder.raw()
    assert frame["line"].to_list() == list(range(1, 2 * GOOD_ROWS + 2))
    broken = frame.filter(pl.col("reason").is_not_null())
    assert set(broken["line"]) <= {GOOD_ROWS + 1}
    assert set(broken["reason"]) <= case.codes


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: case.name)
def test_a_bad_file_gives_rows_with_their_reasons_or_one_clear_error(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch, case: FileCase
) -> None:
    monkeypatch.setattr(sources_open, "MIN_LIMIT_BYTES", 1 << 20)
    path = folder.root / "data" / case.file
    path.write_bytes(case.make) if isinstance(case.make, bytes) else case.make(path)
    started = time.monotonic()
    if case.error:
        with pytest.raises((SourceError, DatasetError), match=case.error) as raised:
            folder.parse()
        assert shown(case.file) in str(raised.value)
    else:
        kept, out = _validate(folder)
        assert out == {line: [code] for line, code in case.faults.items()}
        assert kept == case.kept
    assert time.monotonic() - started < _LIMIT_SECONDS


@pytest.mark.parametrize("case", UNREADABLE_CASES, ids=lambda case: case.name)
def test_a_file_in_which_nothing_can_be_read_goes_to_quarantine_whole(folder: DataFolder, case: FileCase) -> None:
    assert isinstance(case.make, bytes)
    (folder.root / "data" / case.file).write_bytes(case.make)
    folder.write("good.jsonl", [good(number) for number in range(GOOD_ROWS)])
    folder.parse()
    folder.validate(**_ALL_BUT_TOO_MANY)
    out = folder.table("quarantine.parquet")
    assert out.height >= 1
    assert set(out["source_file"]) == {f"data/{case.file}"}
    assert all(out["reasons"].to_list())


@pytest.mark.parametrize("case", PARQUET_TYPE_CASES, ids=lambda case: case.name)
def test_a_column_of_another_type_gives_faults_or_an_error(folder: DataFolder, case: FileCase) -> None:
    assert isinstance(case.make, bytes)
    (folder.root / "data" / case.file).write_bytes(case.make)
    try:
        folder.parse()
    except SourceError as err:
        assert case.file in str(err)  # noqa: PT017
        return
    _, frame = folder.raw()
    assert frame["reason"].to_list() == ["wrong_shape"] * GOOD_ROWS


def test_files_of_other_kinds_do_not_disturb_each_other(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(number) for number in range(GOOD_ROWS)])
    folder.write("b.csv", "prompt,completion\n" + "".join(f"p {n},c {n}\n" for n in range(GOOD_ROWS)))
    folder.write("c.json", '[{"text": "one"}, {"text": 2}]')
    kept, out = _validate(folder)
    assert (kept, out) == (2 * GOOD_ROWS + 1, {1: ["wrong_shape"]})


def test_a_file_without_permission_is_named(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = folder.write("a.jsonl", [good(1)])
    opened = Path.open

    def open_or_refuse(self: Path, *given: Any) -> Any:
        if self == refused:
            raise PermissionError(13, "Permission denied")
        return opened(self, *given)

    monkeypatch.setattr(Path, "open", open_or_refuse)
    with pytest.raises(SourceError, match=r"data/a\.jsonl: cannot be read: Permission denied"):
        folder.parse()


def test_a_line_of_200_mb_is_a_fault(folder: DataFolder) -> None:
    path = folder.write("a.jsonl", [good(1)])
    with path.open("r+b") as file:
        file.seek(200 << 20)  # a hole: it takes no room on the disk
        file.write(b"\n" + "\n".join(good(number) for number in range(2, GOOD_ROWS)).encode())
    folder.parse()
    _, frame = folder.raw()
    assert frame.filter(pl.col("reason").is_not_null()).select("line", "reason").rows() == [(2, "line_too_long")]
    assert frame.height == GOOD_ROWS


def test_many_broken_rows_of_a_document_do_not_cost_their_square() -> None:
    document = b"[" + b",\n".join([b'{"text": broken, "x": "' + b"x" * 200 + b'"}'] * 40_000) + b"]"
    started = time.monotonic()
    records = [record for batch in READERS["json"](io.BytesIO(document), "a.json") for record in batch.decode()]
    assert time.monotonic() - started < _LIMIT_SECONDS
    assert len(records) == 40_000
    assert records[40_000 - 1].line == 40_000


def test_a_line_just_above_the_limit_is_a_fault(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(1), '{"x": "' + "x" * (17 << 20) + '"}', good(2)])
    folder.parse()
    assert folder.raw()[1]["reason"].to_list() == [None, "line_too_long", None]


_SEEDS = {
    case.file: case.make
    for case in FILE_CASES
    if case.name in ("no_last_break", "array_json", "quote_in_the_middle", "parquet_fine", "gz_fine")
    and isinstance(case.make, bytes)
}


@st.composite
def _mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 40))] = draw(
            st.binary(max_size=8) | st.sampled_from([b'"', b"{", b"\n", b"["])
        )
    return bytes(data)


@pytest.mark.parametrize("file", _SEEDS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_make_a_reader_fail_otherwise(tmp_path: Path, file: str, data: st.DataObject) -> None:
    path = tmp_path / file
    path.write_bytes(data.draw(st.binary(max_size=400) | _mutated(_SEEDS[file])))
    kind, _ = split_suffix(file)
    try:
        with open_source(path, file) as stream:
            records = [record for batch in READERS[kind](stream, file) for record in batch.decode()]
    except SourceError as err:
        assert str(err).startswith(file)  # noqa: PT017
        return
    assert all(record.line >= 1 for record in records)
    assert all(record.value is None for record in records if record.fault)


_BREAKS = [text for text, _ in BROKEN_CHATS.values()] + ["broken", "{", '"open', "// why", '{"messages": [', "{}}"]


@st.composite
def _documents(draw: st.DrawFn) -> tuple[str, dict[int, Any], set[int]]:
    """A document of chats, a row a line, some of them broken; the whole rows by their lines; lines of the others."""
    rows = draw(st.lists(st.none() | st.lists(st.text(max_size=12), min_size=1, max_size=3), min_size=1, max_size=12))
    texts, whole = [], {}
    for line, contents in enumerate(rows, start=2):
        if contents is None:
            texts.append(draw(st.sampled_from(_BREAKS)))
            continue
        more = draw(st.dictionaries(st.sampled_from(["id", "tools", "}]"]), st.lists(st.text(max_size=6)), max_size=2))
        texts.append(turns(*(("user", text) for text in contents), number=line, **more))
        if draw(st.booleans()):
            backwards = dict(reversed(json.loads(texts[-1]).items()))
            texts[-1] = json.dumps(backwards, ensure_ascii=draw(st.booleans()))
        whole[line] = json.loads(texts[-1])
    broken = set(range(2, len(rows) + 2)) - set(whole)
    if draw(st.booleans()):
        return "\n".join(['{"messages": []}', *texts]), {1: {"messages": []}} | whole, broken
    indent = draw(st.sampled_from(["", "  ", "\t"]))
    return "[\n" + ",\n".join(indent + text for text in texts) + "\n]", whole, broken


@settings(max_examples=300, deadline=None)
@given(_documents())
def test_each_whole_row_of_a_document_comes_back_whatever_is_broken_beside_it(
    case: tuple[str, dict[int, Any], set[int]],
) -> None:
    document, whole, broken = case
    records = [
        record for batch in READERS["json"](io.BytesIO(document.encode()), "a.json") for record in batch.decode()
    ]
    # Of "{}}", the first half is a row.
    assert {record.line: record.value for record in records if not record.fault and record.value != {}} == whole
    faults = [range(record.line, record.line + record.text.count("\n") + 1) for record in records if record.fault]
    end = {document.count("\n") + 1}  # where an array that is cut off has its fault
    assert {line for lines in faults for line in lines} - end == broken - end
    assert bool(faults) == bool(broken)
