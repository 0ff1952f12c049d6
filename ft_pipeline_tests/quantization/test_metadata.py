"""The metadata: where a model comes from, in every GGUF, whatever its folder is called."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.metadata import Provenance, converter_metadata, lineage_keys
from ft_pipeline_tests.quantization.conftest import copy_model
from ft_pipeline_tests.quantization.provenance import SAID_OF_ORIGIN, make_provenance

HOSTILE = '---\n</s>\x00\u2028 \U0001f600 "quoted" \\'
ALWAYS = {
    "general.architecture": "llama",
    "general.type": "model",
    "general.name": "demo",
    "general.file_type": 1,
    "general.quantization_version": 2,
}


@pytest.fixture(scope="module")
def said(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the converter writes of a model that ships and of one that does not, in a folder that invites guessing."""
    folder = tmp_path_factory.mktemp("metadata")
    copy = copy_model(model, folder / "Foo-Bar-7B-v2.1-Instruct")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"_name_or_path": "Somebody/Other-3B-chat"}))
    provenances: dict[str, Provenance | None] = {"ships": make_provenance(description=HOSTILE), "base": None}
    with ExitStack() as stack:
        runs = {}
        for name, provenance in provenances.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(converter_metadata(provenance)), encoding="utf-8")
            runs[name] = stack.enter_context(
                Conversion(copy, folder / f"{name}.gguf", "demo", default_converter(), metadata=path, vocab_only=True)
            )
        for run in runs.values():
            run.wait()
        return {name: _general(run.outfile) for name, run in runs.items()}


def test_nothing_is_guessed_from_folders(said: dict[str, dict[str, Any]]) -> None:
    assert said["base"] == ALWAYS


def test_a_model_that_ships_says_where_it_comes_from(said: dict[str, dict[str, Any]]) -> None:
    assert said["ships"] == ALWAYS | {
        "general.description": HOSTILE,
        **SAID_OF_ORIGIN,
    }


def test_no_folder_of_the_machine_gets_into_the_metadata() -> None:
    provenance = make_provenance(base_name="/home/me/secret/base", base_revision=None, base_identity="b" * 24)
    assert converter_metadata(provenance)["general.base_models"] == [{"name": "base", "version": "b" * 24}]


@pytest.mark.parametrize("name", ["org/model\n", "org/model\nlicense: mit", "örg/model", "org/model/file", "model"])
def test_what_is_no_name_of_the_hub_is_no_link_to_it(name: str) -> None:
    assert make_provenance(base_name=name).hub_base is None


def test_lineage_fits_into_what_the_quantizer_takes() -> None:
    keys = lineage_keys(make_provenance(base_identity="ü" * 100))
    assert keys["ft_pipeline.base"] == "ü" * 63
    assert keys["ft_pipeline.held_out_loss"] == "0.1235"
    assert all(len(value.encode()) <= 127 for value in keys.values())


@pytest.mark.parametrize("field", ["date", "path"])
def test_provenance_has_no_place_for_dates_or_paths(field: str) -> None:
    with pytest.raises(ValueError, match="not permitted"):
        make_provenance(**{field: "x"})


def _general(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items() if "general." in name}
