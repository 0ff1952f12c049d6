from __future__ import annotations

import pytest

from ft_pipeline.alerts.settings import read_settings
from ft_pipeline.errors import AlertError

HOOK = "https://hooks.example.org/services/T0P-S3CRET"
MAIL = {
    "FT_PIPELINE_ALERT_SMTP": "smtps://ops:p%40ss%20word@mail.example.org",
    "FT_PIPELINE_ALERT_EMAIL_FROM": "ft@example.org",
    "FT_PIPELINE_ALERT_EMAIL_TO": "a@example.org, b@example.org",
}


def test_without_variables_nobody_is_told() -> None:
    assert not read_settings({}).has_receiver


def test_failures_and_promotions_are_told_unless_it_is_said_otherwise() -> None:
    assert read_settings({}).kinds == {"failure", "promotion"}
    assert read_settings({"FT_PIPELINE_ALERT_ON": "rejection, failure"}).kinds == {"failure", "rejection"}


def test_a_mail_server_is_read_from_its_url() -> None:
    settings = read_settings(MAIL)
    server = settings.mail_server
    assert server is not None
    assert (server.host, server.port, server.is_tls) == ("mail.example.org", 465, True)
    assert (server.user, server.password) == ("ops", "p@ss word")
    assert settings.recipients == ("a@example.org", "b@example.org")


def test_the_secrets_are_not_in_what_is_printed_of_the_settings() -> None:
    shown = repr(read_settings({"FT_PIPELINE_ALERT_WEBHOOK": HOOK, **MAIL}))
    assert "S3CRET" not in shown
    assert "p@ss" not in shown


def test_plain_http_is_for_this_machine_unless_it_is_allowed() -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:9"):
        assert read_settings({"FT_PIPELINE_ALERT_WEBHOOK": f"http://{host}/x"}).webhook
    away = {"FT_PIPELINE_ALERT_WEBHOOK": "http://ntfy.lan/T0P-S3CRET"}
    with pytest.raises(
        AlertError, match=r"readable over the network to ntfy\.lan.*FT_PIPELINE_ALERT_ALLOW_HTTP=1"
    ) as err:
        read_settings(away)
    assert "S3CRET" not in str(err.value)
    assert read_settings(away | {"FT_PIPELINE_ALERT_ALLOW_HTTP": "1"}).webhook


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("FT_PIPELINE_ALERT_WEBHOOK", "https://hooks.example.org/S3CRET x", "A URL has no blanks"),
        (
            "FT_PIPELINE_ALERT_WEBHOOK",
            "https://hooks.example.org/S3CRETü",
            "is ASCII",
        ),
        ("FT_PIPELINE_ALERT_WEBHOOK", "https://büro.example/S3CRET", "xn--"),
        ("FT_PIPELINE_ALERT_WEBHOOK", "https://ops:S3CRET@hooks.example.org/x", "no user or password before its host"),
        ("FT_PIPELINE_ALERT_SMTP", "smtps://ops:S3 CRET@mail.example.org", "A URL has no blanks"),
        ("FT_PIPELINE_ALERT_SMTP", "smtps://ops:S3CRET%C3%BC@mail.example.org", "user and password must be ASCII"),
        ("FT_PIPELINE_ALERT_EMAIL_FROM", "smtps://ops:S3CRET@mail.example.org", "EMAIL_FROM: must be an address"),
        ("FT_PIPELINE_ALERT_EMAIL_TO", HOOK, "EMAIL_TO: must be an address .*what is set is none"),
        ("FT_PIPELINE_ALERT_EMAIL_TO", f"a@example.org,{HOOK}", "number 2 of 2 is none"),
        ("FT_PIPELINE_ALERT_EMAIL_TO", "d@[S3CRET", "EMAIL_TO: must be an address"),
        ("FT_PIPELINE_ALERT_EMAIL_TO", "dü@S3CRET.org", "an address in ASCII"),
        ("FT_PIPELINE_ALERT_ON", HOOK, "got what is no plain word"),
        ("FT_PIPELINE_ALERT_ON", "T0P-S3CRET", "got what is no plain word"),
    ],
)
def test_a_value_that_cannot_be_sent_or_stands_in_the_wrong_variable_is_refused_and_not_shown(
    variable: str, value: str, fault: str
) -> None:
    with pytest.raises(AlertError, match=fault) as err:
        read_settings({**MAIL, variable: value})
    assert "CRET" not in str(err.value)


def test_all_faults_are_told_at_once_and_none_shows_a_secret() -> None:
    wrong = {
        "FT_PIPELINE_ALERT_WEBHOOK": "file:///etc/S3CRET",
        "FT_PIPELINE_ALERT_SMTP": "mail.example.org:S3CRET",
        "FT_PIPELINE_ALERT_EMAIL_FROM": "ft@example.org\nBcc: x@example.org",
        "FT_PIPELINE_ALERT_ON": "failure,success",
    }
    with pytest.raises(AlertError) as err:
        read_settings(wrong)
    said = str(err.value).splitlines()
    for fault in (
        "WEBHOOK: must be a URL",
        "SMTP: must read smtps://",
        "EMAIL_FROM: must be",
        "EMAIL_TO: must be",
        "'success'",
    ):
        assert any(fault in line for line in said), fault
    assert "S3CRET" not in str(err.value)
