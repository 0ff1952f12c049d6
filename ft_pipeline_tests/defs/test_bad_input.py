"""What a user gets wrong, through Dagster: one clear error, and nothing half-written or lost."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml

from ft_pipeline.definitions import defs
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline_tests.quantization.model_folders import make_unknown_tokenizer
from ft_pipeline_tests.user_project import RECIPE, ROW, make_project


@pytest.fixture
def user(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's own project: recipe, data and base."""
    return make_project(tmp_path, tiny_base, monkeypatch)


@pytest.fixture(scope="module")
def store_before_training(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """What a run of such a project has made when training is next."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_project(tmp_path_factory.mktemp("before") / "root", tiny_base, monkeypatch)
        assert _run("raw_dataset", "validated_dataset") == ""
    return root / "data/artifacts"


@pytest.fixture
def checked(user: Path, store_before_training: Path) -> Path:
    """The same project when training is next."""
    shutil.copytree(store_before_training, user / "data/artifacts")
    return user


def _run(*assets: str, pipeline: dict[str, Any] | None = None, gpu: dict[str, Any] | None = None) -> str:
    """Materialize assets in this process.

    Returns:
        The text of the error of the asset that failed; empty if none did.
    """
    result = _execute(*assets, pipeline=pipeline, gpu=gpu)
    errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
    texts = [cause.message if cause else error.message for error in errors if error for cause in [error.cause]]
    return "\n".join(texts)


def _execute(
    *assets: str, pipeline: dict[str, Any] | None = None, gpu: dict[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    config = {"pipeline": {"config": pipeline or {}}, "gpu": {"config": gpu or {}}}
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def("fine_tune").execute_in_process(
            run_config={"resources": config},
            asset_selection=[dg.AssetKey(name) for name in assets],
            instance=instance,
            raise_on_error=False,
        )


def _require_not_trained(result: dg.ExecuteInProcessResult, why: str) -> None:
    """See that the check before training has failed for this reason, and that training was not even started."""
    (check,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "can_be_exported"]
    assert not check.passed
    assert re.search(why, check.description or "")
    started = {event.step_key for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_START}
    assert "validated_dataset" in started
    assert "trained_adapter" not in started
    assert not result.success


def _left(user: Path) -> set[str]:
    return {path.parent.name for path in (user / "data/artifacts").glob("[a-z]*/*")}


def test_good_input_passes(checked: Path) -> None:
    assert _left(checked) == {"raw_dataset", "validated_dataset", "data_report", "export_check"}


def test_a_wrong_field_of_the_recipe(user: Path) -> None:
    (user / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE | {"trainng": {}}))
    assert "mine.yaml:" in (error := _run("raw_dataset"))
    assert "trainng: there is no such field; did you mean 'training'?" in error
    assert _left(user) == set()


@pytest.mark.usefixtures("user")
def test_a_wrong_field_in_the_run_config() -> None:
    assert "run config: training.epocs" in _run("raw_dataset", pipeline={"overrides": {"training.epocs": 1}})


def test_no_file_in_the_sources(user: Path) -> None:
    (user / "data/rows.jsonl").unlink()
    assert "data/*.jsonl: matches no file below" in _run("raw_dataset")


def test_an_empty_data_set(user: Path) -> None:
    (user / "data/rows.jsonl").write_text("\n")
    assert "a data set must have at least one row; the sources are empty: data/rows.jsonl" in _run("raw_dataset")
    assert _left(user) == set()


def test_a_base_that_is_not_there(user: Path) -> None:
    shutil.rmtree(user / "base")
    assert "base_model.source must be a folder of the project or a Hub name" in _run("raw_dataset")


def test_a_base_without_a_chat_template(user: Path) -> None:
    (user / "base/chat_template.jinja").unlink()
    assert "a base model must have a chat template" in _run("raw_dataset", "validated_dataset")
    assert _left(user) == {"raw_dataset"}


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("asset", "missing"),
    [
        ("validated_dataset", "raw_dataset"),
        ("trained_adapter", "validated_dataset"),
        ("merged_model", "trained_adapter"),
        ("gguf_model", "merged_model"),
        ("evaluation_report", "gguf_model"),
        ("published_model", "evaluation_report"),
    ],
)
def test_an_asset_whose_input_was_never_made_says_the_one_command_that_makes_it(asset: str, missing: str) -> None:
    error = _run(asset).strip()
    assert re.search(rf"Failure: {missing} \w+ is not in ", error)
    assert error.endswith(f"dagster asset materialize --select '*{missing}' -m ft_pipeline.definitions")


def test_a_base_that_is_edited_while_a_stage_reads_it_goes_into_no_artifact(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit_meanwhile(*arguments: Any, **options: Any) -> Any:
        config = user / "base/config.json"
        config.write_text(config.read_text() + " ")
        return run_stage(*arguments, **options)

    monkeypatch.setattr("ft_pipeline.builder.run_stage", edit_meanwhile)
    assert "must stay as it is while a run goes on" in _run("raw_dataset", "validated_dataset")
    assert "validated_dataset" not in _left(user)


@pytest.mark.usefixtures("checked")
def test_a_card_too_small() -> None:
    error = _run("trained_adapter", gpu={"vram_limit_gib": 0.01})
    assert "training must fit the device" in error
    assert "allowed by gpu.vram_limit_gib" in error


def test_a_device_that_somebody_holds(checked: Path) -> None:
    with hold_device(
        "cpu", lock_dir=checked / "locks", timeout_seconds=0, holder="another recipe", tell=lambda _: None
    ):
        error = _run("trained_adapter", gpu={"wait_seconds": 0.2})
    assert "cpu must be free within 0 s and was not: held by another recipe" in error
    assert "trained_adapter" not in _left(checked)


def test_a_tokenizer_that_llama_cpp_does_not_know_is_found_before_training(user: Path) -> None:
    make_unknown_tokenizer(user / "base")
    result = _execute("raw_dataset", "validated_dataset", "trained_adapter")
    _require_not_trained(result, "BPE pre-tokenizer was not recognized")
    assert _left(user) == {"raw_dataset", "validated_dataset", "data_report"}


def test_too_little_disk_is_found_before_training(checked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    _require_not_trained(
        _execute("raw_dataset", "validated_dataset", "trained_adapter"),
        "merging, converting and quantizing needs .* short",
    )
    # A run that begins with the training asks again.
    assert re.search("merging, converting and quantizing needs .* short", _run("trained_adapter"))
    assert "trained_adapter" not in _left(checked)


def test_too_many_bad_rows_stop_the_run_before_training_and_in_any_later_run(user: Path) -> None:
    with (user / "data/rows.jsonl").open("a") as file:
        file.write("broken\n" * 10)
    assert "validated_dataset: quarantined_share" in _run("raw_dataset", "validated_dataset", "trained_adapter")
    assert _left(user) == {"raw_dataset", "validated_dataset", "data_report"}
    assert "the validated data set breaks its contract: quarantined_share" in _run("trained_adapter")


def test_new_rows_are_another_data_set_and_the_earlier_one_stays(checked: Path) -> None:
    with (checked / "data/rows.jsonl").open("a") as file:
        file.write(ROW % (77, 77))
    assert "validated_dataset" in _run("trained_adapter")
    assert _run("raw_dataset", "validated_dataset") == ""
    assert len(list((checked / "data/artifacts/validated_dataset").iterdir())) == 2


def test_force_builds_anew_beside_what_was_there_and_later_runs_take_it(checked: Path) -> None:
    first = set((checked / "data/artifacts").glob("[a-z]*/*"))
    assert _run("validated_dataset", pipeline={"force": True}) == ""
    rebuilt = set((checked / "data/artifacts").glob("[a-z]*/*"))
    assert first < rebuilt
    assert {path.parent.name for path in rebuilt - first} == {"validated_dataset", "data_report"}
    assert _run("raw_dataset", "validated_dataset") == ""
    assert set((checked / "data/artifacts").glob("[a-z]*/*")) == rebuilt


def test_a_recipe_that_is_edited_while_a_run_goes_on_is_the_next_runs(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit_meanwhile(*arguments: Any, **options: Any) -> Any:
        (user / "recipes/mine.yaml").write_text("name: broken\n")
        return run_stage(*arguments, **options)

    monkeypatch.setattr("ft_pipeline.builder.run_stage", edit_meanwhile)
    assert _run("raw_dataset", "validated_dataset") == ""
