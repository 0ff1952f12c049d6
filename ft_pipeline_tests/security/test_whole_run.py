"""One whole run with secrets around it, and a base that brings code: neither gets anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline_tests.security.whole_run import (
    ENVIRONMENT_SECRETS,
    KEY_IN_DATA,
    URL_TOKEN,
    URL_USER,
    WholeRun,
    run_all,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]
# All that goes through every stage; some files are compressed, and hold rows as they are.
_ROWS = (".parquet", ".arrow")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, project: Path) -> WholeRun:
    return run_all(tmp_path_factory.mktemp("whole") / "project", tiny_base, project)


def test_it_runs_through_to_a_published_model(run: WholeRun) -> None:
    assert run.status == 0, run.said[-4000:]
    assert list((run.root / "data/published/mine").resolve().glob("*.gguf"))


@pytest.mark.parametrize("name", [*ENVIRONMENT_SECRETS, "password of the URL", "token of the URL"])
def test_a_secret_is_in_no_log_database_manifest_record_or_report(run: WholeRun, name: str) -> None:
    secret = {**ENVIRONMENT_SECRETS, "password of the URL": URL_USER, "token of the URL": URL_TOKEN}[name]
    secret = secret.rpartition("/")[2] if "://" in secret else secret
    secret = secret.partition("@")[0].rpartition(":")[2]
    searched = list(_walk(run))
    assert len(searched) > 50
    assert [path for path in searched if secret.encode() in path.read_bytes()] == []
    assert secret not in run.said


def test_a_key_in_a_row_stays_in_the_data(run: WholeRun) -> None:
    found = [path for path in _walk(run) if KEY_IN_DATA.encode() in path.read_bytes()]
    assert found
    assert {path.relative_to(run.store).parts[0] for path in found} == {"_downloads"}  # the file as it came
    assert KEY_IN_DATA not in run.said
    (report,) = run.store.glob("data_report/*/data_report.html")
    assert "[SECRET]" in report.read_text()


def test_the_code_of_the_base_is_never_run(run: WholeRun) -> None:
    assert (run.root / "base/evil.py").is_file()
    assert not run.canary.exists()
    assert not list(run.store.rglob("*.py"))


def test_no_process_unpickles_but_what_its_own_family_hands_it(run: WholeRun) -> None:
    assert len([line for line in run.spied if line.startswith("stage")]) >= 8  # the spy was there
    assert [line for line in run.spied if line.startswith("pickle")] == []


def test_nothing_in_the_store_is_a_pickle(run: WholeRun) -> None:
    starts = {path: path.read_bytes()[:4] for path in run.store.rglob("*") if path.is_file()}
    pickles = [path for path, start in starts.items() if start[:2] in {b"\x80\x02", b"\x80\x04", b"\x80\x05"}]
    zips = [path for path, start in starts.items() if start == b"PK\x03\x04"]  # as torch.save writes them
    assert (pickles, zips) == ([], [])


def test_stages_are_not_told_who_is_told_of_runs(run: WholeRun) -> None:
    assert {line for line in run.spied if line.startswith("stage")} == {"stage "}


def _walk(run: WholeRun) -> Iterator[Path]:
    """Every file that the run has written."""
    for folder in (run.home, run.root / "data"):
        for place, _, files in os.walk(folder):
            yield from (Path(place, name) for name in files if not name.endswith(_ROWS))
