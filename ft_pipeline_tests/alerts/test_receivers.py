"""Alerts on their way to real servers on this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_pipeline.alerts import delivery
from ft_pipeline.alerts.alert import Alert, Fault, tell_failure
from ft_pipeline.alerts.commands import alert
from ft_pipeline.alerts.delivery import Receiver, TemporaryFault, deliver
from ft_pipeline.alerts.mail import MailReceiver
from ft_pipeline.alerts.settings import MailServer as Settings
from ft_pipeline.alerts.webhook import WebhookReceiver
from ft_pipeline.errors import AlertError
from ft_pipeline_tests.alerts.hook_server import HookServer, serve_hook
from ft_pipeline_tests.alerts.mail_server import MailServer, serve_mail
from ft_pipeline_tests.certificate import make_certificate

ALERT = Alert("failure", "a run of demo failed", ("trained_adapter: the loss is NaN", "run 12"))
PASSWORD = "p@ss word"
KEY = "hf_" + "aB3" * 12


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve_hook() as server:
        yield server


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with serve_mail() as server:
        yield server


def test_a_webhook_gets_text_as_slack_shows_it(hook: HookServer) -> None:
    WebhookReceiver(hook.url).send(ALERT)
    ((path, body),) = hook.taken
    assert path == "/hooks/T0P-S3CRET"
    assert body["text"] == "a run of demo failed\ntrained_adapter: the loss is NaN\nrun 12"
    assert (body["title"], body["kind"]) == (ALERT.title, "failure")


def test_a_busy_webhook_is_tried_again_after_a_pause(hook: HookServer) -> None:
    hook.answers, pauses = [503, 429], list[float]()
    deliver(ALERT, WebhookReceiver(hook.url), pauses.append)
    assert len(hook.taken) == 3
    assert pauses == [1.0, 4.0]


def test_a_webhook_that_refuses_is_not_asked_again_and_its_address_is_not_told(hook: HookServer) -> None:
    hook.answers = [404]
    with pytest.raises(AlertError, match=r"the webhook at 127\.0\.0\.1 must take an alert; it answered 404") as err:
        deliver(ALERT, WebhookReceiver(hook.url), _no_pause)
    assert len(hook.taken) == 1
    _assert_no_secret(err.value)


def test_an_alert_is_not_carried_on_to_where_a_webhook_redirects(hook: HookServer) -> None:
    with serve_hook() as other:
        hook.answers = [other.url]
        with pytest.raises(AlertError, match="it answered 307"):
            WebhookReceiver(hook.url).send(ALERT)
        assert other.taken == []


def test_a_webhook_that_is_not_there_is_tried_three_times_and_its_address_is_not_told() -> None:
    with serve_hook() as gone:
        url = gone.url
    pauses: list[float] = []
    with pytest.raises(
        TemporaryFault, match=r"the webhook at 127\.0\.0\.1 must be reachable: Connection refused"
    ) as err:
        deliver(ALERT, WebhookReceiver(url), pauses.append)
    assert len(pauses) == 2
    _assert_no_secret(err.value)


def test_nobody_is_pinged_and_no_link_is_faked_by_what_an_error_says(hook: HookServer) -> None:
    said = "<!channel> <http://evil.example|look> [look](http://evil.example) @everyone R&D"
    WebhookReceiver(hook.url).send(tell_failure("demo", "12", [Fault("", said)]))
    ((_, body),) = hook.taken
    assert body["text"].splitlines()[1] == (
        "&lt;!channel&gt; &lt;http://evil.example|look&gt; [look]\u2060(http://evil.example) @\u2060everyone R&amp;D"
    )
    assert body["message"].splitlines()[0] == said


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"no HTTP\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 abc\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", "LineTooLong"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 200 + b"\r\n", "HTTPException"),
    ],
)
def test_a_webhook_that_answers_oddly_may_be_tried_again(hook: HookServer, answer: bytes, kind: str) -> None:
    hook.answers = [answer]
    with pytest.raises(TemporaryFault, match=rf"must be reachable: {kind}$") as err:
        WebhookReceiver(hook.url).send(ALERT)
    _assert_no_secret(err.value)


def test_mail_reaches_all_recipients(mail: MailServer) -> None:
    _receiver(mail).send(ALERT)
    ((message, recipients),) = mail.taken
    assert recipients == ["a@example.org", "b@example.org"]
    assert message["Subject"] == ALERT.title
    assert message.get_content().splitlines() == ALERT.text.splitlines()


def test_a_recipe_cannot_write_headers(mail: MailServer) -> None:
    hostile = tell_failure("demo\r\nBcc: thief@example.org\n\nhello", "1", [Fault("", "x\r\n.\r\nMAIL FROM:<thief@x>")])
    _receiver(mail).send(hostile)
    # A title that was not made by `tell_failure`.
    _receiver(mail).send(Alert("failure", "demo\r\nBcc: thief@example.org", ("x",)))
    assert len(mail.taken) == 2
    for message, recipients in mail.taken:
        assert message["Bcc"] is None
        assert recipients == ["a@example.org", "b@example.org"]
        assert "thief@example.org" in message["Subject"]


def test_a_busy_mail_server_is_tried_again(mail: MailServer) -> None:
    mail.busy = 2
    deliver(ALERT, _receiver(mail), _no_pause)
    assert len(mail.taken) == 1


def test_a_wrong_password_is_told_without_it(mail: MailServer) -> None:
    with pytest.raises(AlertError, match=r"must take an alert; it answered 535") as err:
        deliver(ALERT, _receiver(mail, password="S3CRET"), _no_pause)
    _assert_no_secret(err.value)


@pytest.mark.parametrize(
    ("host", "password", "text"),
    [
        ("127.0.0.1", "S3CRETü", "x"),
        ("127.0.0.1", PASSWORD, "S3CRET \udcff"),
        ("x" * 70 + ".example", PASSWORD, "x"),
    ],
)
def test_what_cannot_be_written_as_smtp_is_told_without_it(
    mail: MailServer, host: str, password: str, text: str
) -> None:
    settings = Settings(host, mail.port, False, "ops", password)
    receiver = MailReceiver(settings, "ft@example.org", ("a@example.org",))
    with pytest.raises(AlertError, match=r"password and text that SMTP can carry: Unicode\w*Error$") as err:
        deliver(Alert("failure", "demo", (text,)), receiver, _no_pause)
    _assert_no_secret(err.value)


def test_a_recipient_that_is_refused_is_named_and_the_others_are_told(mail: MailServer) -> None:
    mail.refused = {"b@example.org"}
    assert deliver(ALERT, _receiver(mail), _no_pause) == f"the mail server 127.0.0.1:{mail.port} refuses b@example.org"
    assert [recipients for _, recipients in mail.taken] == [["a@example.org"]]


def test_a_server_that_refuses_all_recipients_has_not_told_anybody(mail: MailServer) -> None:
    mail.refused = {"a@example.org", "b@example.org"}
    with pytest.raises(AlertError, match=r"must take the recipients; it refuses a@example\.org, b@example\.org"):
        deliver(ALERT, _receiver(mail), _no_pause)
    assert mail.taken == []


def test_a_mail_that_was_taken_stays_taken_whatever_the_server_says_to_quit(mail: MailServer) -> None:
    mail.goodbye = "421 too many"
    assert deliver(ALERT, _receiver(mail), _no_pause) == ""
    assert len(mail.taken) == 1


def test_a_certificate_that_nobody_vouches_for_gets_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path / "certificate.pem")
    with serve_mail(certificate) as server:
        with pytest.raises(TemporaryFault, match="must be reachable: "):
            _receiver(server, is_tls=True).send(ALERT)
        assert server.taken == []
        monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(certificate))
        _receiver(server, is_tls=True).send(ALERT)
        assert len(server.taken) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"token {KEY} is wrong", "token [SECRET] is wrong"),
        ("https://me:pw@host/a?sig=abc is gone", "https://host/a?sig=*** is gone"),
        ("one\ntwo\x1b[31m\u202e\x00", "one two\\x1b[31m\\u202e\\x00"),
        ("x" * 3000, "x" * 999 + "…"),
    ],
)
def test_an_alert_says_an_error_on_one_line_without_secrets(said: str, told: str) -> None:
    told_of = tell_failure("demo", "12", [Fault("raw_dataset", said)])
    assert told_of.lines == (f"raw_dataset: {told}", "run 12")


def test_what_a_command_tells_has_no_secret_either(hook: HookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_PIPELINE_ALERT_WEBHOOK", hook.url)
    told = CliRunner().invoke(alert, [f"no backup to https://me:pw@host/a\udcff, token {KEY}"])
    assert told.exit_code == 0
    ((_, body),) = hook.taken
    assert body["message"] == "no backup to https://host/a\\udcff, token [SECRET]"


def _receiver(server: MailServer, password: str = PASSWORD, *, is_tls: bool = False) -> Receiver:
    settings = Settings("127.0.0.1", server.port, is_tls, "ops", password)
    return MailReceiver(settings, "ft@example.org", ("a@example.org", "b@example.org"))


def _no_pause(_seconds: float) -> None:
    pass


def _assert_no_secret(err: BaseException) -> None:
    assert "S3CRET" not in str(err)
    assert err.__cause__ is None
    assert err.__suppress_context__


class _Slow:
    """One that says something now and then, and comes to an end when it is let."""

    name = "slow"

    def __init__(self) -> None:
        self.done, self.sent = threading.Event(), list[Alert]()

    def send(self, alert: Alert) -> str:
        """Tell it, in the end."""
        self.sent.append(alert)
        self.done.wait()
        return ""


def test_a_receiver_that_is_slow_is_left_alone_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TRY_SECONDS", 0.2)
    receiver, other = _Slow(), Alert("failure", "another run failed", ())
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(TemporaryFault, match=r"slow must take an alert within 0\.2 s; it is still at it"):
            deliver(ALERT, receiver, _no_pause)
    with pytest.raises(TemporaryFault, match="is still at an earlier one"):
        deliver(other, receiver, _no_pause)
    assert time.monotonic() - started < 5
    receiver.done.set()
    monkeypatch.setattr(delivery, "TRY_SECONDS", 20)
    assert deliver(ALERT, receiver, _no_pause) == ""
    assert receiver.sent == [ALERT]
    deliver(other, receiver, _no_pause)
    assert receiver.sent == [ALERT, other]


def test_a_webhook_on_this_machine_is_told_past_a_proxy(hook: HookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hook() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        WebhookReceiver(hook.url).send(ALERT)
        assert (len(hook.taken), proxy.taken) == (1, [])
