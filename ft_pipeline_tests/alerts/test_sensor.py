"""The sensor, evaluated by Dagster on an instance with runs that have ended, telling a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_pipeline.alerts import delivery, outbox
from ft_pipeline.defs import alerts as sensor
from ft_pipeline.defs.alerts import alerts
from ft_pipeline.defs.failures import failing_plainly
from ft_pipeline.errors import AlertError, DatasetError
from ft_pipeline.evaluation.rules import GATE
from ft_pipeline_tests.alerts.hook_server import HookServer, serve_hook
from ft_pipeline_tests.alerts.mail_server import MailServer, serve_mail


class Watch:
    """The sensor and what it remembers between ticks."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str:
        """Evaluate it once, as a daemon that may have been started anew; its reason."""
        with dg.build_sensor_context(self.instance, self.cursor) as context:
            result = alerts(context)
            assert isinstance(result, dg.SkipReason)
            self.cursor = context.cursor
        return str(result.skip_message)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[HookServer]:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", ())
    monkeypatch.setenv("FT_PIPELINE_ALERT_ON", "failure,promotion,rejection")
    with serve_hook() as server:
        monkeypatch.setenv("FT_PIPELINE_ALERT_WEBHOOK", server.url)
        yield server


@pytest.fixture
def watch(tmp_path: Path, hook: HookServer) -> Iterator[Watch]:  # noqa: ARG001 - it must be there at the first tick
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        watch = Watch(instance)
        watch.tick()
        yield watch


def test_it_is_off_until_it_is_turned_on() -> None:
    assert alerts.default_status == dg.DefaultSensorStatus.STOPPED


def test_without_a_receiver_it_says_what_to_set(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FT_PIPELINE_ALERT_WEBHOOK")
    assert "no receiver is set: FT_PIPELINE_ALERT_WEBHOOK or FT_PIPELINE_ALERT_SMTP names one" in watch.tick()


def test_a_run_that_failed_is_told_once_with_the_errors_own_sentence(watch: Watch, hook: HookServer) -> None:
    run = _run(watch.instance, error="half of the rows are in quarantine. Mend them")
    assert "webhook: ft_pipeline: a run of demo failed" in watch.tick()
    ((_, body),) = hook.taken
    assert body["text"].splitlines() == [
        "ft_pipeline: a run of demo failed",
        "raw_dataset: half of the rows are in quarantine. Mend them",
        f"run {run}",
    ]
    for _ in range(3):
        assert watch.tick() == "no run has ended that is to be told of"
    assert len(hook.taken) == 1


def test_the_recipe_of_the_runs_configuration_is_named(watch: Watch, hook: HookServer) -> None:
    _run(watch.instance, error="no", config={"resources": {"pipeline": {"config": {"recipe": "mine"}}}})
    watch.tick()
    assert hook.titles == ["ft_pipeline: a run of mine failed"]


def test_what_ended_before_it_was_turned_on_is_not_told(tmp_path: Path, hook: HookServer) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        _run(instance, error="long ago")
        watch = Watch(instance)
        watch.tick()
        _run(instance, error="now")
        watch.tick()
    assert [body["text"].splitlines()[1] for _, body in hook.taken] == ["raw_dataset: now"]


def test_a_mail_that_one_of_its_recipients_refuses_is_handed_in_once(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FT_PIPELINE_ALERT_WEBHOOK")
    with serve_mail() as mail:
        _name_mail_server(mail, "a@example.org,gone@example.org", monkeypatch)
        mail.refused = {"gone@example.org"}
        _run(watch.instance, error="no")
        assert re.search(r"has not reached everybody: the mail server .* refuses gone@example\.org", watch.tick())
        assert watch.tick() == "no run has ended that is to be told of"
        assert [recipients for _, recipients in mail.taken] == [["a@example.org"]]


def test_a_check_that_blocks_is_told_with_what_it_found_and_the_report(watch: Watch, hook: HookServer) -> None:
    said, rules = "half of the answers are wrong", {"answers_right": 0.4, GATE: None}

    @dg.asset(check_specs=[dg.AssetCheckSpec(name, asset="evaluation_report", blocking=True) for name in rules])
    def evaluation_report() -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads no other
        results = [
            dg.AssetCheckResult(
                passed=False, check_name=name, description=said, metadata={"value": value, "limit": 0.8}
            )
            for name, value in rules.items()
        ]
        return dg.MaterializeResult(
            metadata={"report": dg.MetadataValue.path("/store/report.html")}, check_results=results
        )

    assert not dg.materialize([evaluation_report], instance=watch.instance, raise_on_error=False).success
    watch.tick()
    assert hook.taken[0][1]["text"].splitlines()[1:-1] == [
        "evaluation_report, answers_right: half of the answers are wrong (found 0.4, limit 0.8)",
        "report: /store/report.html",
    ]


def test_a_run_whose_process_was_killed_is_told(watch: Watch, hook: HookServer) -> None:
    run = watch.instance.create_run_for_job(_job(), status=dg.DagsterRunStatus.STARTED)
    watch.instance.report_run_failed(run, "the run's process has gone away")  # as run monitoring does
    watch.tick()
    assert "the run's process has gone away" in hook.taken[0][1]["text"]


def test_a_run_that_was_canceled_is_told(watch: Watch, hook: HookServer) -> None:
    run = watch.instance.create_run_for_job(_job(), status=dg.DagsterRunStatus.CANCELING)
    watch.instance.report_run_canceled(run)
    watch.tick()
    assert hook.titles == ["ft_pipeline: a run of demo was canceled"]


def test_a_run_that_will_be_tried_again_is_not_told(watch: Watch, hook: HookServer) -> None:
    _run(watch.instance, error="no", tags={"dagster/will_retry": "true"})
    watch.tick()
    assert hook.taken == []


def test_a_run_that_is_executed_again_is_told_though_it_has_the_tags_of_the_first(
    watch: Watch, hook: HookServer
) -> None:
    first = _run(watch.instance, error="no")
    watch.tick()
    found = watch.instance.get_run_by_id(first)
    assert found is not None
    marks = {tag: value for tag, value in found.tags.items() if tag.startswith("ft_pipeline/")}
    assert marks
    _run(watch.instance, error="again", tags=marks)
    watch.tick()
    assert len(hook.taken) == 2


def test_a_new_champion_is_told_with_both_scores_and_the_report(watch: Watch, hook: HookServer) -> None:
    _run(watch.instance, published={"published": True, "reason": "it is better", "score": 0.94, "previous_score": 0.9})
    watch.tick()
    ((_, body),) = hook.taken
    lines = body["text"].splitlines()
    assert body["kind"] == "promotion"
    assert lines[:4] == [
        "ft_pipeline: demo has a new champion",
        "it is better",
        "score 0.94, the champion before 0.9",
        "report: /store/report.html",
    ]


def test_a_challenger_that_was_rejected_is_told_to_those_who_want_it(
    watch: Watch, hook: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(watch.instance, published={"published": False, "reason": "worse", "score": 0.1})
    watch.tick()
    assert hook.titles == ["ft_pipeline: demo keeps its champion"]
    monkeypatch.setenv("FT_PIPELINE_ALERT_ON", "failure,promotion")
    _run(watch.instance, published={"published": False, "reason": "worse", "score": 0.1})
    watch.tick()
    assert len(hook.taken) == 1


def test_a_run_that_publishes_nothing_is_not_told(watch: Watch, hook: HookServer) -> None:
    _run(watch.instance)
    watch.tick()
    assert hook.taken == []


def test_an_alert_waits_for_a_receiver_that_is_down_and_no_other_is_told_twice(watch: Watch, hook: HookServer) -> None:
    _run(watch.instance, error="first")
    _run(watch.instance, error="second")
    hook.answers = [200, 500]
    with pytest.raises(AlertError, match=r"has not reached webhook: .* it answered 500") as err:
        watch.tick()
    assert "S3CRET" not in str(err.value)
    watch.tick()
    watch.tick()
    told = [body["text"].splitlines()[1] for _, body in hook.taken]
    assert told == ["raw_dataset: first", "raw_dataset: second", "raw_dataset: second"]


def test_an_alert_that_a_day_did_not_bring_through_is_given_up_and_in_the_log(
    watch: Watch, hook: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(watch.instance, error="the disk is full")
    hook.answers = [500, 500]
    monkeypatch.setattr(outbox, "KEEP_TRYING", timedelta(0))
    with pytest.raises(AlertError, match="has not reached webhook"):
        watch.tick()
    said = watch.tick()
    assert "webhook was not told, and will not be" in said
    assert "the disk is full" in said
    assert watch.tick() == "no run has ended that is to be told of"
    assert len(hook.taken) == 2


def test_more_runs_than_a_tick_looks_at_are_worked_off_in_turn(
    watch: Watch, hook: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor, "_AT_ONCE", 10)
    monkeypatch.setattr(sensor, "_MOST", 20)
    job = _job()
    for _ in range(60):
        watch.instance.report_run_failed(watch.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED))
    for _ in range(4):
        watch.tick()
    runs = [body["text"].rpartition("run ")[2] for _, body in hook.taken]
    assert len(runs) == len(set(runs)) == 60


def test_many_runs_that_wait_for_one_receiver_hide_none_from_another(
    watch: Watch, hook: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answers = [404] * 9
    monkeypatch.setattr(sensor, "_AT_ONCE", 2)
    with serve_mail() as mail:
        _name_mail_server(mail, "a@example.org", monkeypatch)
        for number in range(2):
            for _ in range(3):
                _run(watch.instance, error="no")
            with pytest.raises(AlertError, match="has not reached webhook"):
                watch.tick()
            assert len(mail.taken) == 3 * (number + 1)


def test_an_error_with_a_key_in_it_is_told_without_it(watch: Watch, hook: HookServer) -> None:
    key = "hf_" + "aB3" * 12
    _run(watch.instance, error=f"the token {key} is no longer valid")
    watch.tick()
    assert key not in json.dumps(hook.taken)
    assert "[SECRET] is no longer valid" in hook.taken[0][1]["text"]


def _name_mail_server(mail: MailServer, recipients: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_PIPELINE_ALERT_SMTP", f"smtp://ops:p%40ss%20word@127.0.0.1:{mail.port}")
    monkeypatch.setenv("FT_PIPELINE_ALERT_EMAIL_FROM", "ft@example.org")
    monkeypatch.setenv("FT_PIPELINE_ALERT_EMAIL_TO", recipients)


def _run(
    instance: dg.DagsterInstance,
    *,
    error: str | None = None,
    published: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
) -> str:
    """Run some assets by these names; the run's id."""

    @dg.asset(required_resource_keys={"pipeline"})
    @failing_plainly
    def raw_dataset() -> None:
        if error:
            # As the pipeline's errors are raised: the library's own words are the cause.
            raise DatasetError(error) from ValueError("words of a library")

    @dg.asset(deps=[raw_dataset])
    def evaluation_report() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"report": dg.MetadataValue.path("/store/report.html")})

    @dg.asset(deps=[evaluation_report])
    def published_model() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata=published)

    wanted = [raw_dataset, evaluation_report, published_model] if published else [raw_dataset]
    pipeline = dg.ResourceDefinition(lambda _context: None, config_schema=dg.Field(dict, is_required=False))
    done = dg.materialize(
        wanted, instance=instance, raise_on_error=False, tags=tags, run_config=config, resources={"pipeline": pipeline}
    )
    return str(done.run_id)


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        """Never run."""

    @dg.job
    def job() -> None:
        nothing()

    return job
