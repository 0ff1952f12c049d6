from __future__ import annotations

import errno
import json
import logging
import os
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from ft_pipeline.errors import PublicationError
from ft_pipeline.pipeline import Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.publishing import alias
from ft_pipeline.publishing.alias import (
    AliasState,
    Event,
    JudgedModel,
    alias_folder,
    delivery_lock,
    list_recipes,
    read_champion,
    read_state,
)
from ft_pipeline.publishing.history import find_bar, find_opponents, list_earlier, list_published
from ft_pipeline.recipe import Recipe
from ft_pipeline.run import Run
from ft_pipeline_tests.publishing.small_models import Publishing, judge, make_model, make_recipe, report_of

FIRST = {
    "gguf_model": "second",
    "evaluation_report": "report-2",
    "against": "first",
    "since": "2026-01-02T00:00:00Z",
    "previous": {
        "gguf_model": "first",
        "evaluation_report": "report-1",
        "against": None,
        "since": "2026-01-01T00:00:00Z",
        "previous": None,
    },
}


def test_there_is_no_champion_at_first(tmp_path: Path) -> None:
    assert read_champion(tmp_path, "demo") is None
    assert list(list_published(tmp_path, {}, 2)) == []


def test_a_better_model_takes_the_place_and_the_one_before_is_remembered(publishing: Publishing) -> None:
    assert publishing.publish(1).published
    assert publishing.publish(2).published
    first, second = publishing.fingerprint(1), publishing.fingerprint(2)
    champion = publishing.state.champion
    assert champion
    assert (champion.gguf_model, champion.against, champion.score) == (second, first, 0.2)
    assert [model.gguf_model for model in list_earlier(publishing.state)] == [first]
    assert [(event.kind, event.run) for event in publishing.state.history] == [("promoted", "run-1")] * 2


def test_a_first_model_is_published_when_its_report_knows_no_champion(publishing: Publishing) -> None:
    done = publishing.publish(1, against=None)
    assert done.published
    assert (done.reason, done.score) == ("it passed the gate and is better", 0.1)
    assert publishing.state.best == publishing.state.champion == done.champion


def test_publishing_the_champion_again_changes_nothing(publishing: Publishing) -> None:
    publishing.publish(1)
    alias = alias_folder(publishing.store.root) / "demo.json"
    before = alias.read_bytes()
    done = publishing.publish(1)
    assert (done.published, done.reason) == (False, "it is the champion already")
    assert alias.read_bytes() == before


def test_a_report_against_another_champion_does_not_publish(publishing: Publishing) -> None:
    publishing.publish(1)
    with pytest.raises(PublicationError, match=r"compares with the champion none, and it is [0-9a-f]{24} now"):
        publishing.publish(2, against=None)
    assert publishing.champion == publishing.fingerprint(1)
    assert publishing.versions() == {f"demo-{publishing.fingerprint(1)}"}


def test_the_best_is_moved_only_by_one_that_is_as_good(publishing: Publishing) -> None:
    publishing.publish(1)
    publishing.publish(2, is_best=False)
    publishing.publish(3, is_best=False)
    best = publishing.state.best
    assert best
    assert best.gguf_model == publishing.fingerprint(1)
    assert find_opponents(publishing.state, "new").best == publishing.fingerprint(1)
    publishing.publish(4)
    assert publishing.state.best == publishing.state.champion
    assert find_opponents(publishing.state, "new").best is None


def test_a_champion_is_looked_for_with_those_that_it_was_scored_against(publishing: Publishing) -> None:
    publishing.publish(1)
    publishing.publish(2, is_best=False)
    met = find_opponents(publishing.state, publishing.fingerprint(3))
    assert (met.champion, met.best) == (publishing.fingerprint(2), publishing.fingerprint(1))
    publishing.publisher().publish(make_model(publishing.store, 3), judge(3, met))
    assert find_opponents(publishing.state, publishing.fingerprint(3)) == met


def test_a_rejected_model_is_the_challenger_until_another_is_published(publishing: Publishing) -> None:
    publishing.publish(1)
    done = publishing.reject(2)
    assert (done.published, done.champion) == (False, publishing.state.champion)
    assert publishing.state.challenger
    assert publishing.state.challenger.gguf_model == publishing.fingerprint(2)
    publishing.publish(3)
    assert publishing.state.challenger is None


def test_a_report_is_acted_on_once(publishing: Publishing) -> None:
    publishing.publish(1)
    for report in (report_of(2), report_of(2), "another-report", report_of(2)):
        publishing.reject(2, report=report)
    kinds = [(event.kind, event.model.evaluation_report) for event in publishing.state.history]
    assert kinds == [("promoted", report_of(1)), ("rejected", report_of(2)), ("rejected", "another-report")]


def test_a_champion_that_no_longer_passes_the_gate_stays_champion_and_is_no_challenger(publishing: Publishing) -> None:
    publishing.publish(1)
    publishing.reject(1, report="stricter")
    assert publishing.champion == publishing.fingerprint(1)
    assert publishing.state.challenger is None


def test_the_champion_of_an_earlier_version_is_still_champion(publishing: Publishing) -> None:
    aliases = alias_folder(publishing.store.root)
    aliases.mkdir(parents=True)
    first = aliases / "demo.champion.json"
    first.write_text(json.dumps(FIRST))
    assert list_recipes(aliases) == ["demo"]
    champion = read_champion(aliases, "demo")
    assert champion
    assert (champion.gguf_model, champion.against, champion.score) == ("second", "first", None)
    assert [model.gguf_model for model in list_earlier(read_state(aliases, "demo"))] == ["first"]
    publishing.publish(3, against="second")
    assert not first.exists(), "without demo.json, its champion would come back"
    assert list_recipes(aliases) == ["demo"]
    assert [model.gguf_model for model in list_earlier(publishing.state)] == ["second", "first"]
    assert publishing.state.best == publishing.state.champion


def test_a_recipe_may_be_called_as_the_earlier_version_called_its_files(tmp_path: Path) -> None:
    (tmp_path / "demo.champion.json").write_text('{"format": 1}')
    assert list_recipes(tmp_path) == ["demo.champion"]
    assert read_champion(tmp_path, "demo") is None


@pytest.mark.parametrize("text", ["{", "5", "null", '{"format": 0}', '{"champion": {}}', "[" * 100_000])
@pytest.mark.parametrize("name", ["demo.json", "demo.champion.json"])
def test_a_damaged_alias_is_a_short_error_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    if name == "demo.champion.json" and "format" in text:
        assert read_champion(tmp_path, "demo") is None, "it is another recipe's"
        return
    with pytest.raises(PublicationError, match=rf"{name} does not read: .*Restore it from a backup") as raised:
        read_champion(tmp_path, "demo")
    assert len(str(raised.value)) - len(str(tmp_path)) < 320
    assert list_recipes(tmp_path) == ["demo"]


def test_an_alias_of_a_newer_version_asks_for_that_version_and_is_not_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"format": 2, "champion": {"more": 1}}')
    with pytest.raises(PublicationError, match=r"demo.json has format 2.*a newer version of ft_pipeline") as raised:
        read_champion(tmp_path, "demo")
    assert "remove" not in str(raised.value)


def test_aliases_that_cannot_be_written_are_an_error_that_names_the_folder(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing.publish(1)
    before = publishing.state

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write_file", "lock_file"):
        with monkeypatch.context() as patch:
            patch.setattr(alias, name, refuse)
            with pytest.raises(PublicationError, match=r"the aliases in .* cannot be written: .*No space left"):
                publishing.reject(2)
    assert publishing.state == before


def test_what_killed_writers_have_left_of_an_alias_goes(publishing: Publishing) -> None:
    publishing.publish(1)
    aliases, versions = alias_folder(publishing.store.root), publishing.published / ".versions"
    left = [aliases / ".demo.json.0123abcd", versions / ".demo.store.0123abcd"]
    others = [aliases / ".demo.json.json.0123abcd", aliases / ".demo.jsonx", versions / ".demo.store.store.0123abcd"]
    for path in (*left, *others):
        path.touch()
    publishing.reject(2)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_no_recipes_name_makes_the_lock_of_anothers_delivery(tmp_path: Path) -> None:
    with delivery_lock(tmp_path, "a"):
        (lock,) = tmp_path.iterdir()
    settings = make_recipe().model_dump(exclude_unset=True)
    for name, is_name in (("a.delivery", True), (lock.name[1:].removesuffix(".lock"), False)):
        with nullcontext() if is_name else pytest.raises(ValidationError, match="name"):
            Recipe.model_validate({**settings, "name": name})


def test_a_long_history_is_gone_through_at_once() -> None:
    now, events = datetime(2026, 1, 1, tzinfo=UTC), []
    for number in range(20_000):
        model = JudgedModel(gguf_model=f"{number:024x}", evaluation_report="r", against=None, since=now)
        events.append(Event(at=now, kind="promoted", model=model, run=None, reason=""))
    events += [Event(at=now, kind="rolled_back", model=events[-2].model, run=None, reason="")] * 3
    state = AliasState(champion=events[-1].model, history=tuple(events))
    began = time.process_time()
    assert find_bar(state, f"{19_999:024x}")
    assert time.process_time() - began < 5, "a walk over lists takes minutes"


def test_what_the_aliases_keep_is_each_model_with_its_report(publishing: Publishing) -> None:
    for number in range(1, 6):
        publishing.publish(number, is_best=number == 1)
    publishing.reject(6)
    kept = set(list_published(alias_folder(publishing.store.root), {"demo": 1}, 2))
    assert {name for asset, name in kept if asset == "gguf_model"} == {publishing.fingerprint(n) for n in (1, 4, 5, 6)}
    assert {name for asset, name in kept if asset == "evaluation_report"} == {report_of(n) for n in (1, 4, 5, 6)}
    none_before = set(list_published(alias_folder(publishing.store.root), {"demo": 0}, 2))
    assert ("gguf_model", publishing.fingerprint(4)) in none_before, "the champion was scored against it"
    assert ("evaluation_report", report_of(4)) not in none_before


def test_another_recipes_damaged_alias_leaves_the_store_as_it_is_and_does_not_undo_a_publication(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    (alias_folder(publishing.store.root) / "other.json").parent.mkdir(parents=True)
    (alias_folder(publishing.store.root) / "other.json").write_text("{")
    run = Run(lambda: publishing.recipe, publishing.store.root.parent, publishing.store.root)
    done = publishing.publish(1)
    with caplog.at_level(logging.WARNING):
        assert Pipeline(run, LogReporter(logging.getLogger()))._collect(done) == done
    assert "not all that nobody needs was removed from the store: PublicationError: the alias" in caplog.text


@pytest.mark.parametrize("err", [NotADirectoryError(20, "Not a directory", "backup/manifest.json"), KeyError("mine")])
def test_whatever_goes_wrong_in_a_collection_does_not_undo_the_publication_before_it(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, err: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise err

    monkeypatch.setattr("ft_pipeline.pipeline.collect_garbage", fail)
    run = Run(lambda: publishing.recipe, publishing.store.root.parent, publishing.store.root)
    done = publishing.publish(1)
    with caplog.at_level(logging.WARNING):
        assert Pipeline(run, LogReporter(logging.getLogger()))._collect(done) == done
    assert f"not all that nobody needs was removed from the store: {type(err).__name__}" in caplog.text
