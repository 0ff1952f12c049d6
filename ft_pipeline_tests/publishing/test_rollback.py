from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline.errors import PublicationError
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline.publishing.history import find_opponents
from ft_pipeline_tests.publishing.small_models import NAME, Publishing

RECIPE = f"""\
name: {NAME}
base_model: {{source: base}}
dataset: {{sources: [data/*.jsonl]}}
publishing: {{ollama: never}}
"""


@pytest.fixture
def three(publishing: Publishing) -> Publishing:
    """Three models that were champion one after the other."""
    for number in (1, 2, 3):
        publishing.publish(number)
    return publishing


def test_a_rollback_restores_the_earlier_champion_byte_for_byte(publishing: Publishing) -> None:
    publishing.publish(1)
    before, champion = publishing.sums(), publishing.state.champion
    publishing.publish(2)
    assert publishing.sums() != before
    done = publishing.roll_back()
    assert done.published
    assert publishing.sums() == before
    assert publishing.state.champion == champion == done.champion
    event = publishing.state.history[-1]
    assert (event.kind, event.run, event.reason) == (
        "rolled_back",
        None,
        f"by hand, from {publishing.fingerprint(2)}",
    )


def test_it_is_the_same_to_the_byte_when_its_version_was_removed_or_damaged(three: Publishing) -> None:
    three.roll_back()
    before = three.sums()
    three.roll_back(three.fingerprint(3))
    version = three.published / ".versions" / f"demo-{three.fingerprint(2)}"
    shutil.rmtree(version)
    three.roll_back(three.fingerprint(2))
    assert three.sums() == before
    three.roll_back(three.fingerprint(3))
    modelfile = version / "Modelfile"
    size = modelfile.stat().st_size
    modelfile.unlink()
    modelfile.write_text("x" * size)
    three.roll_back(three.fingerprint(2))
    assert three.sums() == before


def test_it_goes_back_step_by_step_and_forward_again(three: Publishing) -> None:
    first, second, third = (three.fingerprint(number) for number in (1, 2, 3))
    for to, expected in ((None, second), (None, first), (third[:12], third), (first, first), (second[:20], second)):
        three.roll_back(to)
        assert three.champion == expected
        assert three.link.readlink().name == f"demo-{expected}"
    three.roll_back()
    with pytest.raises(PublicationError, match=rf"had no champion before {first}"):
        three.roll_back()


def test_after_a_rollback_the_one_before_is_who_was_champion_then(three: Publishing) -> None:
    three.roll_back(three.fingerprint(1))
    three.publish(4)
    three.roll_back()
    assert three.champion == three.fingerprint(1)


def test_a_rerun_does_not_publish_again_what_was_gone_back_from(three: Publishing) -> None:
    three.roll_back(three.fingerprint(1))
    history = three.state.history
    for number in (2, 3):
        done = three.publish(number)
        assert not done.published
        assert f"no run publishes it again; make rollback TO={three.fingerprint(number)[:12]} does" in done.reason
    assert three.champion == three.fingerprint(1)
    assert three.state.history == history
    three.roll_back(three.fingerprint(3)[:12])
    three.roll_back(three.fingerprint(2)[:12])
    assert "no run publishes it again" in three.publish(3).reason
    three.publish(4)
    assert "no run publishes it again" in three.publish(3).reason
    assert three.publish(1).published, "it was taken over from, and never gone back from"


def test_the_beginning_of_a_fingerprint_must_be_of_one_champion(three: Publishing) -> None:
    three.reject(4)
    for prefix in ("zz", three.fingerprint(4)):
        with pytest.raises(PublicationError, match=rf"'{prefix}' is of none. Take one of: {three.fingerprint(3)}, "):
            three.roll_back(prefix)
    with pytest.raises(PublicationError, match=r"'' is the beginning of several"):
        three.roll_back("")


def test_there_is_nothing_to_go_back_from(publishing: Publishing) -> None:
    with pytest.raises(PublicationError, match=r"demo has no champion, so there is nothing to go back from"):
        publishing.roll_back()


def test_a_damaged_model_is_an_error_that_changes_nothing_and_names_the_others(three: Publishing) -> None:
    first, second = three.fingerprint(1), three.fingerprint(2)
    with (three.store.load("gguf_model", second).path / "demo-Q8_0.gguf").open("r+") as file:
        file.write("X")  # the published file is the same one
    state, published = three.state, three.sums()
    with pytest.raises(
        PublicationError, match=rf"does not match its manifest.*Nothing was changed.*back to: {first}\."
    ):
        three.roll_back()
    assert (three.state, three.sums()) == (state, published)
    three.roll_back(first)
    assert three.champion == first


def test_a_model_that_is_gone_everywhere_is_an_error_that_changes_nothing(three: Publishing) -> None:
    for number in (1, 2):
        three.lose(number)
        shutil.rmtree(three.published / ".versions" / f"demo-{three.fingerprint(number)}")
    with pytest.raises(PublicationError, match=r"there is no copy in .*Nothing was changed. To be gone back to: none"):
        three.roll_back()
    assert three.link.readlink().name == f"demo-{three.champion}"


def test_a_model_that_the_store_has_lost_is_taken_from_its_version(three: Publishing) -> None:
    before = three.published / ".versions" / f"demo-{three.fingerprint(2)}"
    three.lose(2)
    three.roll_back()
    assert three.link.resolve() == before.resolve()
    assert find_faults(three.link) == []


def test_what_was_gone_back_from_is_no_mark_for_those_that_come(three: Publishing) -> None:
    assert three.state.best == three.state.champion
    three.roll_back()
    assert three.state.best == three.state.champion
    assert find_opponents(three.state, "new").best is None


def test_a_rollback_goes_back_when_the_published_folder_was_removed_after_one(three: Publishing) -> None:
    three.roll_back()
    shutil.rmtree(three.published)
    assert three.roll_back().published
    assert three.champion == three.fingerprint(1)


def test_the_commands_are_of_the_recipe_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    for name in (NAME, "tickets"):
        (tmp_path / f"recipes/{name}.yaml").write_text(RECIPE.replace(NAME, name))
    monkeypatch.setenv("FT_PIPELINE_ROOT", str(tmp_path))
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", "data/artifacts")
    monkeypatch.setenv("FT_PIPELINE_RECIPE", NAME)
    publishing = Publishing(tmp_path / "data")
    publishing.publish(1)
    publishing.publish(2)
    assert CliRunner().invoke(main, ["history", "tickets"]).output == "tickets: nothing was judged yet\n"
    refused = CliRunner().invoke(main, ["rollback", "tickets"]).exception
    assert isinstance(refused, PublicationError)
    assert str(refused).startswith("tickets has no champion")
    assert publishing.champion == publishing.fingerprint(2)


def test_the_commands_go_back_and_tell_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / f"recipes/{NAME}.yaml").write_text(RECIPE)
    monkeypatch.setenv("FT_PIPELINE_ROOT", str(tmp_path))
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", "data/artifacts")
    monkeypatch.setenv("FT_PIPELINE_RECIPE", NAME)
    monkeypatch.delenv("FT_PIPELINE_PUBLISHED", raising=False)
    run = CliRunner().invoke
    assert run(main, ["history"], catch_exceptions=False).output == "demo: nothing was judged yet\n"
    publishing = Publishing(tmp_path / "data")
    publishing.publish(1)
    publishing.publish(2)
    publishing.reject(3)
    first, second = publishing.fingerprint(1), publishing.fingerprint(2)
    gone_back = run(main, ["rollback", "--to", first[:8]], catch_exceptions=False).output
    assert gone_back.startswith(f"demo: rolled back by hand, from {second}\nchampion: {first}  score 0.1000")
    assert f"{publishing.link} -> .versions/demo-{first}" in gone_back
    told = run(main, ["history"], catch_exceptions=False).output
    assert told.startswith(f"demo:\nchampion:    {first}")
    assert f"best:        {first}" in told
    assert f"challenger:  {publishing.fingerprint(3)}" in told
    assert [line.split()[2] for line in told.splitlines()[4::2]] == ["rolled", "rejected", "promoted", "promoted"]
    assert "level with the champion" in told
