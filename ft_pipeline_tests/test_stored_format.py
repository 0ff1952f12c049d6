from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from ft_pipeline.errors import NewerFormat
from ft_pipeline.stored_format import StoredFormat


class Note(BaseModel):
    """What is stored; format 1 called its words `text`, format 0 was the bare words by author."""

    format: int
    words: list[str]


KNOWN = StoredFormat(
    [
        lambda fields: {"text": " ".join(fields.values())},
        lambda fields: {"words": fields["text"].split()},
    ],
    oldest=0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "note.json"


@pytest.mark.parametrize(
    "stored",
    [{"ann": "one", "ben": "two"}, {"format": 1, "text": "one two"}, {"format": 2, "words": ["one", "two"]}],
)
def test_every_earlier_format_is_read_as_the_present_one_and_stays_as_it_is(
    path: Path, stored: dict[str, object]
) -> None:
    path.write_text(json.dumps(stored))
    assert KNOWN.read(path, Note) == Note(format=2, words=["one", "two"])
    assert json.loads(path.read_text()) == stored


def test_a_newer_format_is_refused_with_what_to_do(path: Path) -> None:
    path.write_text('{"format": 3, "sentences": []}')
    with pytest.raises(NewerFormat, match=r"note\.json has format 3, .* reads up to 2: .* Update ft_pipeline"):
        KNOWN.read(path, Note)


@pytest.mark.parametrize(
    "stored", ['{"format": 2}', '{"format": "two", "words": 1}', "[1]", '{"format": -1, "words": 1}']
)
def test_what_fits_no_format_is_the_models_to_refuse(path: Path, stored: str) -> None:
    path.write_text(stored)
    with pytest.raises(ValidationError):
        KNOWN.read(path, Note)


def test_what_is_no_json_is_a_value_error(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(ValueError, match="property name"):
        KNOWN.read(path, Note)
